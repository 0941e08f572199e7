"""Predicts the classes of videos by a checkpoint, which holds network, classes, preprocessing and temperature."""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from runtime.arguments import add_choice, add_value, check_folders, check_inputs, check_outputs, positive_int
from runtime.files import check_writable, replaced_file
from runtime.script import run_script
from training import options
from training.option_checks import checked_device

if TYPE_CHECKING:
    import torch

    from network.trained_model import TrainedModel


FORMATS = ("table", "json", "csv")


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        add_help=add_help,
        allow_abbrev=False,
        epilog="A video that cannot be read is reported in its row and makes the exit code 1; the others go on.",
    )
    options.add_checkpoint_arguments(parser)
    parser.add_argument("videos", nargs="+", metavar="VIDEO|DIR|GLOB", help="files, folders or quoted patterns")
    add_value(parser, "--top-k", positive_int, "K", "classes per video", 5)
    add_choice(parser, "--format", FORMATS, "table", "output format")
    add_value(parser, "--output", Path, "FILE", "file to write to (standard output)")
    add_value(parser, "--annotate", Path, "DIR", "write copies with the predictions drawn in")
    options.add_batch_size_argument(parser, 8, "clips per batch")
    options.add_device_argument(parser)
    parser.add_argument("--frame-selection", choices=options.FRAME_SELECTIONS, help="replaces the checkpoint's")
    add_value(parser, "--clips-per-video", positive_int, "N", "clips to average over", 1)
    options.add_workers_argument(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when a video could not be read or nothing could be done, 2 on wrong usage."""
    parser = get_args_parser()
    args = parser.parse_args(files_first(sys.argv[1:] if argv is None else argv))
    if args.output is None and sys.stdout is None:
        parser.error("standard output is closed: name a file with --output")
    check_outputs(parser, [("--output", args.output)], [args.checkpoint, args.classes_file])
    check_inputs(parser, [("CHECKPOINT", Path(args.checkpoint)), ("--classes-file", args.classes_file)])
    check_folders(parser, [("--annotate", args.annotate)])
    return run_script(lambda: run(parser, args, checked_device(parser, args.device)))


def run(parser: argparse.ArgumentParser, args: argparse.Namespace, device: "torch.device") -> int:
    """Videos, model, predictions, copies."""
    # Heavy imports come after parsing, so that --help and wrong usage do not wait for torch.
    from deployment.annotating import destinations, prepare_copies, write_copies
    from deployment.prediction import FORMATTERS, Prediction, find_videos, predict, read_clips
    from network.acceleration import freed_memory_kept
    from network.trained_model import load_trained_model
    from reporting.run_folder import check_no_run
    from runtime.progress import Progress

    paths = find_videos(args.videos)
    copies = destinations(paths, args.annotate) if args.annotate else []
    outputs = [("--output", args.output), *(("--annotate", copy) for copy in copies)]
    check_outputs(parser, outputs, [args.checkpoint, args.classes_file, *paths])
    check_no_run("--output", args.output)
    if args.output is not None:
        check_writable("--output", args.output)
    if copies:
        prepare_copies(args.annotate, copies)
    model = load_trained_model(args.checkpoint, args.classes_file)
    if args.frame_selection:
        preprocessing = dataclasses.replace(model.preprocessing, frame_selection=args.frame_selection)
        model = dataclasses.replace(model, preprocessing=preprocessing)
    model.network.to(device)
    top_k = min(args.top_k, len(model.classes))
    print_beginning(model, len(paths), args.clips_per_video, device)
    done: list[Prediction] = []
    # Rows on the screen show progress by themselves; otherwise a bar does, or lines where they do no harm.
    rows_show = args.output is None and (sys.stdout.isatty() or not sys.stderr.isatty())
    progress = Progress("Predicting", len(paths), "video", quiet=rows_show)

    def predictions() -> Iterator[Prediction]:
        clips = read_clips(paths, model.preprocessing, args.clips_per_video, args.workers)
        for prediction in predict(model, paths, clips, top_k=top_k, batch_size=args.batch_size, device=device):
            done.append(prediction)
            progress.update()
            yield prediction

    with freed_memory_kept(device.type), open_output(args.output) as output, progress:
        for line in FORMATTERS[args.format](predictions(), paths, top_k):
            print(line, file=output, flush=output is sys.stdout)
    failed = sum(prediction.error is not None for prediction in done)
    if failed:
        print(f"{failed} of {len(done)} videos have no label: their rows say why", file=sys.stderr)
    failed_copies = write_copies(done, copies, args.annotate, args.workers) if copies else 0
    return 1 if failed or failed_copies else 0


def print_beginning(model: "TrainedModel", num_videos: int, clips_per_video: int, device: "torch.device") -> None:
    """Says on standard error what predicts, and what of each video."""
    from training.screen import wrapped

    rule, crop = model.preprocessing.rule, "x".join(map(str, model.preprocessing.crop_size))
    clips = "one clip" if clips_per_video == 1 else f"{clips_per_video} clips"
    entries = {
        "Model": f"{model.path}: {model.name}, {len(model.classes)} classes, temperature {model.temperature:g}",
        "Clips": f"{num_videos} videos, {clips} of each; {rule}, {crop}; device: {device}",
    }
    for label, text in entries.items():
        print("\n".join(wrapped(label, text)), file=sys.stderr)


def files_first(argv: list[str]) -> list[str]:
    """Turns names of files that begin with `-`, as a shell's pattern gives them, into names that are no options."""
    end = argv.index("--") if "--" in argv else len(argv)
    options_or_files = (f"./{arg}" if arg.startswith("-") and os.path.isfile(arg) else arg for arg in argv[:end])
    return [*options_or_files, *argv[end:]]


@contextlib.contextmanager
def open_output(path: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that appears when it is complete."""
    if path is None:
        yield sys.stdout
        return
    with replaced_file(path) as file, open(file.fileno(), "w", encoding="utf-8", newline="", closefd=False) as text:
        yield text


if __name__ == "__main__":
    sys.exit(main())
