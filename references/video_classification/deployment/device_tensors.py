"""What goes to a device and comes back: input tensors as `.npy` files and as AI Hub's `.h5` input sets, the manifest
that lists them, and logits, which are matched with its rows and scored as in validation.
"""

import errno
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from caching.splits import ClipOptions, Clips, open_clips
from clips.preprocessing import Preprocessing
from deployment.onnx_network import INPUT, DeviceFormat
from deployment.parity import clip_arrays
from evaluation.metrics import VideoResults, VideoScores
from network.trained_model import TrainedModel
from runtime.errors import UserError, listed, require
from runtime.files import replaced_file
from videos.folder import VideoFolder

MANIFEST = "manifest.jsonl"
NAMED = 3  # rows named in a message
_TENSOR, _INPUT_SET = re.compile(r"\d{6,}\.npy").fullmatch, re.compile(r"inputs_\d{3,}\.h5").fullmatch  # names of ours
_PLACE = re.compile(r"data/\d+/batch_\d+")  # of an output in AI Hub's `.h5`
SPARE_BYTES = 16 << 20  # of the disk; what HDF5 has yet to write when a clip is added is far less
CHUNK_CLIPS = 538  # in an input set, as the challenge's evaluator sends them: 1.2 GiB for clips of 16x112x112


def open_official_clips(
    folder: Path,
    model: TrainedModel,
    *,
    cache_dir: Path | None,
    skip_unreadable: bool,
    num_workers: int,
    batch_size: int = 1,
) -> Clips:
    """The official clips of a split, read from the videos in float.

    Raises DatasetError where the folder is missing, has other classes, or holds files that cannot be read.

    Args:
        folder: holds the videos by class.
        model: whose classes and preprocessing they take.
        cache_dir: of the index, by default beside the split.
        skip_unreadable: go on without files that cannot be read.
        num_workers: processes that decode.
        batch_size: clips in a batch.
    """
    options = ClipOptions(
        model.preprocessing,
        cache_dir=cache_dir or folder.parent / ".clip_cache",
        skip_unreadable=skip_unreadable,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    clips = open_clips(VideoFolder(folder, model.classes), options)
    return replace(clips, seen=model.seen_data == folder.parent.resolve())


def drawn_videos(clips: Clips, count: int) -> Tensor:
    """`count` of the videos, or all, drawn at random and always the same: int64 (count,), rows of the folder."""
    return clips.videos[torch.randperm(len(clips.videos), generator=torch.Generator().manual_seed(0))[:count]]


def dump_tensors(folder: Path, clips: Clips, device_format: DeviceFormat, preprocessing: Preprocessing) -> Path:
    """Writes each official clip as `<row>.npy`, float32 with a batch axis of 1, and the manifest. Returns its path.

    The same tensors are written as `inputs_<number>.h5`, the input sets that AI Hub takes, CHUNK_CLIPS clips each. The
    manifest is written last, with a line per video: `video`, `label` (the index of its class), `class`, `num_classes`,
    `tensor` (the file's name), `shape` and `dtype`. Raises MissingExtra without h5py.

    Args:
        folder: to write to.
        clips: the videos.
        device_format: the layout and normalization of the tensors.
        preprocessing: the mean and deviation of that normalization.
    """
    require("h5py")
    remove_earlier_tensors(folder)

    def written(videos: Tensor) -> Iterator[np.ndarray]:
        for row, clip in clip_arrays(clips, videos, "Writing tensors"):
            tensor = device_format.tensor(clip, preprocessing)
            with replaced_file(folder / tensor_name(row)) as file:
                np.save(file, tensor)
            yield tensor

    for number, videos in enumerate(clips.videos.split(CHUNK_CLIPS)):
        write_input_set(folder / input_set_name(number), written(videos), len(videos))
    return write_manifest(folder, clips, device_format.shape(preprocessing, 1))


def remove_earlier_tensors(folder: Path) -> None:
    """Removes what `dump_tensors` wrote: it may be of more videos, and its manifest is not that of other tensors.

    Raises UserError where the manifest is that of another program.
    """
    manifest = folder / MANIFEST
    tensors = {row["tensor"] for row in read_manifest(manifest)} if manifest.exists() else set()
    manifest.unlink(missing_ok=True)
    for path in list(folder.glob("*")):
        if _INPUT_SET(path.name) or path.name in tensors and _TENSOR(path.name):
            path.unlink()


def write_manifest(folder: Path, clips: Clips, shape: tuple[int, ...]) -> Path:
    """Writes the manifest of tensors of this shape, a line per video in the order of `clips.videos`."""
    files = clips.loader.dataset.folder
    lines = []
    for row in clips.videos.tolist():
        label = int(files.labels[row])
        truth = {"label": label, "class": files.classes[label], "num_classes": len(files.classes)}
        entry = {"video": files.names.string(row), **truth, "tensor": tensor_name(row)}
        lines.append(json.dumps({**entry, "shape": shape, "dtype": "float32"}))
    with replaced_file(folder / MANIFEST) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return folder / MANIFEST


def tensor_name(row: int) -> str:
    """The file of a video's tensor; `row` is that of the folder."""
    return f"{row:06d}.npy"


def input_set_name(number: int) -> str:
    """The file of a chunk of tensors."""
    return f"inputs_{number:03d}.h5"


def write_input_set(path: Path, tensors: Iterable[np.ndarray], count: int) -> Path:
    """Writes the tensors of `count` clips as an input set of AI Hub, an `.h5` file, whole or not at all.

    The form is that of `qai_hub.util.dataset_entries_converters`, written clip by clip, since a chunk takes gigabytes.
    Raises MissingExtra without h5py, OSError where the file cannot be written.
    """
    h5py = require("h5py")
    # By its name: HDF5 would write to an object through Python, and crash the process where Ctrl-C comes meanwhile.
    with replaced_file(path) as file, h5py.File(file.name, "w") as h5:
        group = h5.create_group("data/0")
        group.attrs["order"], group.attrs["name"], group.attrs["batch_count"] = 0, INPUT, count
        for tensor in tensors:
            # HDF5 crashes the process where it cannot write.
            if shutil.disk_usage(path.parent).free < tensor.nbytes + SPARE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
            group.create_dataset(f"batch_{len(group)}", data=tensor, compression="gzip")
        if len(group) != count:
            raise RuntimeError(f"{path}: {len(group)} clips instead of {count}")
    return path


def read_manifest(path: Path) -> list[dict]:
    """Reads the rows of a manifest. Raises UserError if it is not one."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a manifest: {error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("video", "tensor")):
            raise UserError(f"{path}, line {number}: a row needs a `video` and a `tensor`")
        if not isinstance(row.get("label"), int) or row["label"] < 0:
            raise UserError(f"{path}, line {number}: `label` must be the index of a class")
    for key in ("video", "tensor"):
        name, times = Counter(row[key] for row in rows).most_common(1)[0] if rows else ("", 0)
        if times > 1:
            raise UserError(f"{path} names the {key} {name} {times} times")
    if not rows:
        raise UserError(f"{path} lists no tensor")
    return rows


def read_logits(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a .npz or .h5 file by name; arrays in groups of an .h5 file are named `group/name`.

    Raises UserError where it is of another kind or damaged, MissingExtra without h5py.
    """
    readers = {".npz": _read_npz, ".h5": _read_h5, ".hdf5": _read_h5}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: logits are read from {', '.join(readers)}")
    try:
        return readers[path.suffix.lower()](path)
    except UserError:
        raise
    except Exception as error:  # damaged files make zipfile, zlib, numpy and h5py raise errors of every kind
        raise UserError(f"{path} cannot be read: {error}") from error


def match_rows(rows: Iterable[Mapping], arrays: Mapping[str, np.ndarray], source: str | Path) -> Tensor:
    """The logits of each row of a manifest, float32 (V, num_classes), matched by name and never by order.

    An array has the name of the row's `video`, or of its `tensor` with or without `.npy`, and holds one clip's logits.
    `source` says where the arrays come from, in messages.

    Raises UserError: a row without an array or with several, an array without a row, other shapes, or values that are
    not finite.
    """
    unused = set(arrays)
    matched: list[tuple[str, np.ndarray]] = []
    missing = []
    for row in rows:
        names = {row["video"], row["tensor"], row["tensor"].removesuffix(".npy")} & unused
        if len(names) > 1:
            raise UserError(f"{source} holds several arrays for {row['video']}: {', '.join(sorted(names))}")
        unused -= names
        matched += [(row["video"], np.atleast_1d(np.squeeze(arrays[name]))) for name in names]
        missing += [] if names else [row["video"]]
    if missing or unused:
        lacking = f"no logits for {len(missing)} videos ({listed(missing, NAMED)}); " if missing else ""
        unknown = f"{len(unused)} arrays that the manifest does not name ({listed(sorted(unused), NAMED)})"
        raise UserError(f"{source} and its manifest differ: {lacking}{unknown if unused else ''}".rstrip("; "))
    for video, logits in matched:
        if logits.ndim != 1 or logits.shape != matched[0][1].shape or logits.dtype.kind not in "fiu":
            raise UserError(f"{source}: {video} has {logits.dtype} values of shape {logits.shape}, not logits")
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are refused below
        stacked = np.stack([logits for _, logits in matched]).astype(np.float32)
    if bad := [matched[row][0] for row in np.flatnonzero(~np.isfinite(stacked).all(1))]:
        which = f"{len(bad)} of {len(stacked)} rows"
        raise UserError(f"{source}: {which} hold values that are not finite: {listed(bad, NAMED)}")
    return torch.from_numpy(stacked)


def score_logits(manifest: Path, files: Sequence[Path]) -> VideoResults:
    """The accuracy of a device, computed by the same code as in validation. Raises UserError, MissingExtra."""
    rows = read_manifest(manifest)
    source = ", ".join(map(str, files))
    logits = match_rows(rows, read_files(rows, files), source)
    num_classes = logits.shape[1]
    if others := {row["num_classes"] for row in rows if "num_classes" in row} - {num_classes}:
        raise UserError(f"{source} has logits of {num_classes} classes, the manifest has {others.pop()}")
    if (highest := max(row["label"] for row in rows)) >= num_classes:
        raise UserError(f"{source} has logits of {num_classes} classes, and the manifest names class {highest}")
    return results_of(torch.tensor([row["label"] for row in rows]), torch.arange(len(rows)), logits)


def read_files(rows: Sequence[Mapping], files: Sequence[Path]) -> dict[str, np.ndarray]:
    """The arrays of all files by name. Outputs in AI Hub's `.h5` have no names: they get those of `rows`, in order.

    Raises UserError: a file cannot be read; a name comes twice; or the outputs are not as many as the rows.
    """
    contents = [read_logits(path) for path in files]
    by_place = [bool(arrays) and all(map(_PLACE.fullmatch, arrays)) for arrays in contents]
    if not any(by_place):
        names = Counter(name for arrays in contents for name in arrays)
        if twice := [name for name, times in names.items() if times > 1]:
            raise UserError(f"{twice[0]} is in {names[twice[0]]} of {', '.join(map(str, files))}")
        return {name: array for arrays in contents for name, array in arrays.items()}
    if not all(by_place):
        named = files[by_place.index(False)]
        raise UserError(f"{named} is not an .h5 file of AI Hub, and {files[by_place.index(True)]} is: give one kind")
    outputs = [array for path, arrays in zip(files, contents, strict=True) for array in _in_order(path, arrays)]
    if len(outputs) != len(rows):
        counts = ", ".join(f"{path} {len(arrays)}" for path, arrays in zip(files, contents, strict=True))
        raise UserError(
            f"the manifest lists {len(rows)} videos, and there are {len(outputs)} outputs ({counts}): "
            "give every chunk, in the order of the manifest"
        )
    return {row["tensor"]: output for row, output in zip(rows, outputs, strict=True)}


def results_of(labels: Tensor, videos: Tensor, logits: Tensor) -> VideoResults:
    """Scores one clip per video, given the class of every video, int64 (N,), the V of them that were scored, and their
    logits, float32 (V, num_classes).
    """
    scores = VideoScores(labels, logits.shape[1], clips_per_video=1)
    scores.update(videos, logits, F.cross_entropy(logits, labels[videos], reduction="none"))
    return scores.reduce(videos)


def write_logits(path: Path, rows: Iterable[Mapping], logits: np.ndarray) -> None:
    """Writes logits (V, num_classes) as `.npz`, an array a row of the manifest, named by its `tensor`."""
    with replaced_file(path) as file:
        np.savez(file, **{row["tensor"]: values for row, values in zip(rows, logits, strict=True)})


def _in_order(path: Path, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a file of AI Hub. Raises UserError where there are several for a clip, or one is missing."""
    places = {tuple(map(int, name.removeprefix("data/").split("/batch_"))): array for name, array in arrays.items()}
    if len({output for output, _ in places}) > 1:
        raise UserError(f"{path} holds several outputs for each clip: a classifier has one, its logits")
    ordered = sorted(places)
    if missing := [clip for clip, (_, place) in enumerate(ordered) if place != clip]:
        raise UserError(f"{path} lacks the output of clip {missing[0]}: download it again")
    return [places[place] for place in ordered]


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            raise UserError(f"{path} is a single array, not an .npz file of named arrays")
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
