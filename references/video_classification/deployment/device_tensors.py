"""Input tensors for a device, and the logits that it returns: written with a manifest, matched by name."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from caching.splits import Clips
from clips.preprocessing import Preprocessing
from deployment.onnx_network import DeviceFormat
from deployment.parity import clip_arrays
from evaluation.metrics import VideoResults, VideoScores
from runtime.errors import UserError, require
from runtime.files import replaced_file

MANIFEST = "manifest.jsonl"
NAMED = 3  # rows named in a message


class LogitsError(UserError):
    """A file of logits or a manifest that cannot be read, or that do not match; the message names the row."""


def dump_tensors(folder: Path, clips: Clips, device_format: DeviceFormat, preprocessing: Preprocessing) -> Path:
    """Writes each video's official clip as `<row>.npy`, float32 with a batch axis of 1, and the manifest.

    Args:
        folder: to write to.
        clips: the videos.
        device_format: the layout and normalization of the tensors.
        preprocessing: the mean and deviation of that normalization.

    Returns:
        The manifest's path. It is written last, with a line per video: `video`, `label` (the index of its class),
        `class`, `num_classes`, `tensor` (the file's name), `shape` and `dtype`.
    """
    files = clips.loader.dataset.folder
    lines = []
    for row, clip in clip_arrays(clips, clips.videos, "Writing tensors"):
        tensor, label = device_format.tensor(clip, preprocessing), int(files.labels[row])
        name = f"{row:06d}.npy"
        with replaced_file(folder / name) as file:
            np.save(file, tensor)
        truth = {"label": label, "class": files.classes[label], "num_classes": len(files.classes)}
        entry = {"video": files.names.string(row), **truth, "tensor": name}
        lines.append(json.dumps({**entry, "shape": tensor.shape, "dtype": str(tensor.dtype)}))
    with replaced_file(folder / MANIFEST) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return folder / MANIFEST


def read_manifest(path: Path) -> list[dict]:
    """Reads the rows of a manifest. Raises LogitsError if it is not one."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise LogitsError(f"{path} cannot be read as a manifest: {error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("video", "tensor")):
            raise LogitsError(f"{path}, line {number}: a row needs a `video` and a `tensor`")
        if not isinstance(row.get("label"), int) or row["label"] < 0:
            raise LogitsError(f"{path}, line {number}: `label` must be the index of a class")
    for key in ("video", "tensor"):
        name, times = Counter(row[key] for row in rows).most_common(1)[0] if rows else ("", 0)
        if times > 1:
            raise LogitsError(f"{path} names the {key} {name} {times} times")
    if not rows:
        raise LogitsError(f"{path} lists no tensor")
    return rows


def read_logits(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a .npz or .h5 file by name; arrays in groups of an .h5 file are named `group/name`.

    Raises:
        LogitsError: the file is of another kind, or damaged.
        MissingExtra: no h5py.
    """
    readers = {".npz": _read_npz, ".h5": _read_h5, ".hdf5": _read_h5}
    if path.suffix.lower() not in readers:
        raise LogitsError(f"{path}: logits are read from {', '.join(readers)}")
    try:
        return readers[path.suffix.lower()](path)
    except UserError:
        raise
    except Exception as error:  # damaged files make zipfile, zlib, numpy and h5py raise errors of every kind
        raise LogitsError(f"{path} cannot be read: {error}") from error


def match_rows(rows: Iterable[Mapping], arrays: Mapping[str, np.ndarray], source: Path) -> Tensor:
    """The logits of each row of a manifest, float32 (V, num_classes), matched by name and never by order.

    An array has the name of the row's `video`, or of its `tensor` with or without `.npy`, and holds one clip's logits.

    Args:
        rows: of the manifest.
        arrays: by name.
        source: the arrays' file, for messages.

    Raises:
        LogitsError: a row without an array or with several, an array without a row, other shapes, or values that are
            not finite.
    """
    unused = set(arrays)
    matched: list[tuple[str, np.ndarray]] = []
    missing = []
    for row in rows:
        names = {row["video"], row["tensor"], row["tensor"].removesuffix(".npy")} & unused
        if len(names) > 1:
            raise LogitsError(f"{source} holds several arrays for {row['video']}: {', '.join(sorted(names))}")
        unused -= names
        matched += [(row["video"], np.atleast_1d(np.squeeze(arrays[name]))) for name in names]
        missing += [] if names else [row["video"]]
    if missing or unused:
        lacking = f"no logits for {len(missing)} videos ({', '.join(missing[:NAMED])}, ...); " if missing else ""
        unknown = f"{len(unused)} arrays that the manifest does not name ({', '.join(sorted(unused)[:NAMED])}, ...)"
        raise LogitsError(f"{source} and its manifest differ: {lacking}{unknown if unused else ''}".rstrip("; "))
    for video, logits in matched:
        if logits.ndim != 1 or logits.shape != matched[0][1].shape or logits.dtype.kind not in "fiu":
            raise LogitsError(f"{source}: {video} has {logits.dtype} values of shape {logits.shape}, not logits")
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are refused below
        stacked = np.stack([logits for _, logits in matched]).astype(np.float32)
    if bad := [matched[row][0] for row in np.flatnonzero(~np.isfinite(stacked).all(1))]:
        shown = ", ".join(bad[:NAMED]) + (", ..." if len(bad) > NAMED else "")
        raise LogitsError(f"{source}: {len(bad)} of {len(stacked)} rows hold values that are not finite: {shown}")
    return torch.from_numpy(stacked)


def score_logits(manifest: Path, logits_file: Path) -> VideoResults:
    """The accuracy of a device, computed by the same code as in validation. Raises LogitsError, MissingExtra."""
    rows = read_manifest(manifest)
    logits = match_rows(rows, read_logits(logits_file), logits_file)
    num_classes = logits.shape[1]
    if others := {row["num_classes"] for row in rows if "num_classes" in row} - {num_classes}:
        raise LogitsError(f"{logits_file} has logits of {num_classes} classes, the manifest has {others.pop()}")
    if (highest := max(row["label"] for row in rows)) >= num_classes:
        raise LogitsError(f"{logits_file} has logits of {num_classes} classes, and the manifest names class {highest}")
    targets, videos = torch.tensor([row["label"] for row in rows]), torch.arange(len(rows))
    scores = VideoScores(targets, num_classes, clips_per_video=1)
    scores.update(videos, logits, F.cross_entropy(logits, targets, reduction="none"))
    return scores.reduce(videos)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            raise LogitsError(f"{path} is a single array, not an .npz file of named arrays")
        with arrays:
            return dict(arrays)


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    h5py = require("h5py")
    arrays = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return arrays
