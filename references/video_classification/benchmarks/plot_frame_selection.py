"""Draws which frames each selector picks from one video, under its motion curve: the picture in the README."""

import argparse
import sys
from pathlib import Path

from runtime.errors import MissingExtra, require
from videos.decoding import VideoError, iter_frames, probe_video
from videos.frame_selection import FRAME_SELECTORS, VideoTiming
from videos.motion import MotionMeter, motion_from_curve


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help, allow_abbrev=False)
    parser.add_argument("video", type=Path, help="the video to look at")
    parser.add_argument("--output", type=Path, default=Path("frame_selection.png"), help="(frame_selection.png)")
    parser.add_argument("--clip-len", type=int, default=16, metavar="N", help="frames a clip (16)")
    parser.add_argument("--frame-rate", type=float, default=4, metavar="FPS", help="of the official rule (4)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when drawn, 1 when not."""
    args = get_args_parser().parse_args(argv)
    try:
        draw(args.video, args.output, args.clip_len, args.frame_rate)
    except (VideoError, MissingExtra, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def draw(video: Path, output: Path, clip_len: int, frame_rate: float) -> None:
    """Writes the picture of one video's motion and of every selector's choice in evaluation."""
    plt = require("matplotlib.pyplot")
    info, meter = probe_video(video), MotionMeter()
    for frame in iter_frames(video):
        meter.add(frame)
    motion = motion_from_curve(meter.curve())
    timing = VideoTiming(info.frames, info.fps, motion)
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(7.5, 3.2), height_ratios=(1.3, 1), dpi=100)
    seconds = [(i + 0.5) * (info.frames - 1) / len(motion) / info.fps for i in range(len(motion))]
    above.fill_between(seconds, motion, color="0.8")
    above.set(ylabel="motion", yticks=[], ylim=(0, 1.05))
    for row, select in enumerate(FRAME_SELECTORS.values()):
        chosen = select(timing, clip_len, frame_rate, clip=0, clips_per_video=1, generator=None)
        below.plot(chosen / info.fps, [-row] * clip_len, "|", markersize=12, markeredgewidth=1.8, color=f"C{row}")
    below.set(yticks=[-row for row in range(len(FRAME_SELECTORS))], yticklabels=FRAME_SELECTORS, xlabel="seconds")
    below.set_ylim(-len(FRAME_SELECTORS) + 0.4, 0.6)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(output)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
