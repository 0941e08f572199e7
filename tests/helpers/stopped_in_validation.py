"""`train.py`, each of whose processes is sent SIGTERM while it scores the first validation batch."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "references" / "video_classification"))

import train
from evaluation.metrics import VideoScores

real = VideoScores.update


def update(self, *args):
    signal.raise_signal(signal.SIGTERM)
    real(self, *args)


if __name__ == "__main__":
    VideoScores.update = update
    sys.exit(train.main())
