"""Input tensors for a device: as `.npy` files, as AI Hub's `.h5` input sets, and the manifest that lists them."""

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from caching.splits import ClipOptions, Clips, open_clips
from clips.preprocessing import Preprocessing
from deployment.onnx_network import INPUT, DeviceFormat
from deployment.parity import clip_arrays
from network.trained_model import TrainedModel
from runtime.errors import require
from runtime.files import replaced_file
from videos.folder import VideoFolder

MANIFEST = "manifest.jsonl"
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
    for stale in folder.glob("inputs_*.h5"):  # of an earlier set that may have had more chunks
        stale.unlink()

    def written(videos: Tensor) -> Iterator[np.ndarray]:
        for row, clip in clip_arrays(clips, videos, "Writing tensors"):
            tensor = device_format.tensor(clip, preprocessing)
            with replaced_file(folder / tensor_name(row)) as file:
                np.save(file, tensor)
            yield tensor

    for number, videos in enumerate(clips.videos.split(CHUNK_CLIPS)):
        write_input_set(folder / input_set_name(number), written(videos), len(videos))
    return write_manifest(folder, clips, device_format.shape(preprocessing, 1))


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
    with replaced_file(path) as file, h5py.File(file, "w") as h5:
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
