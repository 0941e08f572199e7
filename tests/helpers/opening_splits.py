"""A script that opens a folder's videos as train.py does, in a group of processes, and prints what each may read.

`python opening_splits.py ROOT CACHE_DIR FAULT`, where rank 1 has the fault: `late` looks at what is missing only when
another process has published a shard, or after PATIENCE seconds; `blind` cannot read the first video, which may pass;
`lost` forgets the last video; `busy` comes only when rank 0, which is asked to stop meanwhile, has ended; `none` is
none.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "references" / "video_classification"))

import torch

from caching.clip_cache import ClipCache
from caching.splits import ClipOptions, open_clips
from clips.preprocessing import Preprocessing
from runtime.distributed import gather_objects, init_process_group, rank
from runtime.script import run_script
from videos import decoding
from videos.folder import VideoFolder

PATIENCE = 2.0


def late() -> None:
    real, calls = ClipCache.reload, []

    def reload(self):
        calls.append(self)
        end = time.monotonic() + PATIENCE
        while len(calls) == 2 and time.monotonic() < end and not list(self.folder.glob("*.shard")):
            time.sleep(0.01)
        real(self)

    ClipCache.reload = reload


def blind() -> None:
    real = decoding._is_regular_file

    def look(path):
        if Path(path).name == "00000000.mp4":
            raise PermissionError(13, "Permission denied")
        return real(path)

    decoding._is_regular_file = look


def lost() -> None:
    real = ClipCache.reload

    def reload(self):
        real(self)
        self.index.num_frames[-1] = 0

    ClipCache.reload = reload


def busy() -> None:
    """Says whether rank 0 ends while it waits for this process."""
    first, _ = gather_objects(os.getpid())
    end = time.monotonic() + 10 * PATIENCE
    while time.monotonic() < end:
        try:
            os.kill(first, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    print("rank 0 waits" if time.monotonic() >= end else "rank 0 has ended", flush=True)
    os._exit(0)


def stopped() -> None:
    gather_objects(os.getpid())
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()


FAULTS = {"busy": busy, "late": late, "blind": blind, "lost": lost, "none": lambda: None}


def main() -> int:
    root, cache_dir, fault = sys.argv[1:]

    def work() -> None:
        init_process_group(torch.device("cpu"))
        if fault == "busy" and rank() == 0:
            stopped()
        if rank() == 1:
            FAULTS[fault]()
        options = ClipOptions(
            Preprocessing(4, resize_size=(32, 40), crop_size=(28, 28)),
            cache_dir=Path(cache_dir),
            batch_size=2,
            num_workers=0,
            cached=True,
            skip_unreadable=True,
        )
        clips = open_clips(VideoFolder(Path(root)), options)
        print(f"rank {rank()} reads {clips.videos.tolist()}", flush=True)

    return run_script(work)


if __name__ == "__main__":
    sys.exit(main())
