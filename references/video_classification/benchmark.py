"""Measures how fast each stage is, as ratios to the bare work that it cannot do without."""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.arguments import add_choice, add_value, check_folders, check_outputs, positive_int
from runtime.errors import UserError
from runtime.files import check_writable, write_json
from runtime.script import run_script
from training import options
from training.option_checks import checked_device

if TYPE_CHECKING:
    import torch

# The module that holds `benchmark_<name>`, which takes BenchmarkOptions and returns figures, or yields them as soon as
# they are known; their names carry units.
BENCHMARKS = {
    "refactor": "dataset_tools",
    "check": "dataset_tools",
    "decode": "input",
    "motion": "input",
    "cache": "cache",
    "startup": "cache",
    "loader": "input",
    "step": "training",
    "epoch": "training",
    "model": "model",
    "gpu": "gpu",
}


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help, allow_abbrev=False)
    parser.add_argument("benchmarks", nargs="+", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    add_value(parser, "--data-path", Path, "DIR", "any folder with videos in it (some are generated)")
    add_choice(parser, "--model", options.MODELS, options.MODELS[0], "of step, epoch, gpu and model")
    options.add_device_argument(parser)
    options.add_amp_argument(parser)
    add_value(parser, "--json", Path, "FILE", "also write the figures here, as one flat object")
    add_value(parser, "--scratch", Path, "DIR", "for caches, removed at the end (the system's)")
    options.add_workers_argument(parser, "processes (the cores, at most 16)")
    add_value(parser, "--rounds", positive_int, "N", "measurements of each, of which the median counts", 3)
    options.add_batch_size_argument(parser, 24, "clips per step")
    add_value(parser, "--steps", positive_int, "N", "training steps measured", 10)
    add_value(parser, "--clip-len", positive_int, "N", "frames per clip", 16)
    add_value(parser, "--resize-size", positive_int, ("H", "W"), "size of frames", (128, 171), nargs=2)
    add_value(parser, "--crop-size", positive_int, ("H", "W"), "size of clips", (112, 112), nargs=2)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when it could not be done, 2 on wrong usage."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.workers == 0:
        parser.error("--workers 0: benchmarks measure worker processes: give 1 or more")
    check_folders(parser, [("--data-path", args.data_path), ("--scratch", args.scratch)], must_exist=True)
    check_outputs(parser, [("--json", args.json)], [])
    return run_script(lambda: run(parser, args, checked_device(parser, args.device)))


def run(parser: argparse.ArgumentParser, args: argparse.Namespace, device: "torch.device") -> None:
    """Videos, the benchmarks asked for, figures."""
    # Heavy imports come after parsing, so that --help and wrong usage do not wait for torch.
    from benchmarks.measuring import AnyVideos, BenchmarkOptions, generated_videos
    from clips.preprocessing import Preprocessing
    from network.precision import resolve_amp
    from reporting.run_folder import check_no_run

    if "gpu" in args.benchmarks and device.type != "cuda":
        raise UserError(f"`gpu` measures a GPU, and the device is {device}: check nvidia-smi and the torch build")
    given = AnyVideos(args.data_path) if args.data_path else None
    check_outputs(parser, [("--json", args.json)], map(given.path, range(len(given))) if given else [])
    check_no_run("--json", args.json)
    if args.json:
        check_writable("--json", args.json)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=args.scratch) as folder:
        scratch = Path(folder)
        resize_size, crop_size = tuple(args.resize_size), tuple(args.crop_size)
        setup = BenchmarkOptions(
            videos=given or generated_videos(scratch / "videos"),
            scratch=scratch,
            device=str(device),
            amp=resolve_amp(args.amp, device),
            preprocessing=Preprocessing(args.clip_len, resize_size=resize_size, crop_size=crop_size),
            workers=args.workers,
            rounds=args.rounds,
            batch_size=args.batch_size,
            steps=args.steps,
            model=args.model,
        )
        for name in args.benchmarks:
            module = importlib.import_module(f"benchmarks.{BENCHMARKS[name]}")
            print(f"{name}:", flush=True)
            measured = getattr(module, f"benchmark_{name}")(setup)
            for part in [measured] if isinstance(measured, dict) else measured:
                print_figures(part)
                figures |= part
                if args.json:
                    write_json(args.json, figures)


def print_figures(figures: dict[str, float]) -> None:
    """One line per figure."""
    width = max(map(len, figures), default=0)
    for key, value in figures.items():
        print(f"  {key.ljust(width)}  {value:,.4g}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
