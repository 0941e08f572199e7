"""Input tensors for a device, and the logits that come back: written with a manifest, matched by name. A room of its
own between export and scoring, which may run weeks and machines apart.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from caching.splits import Clips
from clips.preprocessing import Preprocessing
from deployment.onnx_network import DeviceFormat
from deployment.parity import clip_arrays
from runtime.errors import UserError, require
from runtime.files import replaced_file

MANIFEST = "manifest.jsonl"
NAMED = 3  # rows in a message


class LogitsError(UserError):
    """Logits that do not fit their manifest, or a file that is neither; the message names the row."""


def dump_tensors(folder: Path, clips: Clips, device_format: DeviceFormat, preprocessing: Preprocessing) -> Path:
    """Writes each video's official clip to `folder` as `<row>.npy`, float32 with a batch axis of 1, and the manifest.

    Returns:
        The manifest, written last: a line a video with `video`, `label` (the index of its class), `class`,
        `num_classes`, `tensor` (the file's name), `shape` and `dtype`.
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
    """The rows of a manifest. Raises LogitsError where it is none."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise LogitsError(f"{path} cannot be read as a manifest: {error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("video", "tensor")):
            raise LogitsError(f"{path}, line {number}: a row needs the names `video` and `tensor`")
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
    """The arrays of a .npz or .h5 file by name; of an .h5 file's arrays in groups, by `group/name`.

    Raises:
        LogitsError: another kind of file, or one that is damaged.
        MissingExtra: no h5py.
    """
    readers = {".npz": _read_npz, ".h5": _read_h5, ".hdf5": _read_h5}
    if path.suffix.lower() not in readers:
        raise LogitsError(f"{path}: logits are read from {', '.join(readers)}")
    try:
        return readers[path.suffix.lower()](path)
    except UserError:
        raise
    except Exception as error:  # a damaged file ends zipfile, zlib, numpy and h5py in errors of every kind
        raise LogitsError(f"{path} cannot be read: {error}") from error


def match_rows(rows: Iterable[Mapping], arrays: Mapping[str, np.ndarray], source: Path) -> Tensor:
    """The logits of each row of a manifest, float32 (V, num_classes), by the row's names and never by order.

    An array is named as the row's `video`, or its `tensor` with or without the ending, and holds one clip's logits.

    Raises:
        LogitsError: a row without an array, or with several; an array without a row; other shapes; values that are
            not numbers, or infinite.
    """
    unused = set(arrays)
    matched, missing = [], []
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
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
        logits = np.stack([logits for _, logits in matched]).astype(np.float32)
    if bad := [matched[row][0] for row in np.flatnonzero(~np.isfinite(logits).all(1))]:
        shown = ", ".join(bad[:NAMED]) + (", ..." if len(bad) > NAMED else "")
        raise LogitsError(f"{source}: {len(bad)} of {len(logits)} rows hold values that are no finite numbers: {shown}")
    return torch.from_numpy(logits)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            raise LogitsError(f"{path} is a single array, not an .npz file of arrays with names")
        with arrays:
            return dict(arrays)


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    h5py = require("h5py")
    arrays = {}

    def add(name: str, item) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return arrays
