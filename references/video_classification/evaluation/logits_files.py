"""Files of logits by video and clip: written by `--save-logits`, read as the teacher of a distillation.

The file may come from any framework, so everything in it is checked. It is an `.npz` file of numpy, without pickled
objects:

    videos    text (N,): the video of each row, relative to the folder of its split: `squats/00000012.mp4`
    clips     int (N,): the number of the clip within its video; may be absent where each video has one row
    logits    float (N, K): before the softmax
    classes   text (K,): names of the columns, in their order
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clips.samplers import Sample
from runtime.columns import read_arrays
from runtime.distributed import gather_objects, is_main, print_main
from runtime.errors import UserError, listed, reason_of
from runtime.files import replaced_file
from videos.folder import VideoFolder
from videos.index import RowMatcher

COLUMNS = ("videos", "clips", "logits", "classes")
NAMED = 5  # missing videos named in a message


class LogitsWriter:
    """Collects the logits of a validation from all processes and writes them to `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._samples: list[Sample] = []
        self._logits: list[Tensor] = []

    def add(self, samples: Sequence[Sample], logits: Tensor) -> None:
        """Collects the logits (B, num_classes) of a batch."""
        self._samples += samples
        self._logits.append(logits.float().cpu())

    def write(self, folder: VideoFolder) -> None:
        """Writes the logits that all processes collected of videos of `folder`. Raises UserError."""
        own = torch.cat(self._logits).numpy() if self._logits else np.zeros((0, len(folder.classes)), np.float32)
        parts = gather_objects((self._samples, own))
        if not is_main():
            return
        samples = [sample for part, _ in parts for sample in part]
        try:
            with replaced_file(self._path) as file:
                np.savez(
                    file,
                    videos=np.array([folder.names.string(sample.video) for sample in samples], str),
                    clips=np.array([sample.clip for sample in samples], np.int64),
                    logits=np.concatenate([logits for _, logits in parts]),
                    classes=np.array(folder.classes, str),
                )
        except OSError as error:
            raise UserError(f"{self._path} cannot be written: {reason_of(error)}") from error
        print_main(f"Logits of {len(samples)} clips: {self._path}")


def read_teacher(path: Path, folder: VideoFolder, videos: Tensor, temperature: float) -> Tensor:
    """A teacher's probabilities for each video of `folder`, the mean over its clips of softmax(logits / temperature).

    They are float32 (len(folder), num_classes), zeros for videos that are neither in the file nor in `videos`. Raises
    UserError where the file cannot be read, has another format or other classes, or lacks videos.

    Args:
        path: the file.
        folder: its videos are matched with the rows by name, its classes with the columns.
        videos: int64, the rows of `folder` that the file must hold.
        temperature: a number above 0.
    """
    names, logits, classes = _read(path)
    if sorted(classes) != sorted(folder.classes):
        lacking, further = sorted(set(folder.classes) - set(classes)), sorted(set(classes) - set(folder.classes))
        raise UserError(
            f"{path} has other classes than the data, or one of them twice: it lacks {', '.join(lacking) or 'none'}; "
            f"it also has {', '.join(further) or 'none'}"
        )
    columns = [classes.index(name) for name in folder.classes]
    rows = torch.from_numpy(RowMatcher(folder).find(names))
    known = rows >= 0
    probabilities = (torch.from_numpy(logits[:, columns])[known].double() / temperature).softmax(1)
    sums = torch.zeros(len(folder), len(columns), dtype=torch.float64).index_add_(0, rows[known], probabilities)
    counts = rows[known].bincount(minlength=len(folder))
    missing = videos[counts[videos] == 0].tolist()
    if missing:
        shown = listed([folder.names.string(video) for video in missing], NAMED)
        raise UserError(
            f"{path} lacks {len(missing)} of the {len(videos)} training videos: {shown}. Write it for the whole "
            "split, with names relative to it: train.py --test-only --eval-split train --save-logits"
        )
    return (sums / counts.clamp(min=1)[:, None]).float()


def _read(path: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Reads and checks a file: names of N videos, logits (N, K), names of K classes. Raises UserError."""
    try:
        with open(path, "rb") as file:
            arrays = read_arrays(file, COLUMNS)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as .npz without pickled objects: {error}") from error
    if lacking := [name for name in COLUMNS if name not in arrays and name != "clips"]:
        raise UserError(f"{path} is not a file of logits: it has no `{lacking[0]}`")
    videos, logits, classes = (arrays[name] for name in ("videos", "logits", "classes"))
    clips = arrays.get("clips", np.zeros(videos.shape, np.int64))
    is_text = videos.dtype.kind == "U" and classes.dtype.kind == "U"
    fits = (
        videos.ndim == classes.ndim == 1 and logits.shape == (videos.size, classes.size) and clips.shape == videos.shape
    )
    if not (is_text and fits and logits.dtype.kind == "f" and clips.dtype.kind in "iu"):
        raise UserError(
            f"{path} is not a file of logits: expected text `videos` (N,), float `logits` (N, K), text `classes` (K,) "
            f"and int `clips` (N,) if any; it has {videos.dtype} {videos.shape}, {logits.dtype} {logits.shape}, "
            f"{classes.dtype} {classes.shape}, {clips.dtype} {clips.shape}"
        )
    with np.errstate(over="ignore"):
        logits = logits.astype(np.float32)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits).all(1)).sum())
        raise UserError(f"{path}: {bad} rows hold logits that are NaN or infinite, or too large for float32")
    names = videos.tolist()
    for (name, clip), times in Counter(zip(names, clips.tolist(), strict=True)).most_common(1):
        if times > 1:
            raise UserError(f"{path} holds clip {clip} of {name} {times} times")
    return names, logits, classes.tolist()
