"""Decoded strips on disk, memory-mapped: each video is decoded once, and training then reads crops out of the map.

A video's entry holds the frames that its selectors can ask for - the official strip, and candidates at
`candidate_rate` where one is given - as uint8 at the resize size (the official pixels, rounded), with the video's
frame count, rate and motion curve. Entries are keyed by the file's name, size and modification time; the folder of the
shards by everything else that the pixels depend on. `cache_building` writes them.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from caching.jpeg import decode_jpeg
from caching.shards import Shard, ShardError, open_shards
from runtime.errors import UserError
from runtime.files import replaced_file
from videos.decoding import RGB_RULE
from videos.frame_selection import official_strip
from videos.index import Files, VideoIndex
from videos.resizing import Region

FORMAT_VERSION = 2
CACHE_FORMATS = ("raw", "jpeg")
UNREADABLE = "unreadable.json"


class CacheError(UserError):
    """The cache cannot be built or used as asked; the message says what to do."""


@dataclass(frozen=True)
class CacheSettings:
    """Everything but the file itself that an entry depends on.

    size: height and width of the stored frames. candidate_rate: frames a second kept beside the official strip, for
    selectors that look beyond it. encoding: one of CACHE_FORMATS.
    """

    size: tuple[int, int]
    clip_len: int
    frame_rate: float
    candidate_rate: float | None = None
    encoding: str = "raw"

    def folder(self, cache_dir: Path, root: Path) -> Path:
        """Where the shards of the videos under `root` lie."""
        key = json.dumps(self.key(root), sort_keys=True)
        return cache_dir / hashlib.sha256(key.encode()).hexdigest()[:16]

    def key(self, root: Path) -> dict:
        """All that tells this cache of `root` from any other."""
        libraries = {name: av.library_versions[name] for name in ("libavcodec", "libswscale")}
        key = {"root": str(root.resolve()), "libraries": libraries, "rgb": RGB_RULE, "version": FORMAT_VERSION}
        key |= asdict(self)
        # 4 and 4.0 are the same rate, and would not be the same text.
        return key | {name: key[name] and float(key[name]) for name in ("frame_rate", "candidate_rate")}

    def frames_to_keep(self, num_frames: int, fps: float) -> np.ndarray:
        """Sorted distinct frame indices: int64 (F,)."""
        strip = official_strip(num_frames, fps, self.frame_rate, self.clip_len)
        if self.candidate_rate is not None:
            strip = torch.cat([strip, official_strip(num_frames, fps, self.candidate_rate, self.clip_len)])
        return strip.unique().numpy()


class ClipCache:
    """The entries of `files`, one row a video, as the shards on disk hold them.

    Attributes:
        index: frame counts, rates, motion curves, and why videos were found unreadable; no frames where a video is
            missing.
        missing: videos that are neither in the cache nor known to be unreadable, int64.
        damage: what is wrong with the shards that were left out.
        unused: shards of which no video is left as it was.
    """

    dtype = np.uint8
    is_fast = True

    def __init__(self, files: Files, settings: CacheSettings, folder: Path) -> None:
        self.settings, self.folder, self.files = settings, folder, files
        self.source = f"clip cache {folder.name}"
        self.reload()

    def reload(self) -> None:
        """Reads the shards again, after they were added to."""
        self.damage: list[ShardError]
        self._shards, self.damage = open_shards(self.folder)
        count = len(self.files)
        self._shard_of, self._row_of = np.full(count, -1, np.int32), np.zeros(count, np.int32)
        num_frames, fps, upright = np.zeros(count, np.int64), np.zeros(count), np.ones(count, bool)
        video_of = {name: video for video, name in enumerate(self.files.names.strings())}
        for number, shard in enumerate(self._shards):
            rows, videos = self._rows_as_they_are(shard, video_of)
            self._shard_of[videos], self._row_of[videos] = number, rows
            num_frames[videos], fps[videos] = shard.columns["num_frames"][rows], shard.columns["fps"][rows]
            upright[videos] = shard.columns["upright"][rows]
        reasons = read_unreadable(self.folder, self.files, video_of)
        self.index = VideoIndex(num_frames, fps, upright, _Rows(self, "motion"), reasons)
        self._frames, self._frame_bytes = _Rows(self, "frames"), _Rows(self, "frame_bytes")
        is_known = self._shard_of >= 0
        is_known[list(reasons)] = True
        self.missing = np.flatnonzero(~is_known)
        used = set(self._shard_of.tolist())
        self.unused = [shard for number, shard in enumerate(self._shards) if number not in used]

    def _rows_as_they_are(self, shard: Shard, video_of: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
        """The shard's rows whose files are there unchanged, and those files' videos."""
        videos = np.array([video_of.get(name, -1) for name in shard.columns["names"].strings()], np.int64)
        same = videos >= 0
        for column, current in (("sizes", self.files.sizes), ("mtimes_ns", self.files.mtimes_ns)):
            same &= shard.columns[column] == current[videos]
        return np.flatnonzero(same), videos[same]

    def column_row(self, name: str, video: int) -> np.ndarray:
        """The video's row of a ragged column of its shard; empty where it has no entry."""
        if self._shard_of[video] < 0:
            return np.zeros(0, np.uint8)
        return self._shards[self._shard_of[video]].columns[name][self._row_of[video]]

    def read_into(self, clip: np.ndarray, video: int, indices: np.ndarray, region: Region) -> None:
        """Writes the crop of the frames at `indices` to `clip`, uint8 (T, H, W, C). Raises CacheError."""
        COPIERS[self.settings.encoding](clip, self.stored_frames(video), self.positions(video, indices), region)

    def positions(self, video: int, indices: np.ndarray) -> np.ndarray:
        """Where in `stored_frames` the frames at `indices` lie. Raises CacheError where one is not kept."""
        kept = self._frames[video]
        positions = kept.searchsorted(indices)
        if positions[-1] >= len(kept) or (kept[positions] != indices).any():
            raise CacheError(
                f"{self.files.path(video)}: the clip cache does not hold its frames {indices.tolist()}: "
                "add --cache-frame-rate FPS, which keeps more of them"
            )
        return positions

    def stored_frames(self, video: int) -> np.ndarray | list[Tensor]:
        """All frames kept of a video: raw ones as a uint8 (F, H, W, C) map, jpegs as the bytes of each."""
        blob = self._shards[self._shard_of[video]].blob(self._row_of[video])
        if self.settings.encoding == "raw":
            return blob.reshape(-1, *self.settings.size, 3)
        return list(torch.from_numpy(blob).split(self._frame_bytes[video].tolist()))


def copy_raw(clip: np.ndarray, frames: np.ndarray, positions: np.ndarray, region: Region) -> None:
    """Copies the crop of the frames at `positions` out of the map."""
    top, left, height, width = region
    crops = frames[:, top : top + height, left : left + width]
    first, last = positions[0], positions[-1]
    if last - first == len(positions) - 1 and (positions[1:] > positions[:-1]).all():
        clip[:] = crops[first : last + 1]  # the official clip: one copy of one slice
    else:
        for target, position in enumerate(positions):
            clip[target] = crops[position]


def copy_jpeg(clip: np.ndarray, frames: list[Tensor], positions: np.ndarray, region: Region) -> None:
    """Decodes the frames at `positions`, and copies their crop."""
    top, left, height, width = region
    for target, position in enumerate(positions.tolist()):
        frame = decode_jpeg(frames[position])  # (C, H, W)
        clip[target] = frame[:, top : top + height, left : left + width].permute(1, 2, 0).numpy()


COPIERS = {"raw": copy_raw, "jpeg": copy_jpeg}


class _Rows(Sequence):
    """A ragged column over all videos, left in the shards that hold it; empty for a video without an entry."""

    def __init__(self, cache: ClipCache, name: str) -> None:
        self._cache, self._name = cache, name

    def __len__(self) -> int:
        return len(self._cache.files)

    def __getitem__(self, video: int) -> np.ndarray:
        return self._cache.column_row(self._name, video)


def read_unreadable(folder: Path, files: Files, video_of: dict[str, int]) -> dict[int, str]:
    """Why videos could not be read, by video: those that an earlier run found, and that have not changed since."""
    try:
        noted = json.loads((folder / UNREADABLE).read_bytes())
        rows = {video_of[name]: entry for name, entry in noted.items() if name in video_of}
        return {
            video: reason
            for video, (size, mtime_ns, reason) in rows.items()
            if size == files.sizes[video] and mtime_ns == files.mtimes_ns[video]
        }
    except (OSError, ValueError, TypeError, AttributeError):  # none was found, or the note is damaged: look again
        return {}


def write_unreadable(folder: Path, files: Files, reasons: dict[int, str]) -> None:
    """Keeps `reasons`, so that the next run need not find them again. Raises OSError."""
    rows = {
        files.names.string(video): (int(files.sizes[video]), int(files.mtimes_ns[video]), reason)
        for video, reason in reasons.items()
    }
    with replaced_file(folder / UNREADABLE) as file:
        file.write(json.dumps(rows).encode())
