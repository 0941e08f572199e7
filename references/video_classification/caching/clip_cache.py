"""Decoded strips on disk, memory-mapped: each video is decoded once, and training then reads crops out of the map.

A video's entry holds the frames that selectors can ask for (the official strip, and candidates at `candidate_rate` if
there is one) as uint8 at the resize size, the official pixels rounded, with the video's frame count and rate. Entries
are keyed by the file's name, size and modification time; the folder of the shards by everything else that the pixels
depend on. `cache_building` writes them. Motion curves, which need every frame, are kept in the index of the videos.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from caching.jpeg import decode_jpeg
from caching.shards import CacheError, open_shards
from clips.preprocessing import Preprocessing
from runtime.columns import Ragged
from runtime.files import replaced_file, text_of
from videos.frame_selection import official_strip
from videos.index import Files, RowMatcher, VideoIndex
from videos.pixels import RGB_RULE
from videos.resizing import Crop, Region

FORMAT_VERSION = 2
CACHE_FORMATS = ("raw", "jpeg")
UNREADABLE = "unreadable_videos.json"  # unreadable.json of earlier versions also has what may have passed since


@dataclass(frozen=True)
class CacheSettings:
    """Everything but the file itself that an entry depends on."""

    preprocessing: Preprocessing
    encoding: str = "raw"  # one of CACHE_FORMATS

    def folder(self, cache_dir: Path, root: Path) -> Path:
        """Where the shards of the videos under `root` lie."""
        key = json.dumps(self.key(root), sort_keys=True)
        return cache_dir / hashlib.sha256(key.encode()).hexdigest()[:16]

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of every frame. Raises CacheError where they would depend on the video."""
        if (size := self.preprocessing.frame_size) is None:
            raise CacheError("a clip cache holds frames of one size: give the resize sizes as height and width")
        return size

    def key(self, root: Path) -> dict[str, Any]:
        """What tells this cache of `root` from any other. Crop, mean, std and selection do not: entries ignore them."""
        wanted = self.preprocessing
        return {
            "version": FORMAT_VERSION,
            "libraries": {name: av.library_versions[name] for name in ("libavcodec", "libswscale")},
            "rgb": RGB_RULE,
            "root": text_of(str(root.resolve())),
            "size": wanted.resize_size,
            "clip_len": wanted.clip_len,
            # 4 and 4.0 are the same rate, but would not be the same text.
            "frame_rate": float(wanted.frame_rate),
            "candidate_rate": wanted.candidate_rate and float(wanted.candidate_rate),
            "encoding": self.encoding,
        }

    def frames_to_keep(self, num_frames: int, fps: float) -> np.ndarray:
        """Sorted distinct frame indices: int64 (F,)."""
        wanted = self.preprocessing
        rates = [rate for rate in (wanted.frame_rate, wanted.candidate_rate) if rate is not None]
        strips = [official_strip(num_frames, fps, rate, wanted.clip_len) for rate in rates]
        return torch.cat(strips).unique().numpy()


class ClipCache:
    """The entries of `files`, one row per video, as the shards on disk hold them.

    Attributes:
        index: frame counts, rates, and why videos cannot be read; 0 frames for a video that is missing. Motion curves
            where an earlier version of the cache put them beside the frames.
        missing: int64, videos that are neither in the cache nor known to be unreadable.
        damage: what is wrong with the shards that are not used.
        unused: shards that hold no video as it is now.
    """

    dtype: type = np.uint8
    is_fast = True

    def __init__(self, files: Files, settings: CacheSettings, folder: Path) -> None:
        self.settings, self.folder, self.files = settings, folder, files
        self.source = f"clip cache {folder.name}"
        self.reload()

    def reload(self) -> None:
        """Reads the shards again, after some were added."""
        self._shards, self.damage = open_shards(self.folder)
        count = len(self.files)
        self._shard_of, self._row_of = np.full(count, -1, np.int32), np.zeros(count, np.int32)
        num_frames, fps, upright = np.zeros(count, np.int64), np.zeros(count), np.ones(count, bool)
        matcher = RowMatcher(self.files)
        for number, shard in enumerate(self._shards):
            rows, videos = matcher.unchanged(shard.columns)
            self._shard_of[videos], self._row_of[videos] = number, rows
            num_frames[videos], fps[videos] = shard.columns["num_frames"][rows], shard.columns["fps"][rows]
            upright[videos] = shard.columns["upright"][rows]
        reasons = read_unreadable(self.folder, matcher)
        self.index = VideoIndex(num_frames, fps, upright, _Rows(self, "motion"), reasons)
        self._frames, self._frame_bytes = _Rows(self, "frames"), _Rows(self, "frame_bytes")
        is_known = self._shard_of >= 0
        is_known[list(reasons)] = True
        self.missing = np.flatnonzero(~is_known)
        used = set(self._shard_of.tolist())
        self.unused = [shard for number, shard in enumerate(self._shards) if number not in used]

    def column_row(self, name: str, video: int) -> np.ndarray:
        """The video's row of a ragged column of its shard; empty if it has no entry, or the shard no such column."""
        if self._shard_of[video] < 0 or name not in (columns := self._shards[self._shard_of[video]].columns):
            return np.zeros(0, np.uint8)
        return columns[name][self._row_of[video]]

    def read_into(self, clip: np.ndarray, video: int, indices: np.ndarray, region: Region | Crop) -> None:
        """Writes the crop of the frames at `indices` to `clip`, uint8 (T, H, W, C). Raises CacheError."""
        frames, positions = self.stored_frames(video), self.positions(video, indices)
        COPIERS[self.settings.encoding](clip, frames, positions, region.within(self.settings.frame_size))

    def positions(self, video: int, indices: np.ndarray) -> np.ndarray:
        """Positions in `stored_frames` of the frames at `indices`. Raises CacheError for a frame that is not kept."""
        kept = self._frames[video]
        positions = kept.searchsorted(indices)
        if positions[-1] >= len(kept) or (kept[positions] != indices).any():
            raise CacheError(
                f"{self.files.path(video)}: the clip cache does not hold its frames {indices.tolist()}: "
                "add --cache-frame-rate FPS, which keeps more of them"
            )
        return positions

    def stored_frames(self, video: int) -> np.ndarray | list[Tensor]:
        """All frames kept of a video: raw, a uint8 (F, H, W, C) view of the map; jpeg, the bytes of each."""
        blob = self._shards[self._shard_of[video]].blob(self._row_of[video])
        if self.settings.encoding == "raw":
            return blob.reshape(-1, *self.settings.frame_size, 3)
        return list(torch.from_numpy(blob).split(self._frame_bytes[video].tolist()))


def copy_raw(clip: np.ndarray, frames: np.ndarray, positions: np.ndarray, region: Region) -> None:
    """Copies the crop of the frames at `positions` out of the map to `clip`."""
    top, left, height, width = region
    crops = frames[:, top : top + height, left : left + width]
    first, last = positions[0], positions[-1]
    if last - first == len(positions) - 1 and (positions[1:] > positions[:-1]).all():
        clip[:] = crops[first : last + 1]  # the official clip: one copy of one slice
    else:
        for target, position in enumerate(positions):
            clip[target] = crops[position]


def copy_jpeg(clip: np.ndarray, frames: list[Tensor], positions: np.ndarray, region: Region) -> None:
    """Decodes the frames at `positions` and copies their crop to `clip`."""
    top, left, height, width = region
    for target, position in enumerate(positions.tolist()):
        frame = decode_jpeg(frames[position])  # (C, H, W)
        clip[target] = frame[:, top : top + height, left : left + width].permute(1, 2, 0).numpy()


COPIERS: dict[str, Callable[..., None]] = {"raw": copy_raw, "jpeg": copy_jpeg}


class _Rows:
    """A ragged column over all videos, left in the shards; empty for a video without an entry."""

    def __init__(self, cache: ClipCache, name: str) -> None:
        self._cache, self._name = cache, name

    def __getitem__(self, video: int) -> np.ndarray:
        return self._cache.column_row(self._name, video)


def read_unreadable(folder: Path, matcher: RowMatcher) -> dict[int, str]:
    """Why videos cannot be read, by video: what earlier runs noted, for the files that have not changed since."""
    try:
        noted = json.loads((folder / UNREADABLE).read_bytes())
        sizes, mtimes_ns, reasons = zip(*noted.values(), strict=True) if noted else ((), (), ())
        columns = {"sizes": np.array(sizes, np.int64), "mtimes_ns": np.array(mtimes_ns, np.int64)}
        rows, videos = matcher.unchanged({"names": Ragged.of_strings(noted), **columns})
        return {video: reasons[row] for row, video in zip(rows.tolist(), videos.tolist(), strict=True)}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):  # nothing noted, or damaged: look again
        return {}


def write_unreadable(folder: Path, files: Files, reasons: dict[int, str]) -> None:
    """Notes `reasons` for the next run. Raises OSError."""
    rows = {
        files.names.string(video): (int(files.sizes[video]), int(files.mtimes_ns[video]), reason)
        for video, reason in reasons.items()
    }
    with replaced_file(folder / UNREADABLE) as file:
        file.write(json.dumps(rows).encode())
