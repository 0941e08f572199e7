"""Runs the whole pipeline on generated videos: release -> folders -> checked folders -> trained network -> accuracy.

    python references/video_classification/quickstart.py

Needs no data, no network and no GPU, and takes minutes. Every command is printed as you would type it. Run again with
the same --output-dir, it goes on where it stopped.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from synthetic.videos import NUM_PARTS, generate_release

SCRIPTS = Path(__file__).resolve().parent
EXERCISES = ("jumping jacks", "side lunges", "squats", "toe touches")
VIDEOS_PER_CLASS = {"train": 100, "val": 25}
# Small on purpose, so that two CPU cores learn it in minutes. Frames are generated larger and resized, as real ones.
CLIP_LEN = 8
FRAME_SIZE = (20, 20)
RECIPE = (
    "--trainable all --opt adamw --lr 2e-3 --weight-decay 0.05 --label-smoothing 0.1 --batch-size 32 --epochs 10 "
    "--keep-checkpoints 1 --resume auto"
)


class StepError(RuntimeError):
    """A step of the pipeline could not be completed; the message says which."""


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=add_help,
        allow_abbrev=False,
    )
    parser.add_argument(
        *("--output-dir",),
        default=Path("quickstart_output"),
        type=Path,
        metavar="DIR",
        help="keeps videos, reports and checkpoints (quickstart_output)",
    )
    parser.add_argument(
        "--weights", metavar="NAME|FILE", help="to start from, as train.py takes them (random ones, trained wholly)"
    )
    parser.add_argument("--seed", default=0, type=int, help="of the videos and of the training (0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when a step failed."""
    args = get_args_parser().parse_args(argv)
    start = time.monotonic()
    try:
        check_output_dir(args.output_dir, args.weights)
        generate(args.output_dir / "release", args.seed)
        steps = commands(args.output_dir, args.weights, args.seed)
        outputs = [run(command) for command in steps]
    except (StepError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    print(summary(outputs[-1], time.monotonic() - start))
    return 0


def check_output_dir(output_dir: Path, weights: str | None) -> None:
    """Raises StepError where an earlier run in this folder began from other weights: it would be continued."""
    earlier = output_dir / "run" / "args.json"
    if earlier.exists() and (other := json.loads(earlier.read_text()).get("weights")) != weights:
        raise StepError(f"{output_dir} holds a run that began with --weights {other}: choose another --output-dir")


def generate(release: Path, seed: int) -> None:
    """Writes the release that the scripts begin with, one file of it broken and one missing, as it happens."""
    count = len(EXERCISES) * sum(VIDEOS_PER_CLASS.values())
    print(
        f"Generating {count} videos of {', '.join(EXERCISES)}, and two faults to be found, under {release}", flush=True
    )
    generate_release(release, EXERCISES, VIDEOS_PER_CLASS, seed=seed, furniture=False, with_faults=True)


def commands(output_dir: Path, weights: str | None, seed: int) -> list[list[str]]:
    """The steps after the release, as arguments of python: scripts as seen from the current folder."""
    top = SCRIPTS.parent.parent
    refactor, check, train = (
        os.path.relpath(script)
        for script in (top / "refactor_dataset.py", top / "check_videos.py", SCRIPTS / "train.py")
    )
    release, dataset, run_dir = output_dir / "release", output_dir / "full_dataset", output_dir / "run"
    parts = [f"{release}/QEVD-FIT-300k-Part-{part}" for part in range(1, NUM_PARTS + 1)]
    labels = f"{release}/fine_grained_labels_release.json"
    newest = f"{run_dir}/checkpoint.pth"
    height_width = [str(side) for side in FRAME_SIZE]
    clips = ["--data-path", f"{dataset}", "--cache-dataset", "--clip-len", f"{CLIP_LEN}"]
    for flag in ("--train-resize-size", "--train-crop-size", "--val-resize-size", "--val-crop-size"):
        clips += [flag, *height_width]
    start = ["--weights", weights] if weights else []
    return [
        [refactor, "--src", *parts, "--labels", labels, "--dest", f"{dataset}", "--allow-missing"],
        [check, "--root", f"{dataset}", "--quarantine", f"{output_dir}/bad_videos", "--remux", "--replace"]
        + ["--jobs", "2", "--report", f"{output_dir}/check.csv"],
        [train, *clips, *RECIPE.split(), "--seed", f"{seed}", *start, "--output-dir", f"{run_dir}"],
        [train, *clips, "--resume", newest, "--test-only", "--output-dir", f"{run_dir}"],
    ]


def run(command: list[str]) -> str:
    """Prints a command, runs it, shows and returns what it prints. Raises StepError where it fails."""
    print(f"\n$ python {shlex.join(command)}", flush=True)
    lines = []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise StepError(f"{command[0]} ended with exit code {process.returncode}; see above")
    return "".join(lines)


def summary(test_output: str, seconds: float) -> str:
    """What came out, from what the last step printed."""
    accuracy, count = (re.search(pattern, test_output)[1] for pattern in (r"Video Acc@1 (\S+)", r"(\d+) videos"))
    height, width = FRAME_SIZE
    return (
        f"\nVideo Acc@1 {accuracy} on {count} videos of people and rooms that training never saw "
        f"(chance: {100 / len(EXERCISES):.3f}), {seconds:.0f} seconds in all.\n"
        f"Small frames ({height}x{width} pixels), short clips ({CLIP_LEN} frames), generated videos: "
        "this shows that the pipeline works,\nnot how well it does on real ones."
    )


if __name__ == "__main__":
    sys.exit(main())
