"""Names what videos show, with the network of a checkpoint: classes, preprocessing and temperature are read from it."""

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import torch

from deployment.annotating import Annotation, annotate, destinations
from deployment.prediction import FORMATS, Prediction, predict, printable
from deployment.video_files import find_videos, read_clips
from network.acceleration import freed_memory_kept
from network.trained_model import TrainedModel, load_trained_model
from runtime import arguments
from runtime.errors import UserError, require
from runtime.files import replaced_file
from runtime.progress import Progress
from runtime.worker_pool import default_workers, map_in_workers
from training import options
from videos.folder import DatasetError
from videos.frame_selection import FRAME_SELECTORS


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        add_help=add_help,
        allow_abbrev=False,
        epilog="A video that cannot be read is reported in its row and makes the exit code 1; the others go on.",
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="written by train.py, or by the public sample solution"
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO|DIR|GLOB", help="files, folders or patterns in quotes")
    parser.add_argument("--top-k", default=5, type=arguments.positive_int, metavar="K", help="labels a video (5)")
    parser.add_argument("--format", default="table", choices=FORMATS, help="(table)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there (standard output)")
    parser.add_argument("--annotate", type=Path, metavar="DIR", help="write copies with the labels drawn in")
    parser.add_argument(
        "--batch-size", "-b", default=8, type=arguments.positive_int, metavar="N", help="clips at once (8)"
    )
    parser.add_argument("--device", metavar="DEVICE", help="cuda or cpu (cuda where there is one)")
    parser.add_argument("--frame-selection", choices=FRAME_SELECTORS, help="in place of the checkpoint's")
    parser.add_argument(
        "--clips-per-video", default=1, type=arguments.positive_int, metavar="N", help="averaged over (1)"
    )
    parser.add_argument("--classes-file", type=Path, metavar="FILE", help="of a checkpoint without class names")
    parser.add_argument(
        "--workers", "-j", default=default_workers(), type=arguments.non_negative_int, metavar="N", help="(the cores)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when a video could not be read or nothing could be done, 2 on wrong usage."""
    parser = get_args_parser()
    args = parser.parse_args(files_first(sys.argv[1:] if argv is None else argv))
    if args.output is not None and args.output.is_dir():
        parser.error(f"--output {args.output} is a folder: name a file in it")
    try:
        device = options.resolve_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    try:
        with freed_memory_kept(device.type):
            return run(args, device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"error: {error.filename or args.output}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: no file that was begun is kept", file=sys.stderr)
        return 130
    return 1


def run(args: argparse.Namespace, device: torch.device) -> int:
    """Model, videos, predictions, copies."""
    model = load_trained_model(args.checkpoint, args.classes_file)
    if args.frame_selection:
        preprocessing = dataclasses.replace(model.preprocessing, frame_selection=args.frame_selection)
        model = dataclasses.replace(model, preprocessing=preprocessing)
    model.network.to(device)
    paths = find_videos(args.videos)
    copies = plan_copies(args.annotate, paths) if args.annotate else []
    top_k = min(args.top_k, len(model.classes))
    print(settings_line(model, device, len(paths), args.clips_per_video), file=sys.stderr)
    clips = read_clips(paths, model.preprocessing, args.clips_per_video, args.workers)
    predictions = predict(model, paths, clips, top_k=top_k, batch_size=args.batch_size, device=device)
    done: list[Prediction] = []
    # Rows that appear on the screen tell how far it has come; elsewhere a bar does, or lines where they do no harm.
    rows_show = args.output is None and (sys.stdout.isatty() or not sys.stderr.isatty())
    with open_output(args.output) as output, Progress("Predicting", len(paths), "video", quiet=rows_show) as progress:
        for line in FORMATS[args.format](keep(predictions, done, progress), paths, top_k):
            print(line, file=output, flush=output is sys.stdout)
    failed = sum(prediction.error is not None for prediction in done)
    if failed:
        print(f"{failed} of {len(done)} videos have no label: their rows say why", file=sys.stderr)
    failed_copies = write_copies(done, copies, args.annotate, args.workers) if copies else 0
    return 1 if failed or failed_copies else 0


def files_first(argv: list[str]) -> list[str]:
    """Names beginning with `-` that are files, as a shell's pattern gives them, in a form that is no option."""
    end = argv.index("--") if "--" in argv else len(argv)
    options_or_files = (f"./{arg}" if arg.startswith("-") and os.path.isfile(arg) else arg for arg in argv[:end])
    return [*options_or_files, *argv[end:]]


def settings_line(model: TrainedModel, device: torch.device, num_videos: int, clips_per_video: int) -> str:
    """What is about to be done, and how."""
    crop = "x".join(map(str, model.preprocessing.crop_size))
    return (
        f"{model.path}: {model.name}, {len(model.classes)} classes; {num_videos} videos, {clips_per_video} clips each; "
        f"{model.preprocessing.rule}, {crop}; temperature {model.temperature:g}; device: {device}"
    )


def keep(predictions: Iterable[Prediction], done: list[Prediction], progress: Progress) -> Iterator[Prediction]:
    """Yields `predictions` and keeps them in `done`, so that they can be written as they come."""
    for prediction in predictions:
        done.append(prediction)
        progress.update()
        yield prediction


@contextlib.contextmanager
def open_output(path: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that appears when it is complete."""
    if path is None:
        yield sys.stdout
        return
    with replaced_file(path) as file, open(file.fileno(), "w", encoding="utf-8", newline="", closefd=False) as text:
        yield text


def plan_copies(folder: Path, paths: list[str]) -> list[Path]:
    """Where the annotated copies go; makes their folder.

    Raises:
        DatasetError: a copy would take a video's place.
        MissingExtra: no Pillow.
        OSError: the folder cannot be written: better known now than after the work.
    """
    require("PIL.ImageFont")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    copies = destinations(paths, folder)
    videos = {os.path.realpath(path) for path in paths}
    if taken := [copy for copy in copies if os.path.realpath(copy) in videos]:
        raise DatasetError(f"--annotate {folder}: a copy would take the place of {taken[0]}: choose another folder")
    return copies


def write_copies(predictions: list[Prediction], copies: list[Path], folder: Path, workers: int) -> int:
    """Writes the annotated copies of what could be read; returns how many failed, after naming them.

    Each appears whole or not at all, and nothing else stays in `folder`, however this ends.
    """
    work = [
        Annotation(prediction.video, copy, tuple(f"{label} {100 * share:.1f} %" for label, share in prediction.top[:3]))
        for prediction, copy in zip(predictions, copies, strict=True)
        if prediction.error is None
    ]
    failed = 0
    with tempfile.TemporaryDirectory(prefix=".unfinished.", dir=folder, ignore_cleanup_errors=True) as unfinished:
        function = partial(annotate, unfinished=Path(unfinished))
        copying = map_in_workers(function, work, min(workers, len(work)), on_death=lambda death: death.how)
        progress = Progress("Annotating", len(work), "video", quiet=not sys.stderr.isatty())
        with contextlib.closing(copying) as results, progress:  # no worker is left when that folder is removed
            for annotation, reason in zip(work, results, strict=True):
                progress.update()
                if reason is not None:
                    failed += 1
                    print(f"error: {printable(annotation.source)} has no copy: {reason}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
