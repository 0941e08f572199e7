"""Runs the whole pipeline on generated videos: release -> folders -> checked folders -> trained network -> accuracy.

    python references/video_classification/quickstart.py

It needs no data, no network and no GPU, and takes minutes. Every command is printed as you would type it. Run it again
with the same --output-dir to continue where it stopped.
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

from runtime.arguments import add_value, check_folders, seed
from runtime.errors import UserError
from runtime.files import check_writable
from runtime.script import run_script

SCRIPTS = Path(__file__).resolve().parent
NUM_PARTS = 4  # folders of a generated release
EXERCISES = ("jumping jacks", "side lunges", "squats", "toe touches")
VIDEOS_PER_CLASS = {"train": 100, "val": 25}
SCREEN_WIDTH = 100
# Small, so that two CPU cores learn it in minutes. Frames are generated larger and resized, as real ones are.
CLIP_LEN = 8
FRAME_SIZE = (20, 20)
RECIPE = (
    "--trainable all --opt adamw --lr 2e-3 --weight-decay 0.05 --label-smoothing 0.1 --batch-size 32 --epochs 10 "
    "--keep-checkpoints 1 --resume auto"
)


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=add_help, allow_abbrev=False
    )
    text = "keeps videos, reports and checkpoints"
    add_value(parser, "--output-dir", Path, "DIR", text, Path("quickstart_output"))
    add_value(parser, "--weights", str, "NAME|FILE", "to start from, as for train.py (random ones, all trained)")
    add_value(parser, "--seed", seed, "N", "seed of videos and training", 0)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when a step failed."""
    argv = sys.argv[1:] if argv is None else argv
    parser = get_args_parser()
    args = parser.parse_args(argv)
    check_folders(parser, [("--output-dir", args.output_dir)])
    if args.weights and Path(os.path.realpath(args.output_dir)) in Path(os.path.realpath(args.weights)).parents:
        parser.error(f"--weights {args.weights} is in --output-dir, where the run would replace it: choose another")
    same_command = shlex.join(["python", sys.argv[0], *argv])
    return run_script(lambda: run_pipeline(args.output_dir, args.weights, args.seed), resume_command=same_command)


def run_pipeline(output_dir: Path, weights: str | None, seed: int) -> None:
    """Generates the release, runs every step, and prints what came out."""
    start = time.monotonic()
    earlier = output_dir / "run" / "args.json"
    if earlier.exists() and (other := json.loads(earlier.read_text(encoding="utf-8")).get("weights")) != weights:
        raise UserError(f"{output_dir} holds a run that began with --weights {other}: choose another --output-dir")
    check_writable("--output-dir", output_dir / "release")
    generate(output_dir / "release", seed)
    outputs = [run(command) for command in commands(output_dir, weights, seed)]
    print(summary(outputs[-1], time.monotonic() - start))
    print("\nWhat to do next: read the report, label other videos, see what a training on other data will take.")
    for command in next_commands(output_dir):
        print(f"  {shell_command(command, indent='      ')}")


def generate(release: Path, seed: int) -> None:
    """Writes the release that the scripts start from, with one broken and one missing file, as real ones have."""
    from synthetic.videos import generate_release  # imported after parsing, so that --help does not wait

    count = len(EXERCISES) * sum(VIDEOS_PER_CLASS.values())
    print(
        f"Generating {count} videos of {', '.join(EXERCISES)}, and two faults to be found, under {release}", flush=True
    )
    try:
        generate_release(release, EXERCISES, VIDEOS_PER_CLASS, seed=seed, furniture=False, with_faults=True)
    except ValueError as error:
        raise UserError(str(error)) from error


def commands(output_dir: Path, weights: str | None, seed: int) -> list[list[str]]:
    """The steps after the release as arguments of python, with paths of scripts relative to the current folder."""
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
    """Prints a command, runs it, and shows and returns its output. Raises UserError if it fails."""
    print(f"\n$ {shell_command(command)}", flush=True)
    lines = []
    # The command's progress bar may stand where the line comes.
    clear = "\r\033[K" if sys.stdout.isatty() and sys.stderr.isatty() else ""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    whole = [sys.executable, *command]
    with subprocess.Popen(whole, stdout=subprocess.PIPE, encoding="utf-8", env=environment) as process:
        for line in process.stdout or ():
            print(f"{clear}{line}", end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise UserError(f"{command[0]} ended with exit code {process.returncode}; see above")
    return "".join(lines)


def shell_command(command: list[str], indent: str = "    ") -> str:
    """A command as a user types it, in lines that fit the screen and end in a backslash but for the last."""
    lines = ["python"]
    for word in map(shlex.quote, command):
        if len(lines[-1]) + len(word) > SCREEN_WIDTH - 5:  # a space, a backslash, and "$ "
            lines[-1] += " \\"
            lines.append(f"{indent}{word}")
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)


def summary(test_output: str, seconds: float) -> str:
    """The result, from the output of the last step."""
    accuracy, *_ = re.findall(r"Video Acc@1 (\S+)", test_output)
    count, *_ = re.findall(r"(\d+) videos, \d+ clips", test_output)
    height, width = FRAME_SIZE
    return (
        f"\nVideo Acc@1 {accuracy} on {count} videos of people and rooms not seen in training "
        f"(chance: {100 / len(EXERCISES):.3f}),\n"
        f"{seconds:.0f} seconds in all. Small frames ({height}x{width} pixels), short clips ({CLIP_LEN} frames) and "
        "generated videos\nshow that the pipeline works, not how well it does on real ones."
    )


def next_commands(output_dir: Path) -> list[list[str]]:
    """What to type after the quickstart, as arguments of python; each works as it is."""
    predict, train = (os.path.relpath(SCRIPTS / name) for name in ("predict.py", "train.py"))
    run_dir, dataset = output_dir / "run", output_dir / "full_dataset"
    return [
        ["-m", "webbrowser", (run_dir / "report.html").resolve().as_uri()],
        [predict, f"{run_dir / 'model_best.pth'}", f"{dataset / 'val' / EXERCISES[0].replace(' ', '_')}"],
        [train, "--data-path", f"{dataset}", "--trainable", "all", "--cache-dataset", "--plan"],
    ]


if __name__ == "__main__":
    sys.exit(main())
