"""Draws the frames that each selector picks from a video, under the video's motion curve: run by hand, writes an SVG.

python tests/plot_frame_selection.py full_dataset/val/squats/00000012.mp4
"""

import argparse
import math
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "references" / "video_classification")]

from reporting.charts import Axis  # noqa: E402
from reporting.markup import Markup, tag  # noqa: E402
from videos.decoding import VideoError, iter_frames, probe_video  # noqa: E402
from videos.frame_selection import FRAME_SELECTORS, VideoTiming  # noqa: E402
from videos.motion import MotionMeter, motion_from_curve  # noqa: E402

LEFT, RIGHT, TOP_ROW, ROW = 80, 730, 140, 24  # pixels
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728")


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help)
    parser.add_argument("video", type=Path, help="the video to look at")
    parser.add_argument("--output", type=Path, default=Path("frame_selection.svg"), help="(frame_selection.svg)")
    parser.add_argument("--clip-len", type=int, default=16, metavar="N", help="frames a clip (16)")
    parser.add_argument("--frame-rate", type=float, default=4, metavar="FPS", help="of the official rule (4)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when the picture is written, 1 when not."""
    args = get_args_parser().parse_args(argv)
    try:
        args.output.write_text(draw(args.video, args.clip_len, args.frame_rate))
    except (VideoError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def draw(video: Path, clip_len: int, frame_rate: float) -> Markup:
    """The picture of a video's motion and of every selector's choice in evaluation."""
    info, meter = probe_video(video), MotionMeter()
    for frame in iter_frames(video):
        meter.add(frame)
    motion = motion_from_curve(meter.curve())
    timing = VideoTiming(info.frames, info.fps, motion)
    seconds = Axis("seconds", 0, info.frames / info.fps)
    # Motion is measured between neighbouring frames, in intervals of equal length from the first frame to the last.
    length = (info.frames - 1) / info.fps / len(motion)
    places = [seconds.place((i + 0.5) * length, LEFT, RIGHT) for i in range(len(motion))]
    curve = " ".join(f"{x},{120 - 105 * float(y):.1f}" for x, y in zip(places, motion, strict=True))
    parts = [tag("polygon", points=f"{places[0]},120 {curve} {places[-1]},120", fill="#ccc")]
    parts.append(tag("text", "motion", x=LEFT - 10, y=75, text_anchor="end"))
    for row, ((name, select), colour) in enumerate(zip(FRAME_SELECTORS.items(), COLOURS, strict=True)):
        y = TOP_ROW + ROW * row
        parts.append(tag("text", name, x=LEFT - 10, y=y + 13, text_anchor="end"))
        for index in select(timing, clip_len, frame_rate, clip=0, clips_per_video=1, generator=None).tolist():
            x = seconds.place(index / info.fps, LEFT, RIGHT)
            parts.append(tag("line", x1=x, x2=x, y1=y, y2=y + 16, stroke=colour, stroke_width=2))
    bottom = TOP_ROW + ROW * len(FRAME_SELECTORS) + 6
    parts.append(tag("line", x1=LEFT, x2=RIGHT, y1=bottom, y2=bottom, stroke="#000"))
    for tick in range(math.floor(seconds.high) + 1):
        parts.append(tag("text", tick, x=seconds.place(tick, LEFT, RIGHT), y=bottom + 17, text_anchor="middle"))
    parts.append(tag("text", seconds.label, x=(LEFT + RIGHT) / 2, y=bottom + 36, text_anchor="middle"))
    size = {"viewBox": f"0 0 {RIGHT + 20} {bottom + 46}", "width": RIGHT + 20, "height": bottom + 46}
    ground = tag("rect", width="100%", height="100%", fill="#fff")
    return tag(
        "svg", ground, *parts, xmlns="http://www.w3.org/2000/svg", font_size=14, font_family="sans-serif", **size
    )


if __name__ == "__main__":
    sys.exit(main())
