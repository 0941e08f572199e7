"""Measures how fast each stage is, as ratios to the bare work that it cannot do without."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.cache import benchmark_cache, benchmark_startup
from benchmarks.dataset_tools import benchmark_check, benchmark_refactor
from benchmarks.input import benchmark_decode, benchmark_loader, benchmark_motion
from benchmarks.measuring import AnyVideos, BenchmarkOptions, generated_videos
from benchmarks.model import benchmark_model
from benchmarks.training import benchmark_epoch, benchmark_step
from clips.preprocessing import Preprocessing
from network.precision import AMP_TYPES
from runtime import arguments
from runtime.errors import UserError
from runtime.files import replaced_file
from runtime.worker_pool import WorkerDied, default_workers
from training import options

# Each takes BenchmarkOptions and gives its figures, by names that carry their units.
BENCHMARKS: dict[str, Callable[[BenchmarkOptions], dict[str, float]]] = {
    "refactor": benchmark_refactor,
    "check": benchmark_check,
    "decode": benchmark_decode,
    "motion": benchmark_motion,
    "cache": benchmark_cache,
    "startup": benchmark_startup,
    "loader": benchmark_loader,
    "step": benchmark_step,
    "epoch": benchmark_epoch,
    "model": benchmark_model,
}
USER_ERRORS = (OSError, UserError, WorkerDied)


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help, allow_abbrev=False)
    parser.add_argument("benchmarks", nargs="+", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--data-path", type=Path, metavar="DIR", help="any folder with videos in it (some are generated)"
    )
    parser.add_argument("--device", metavar="DEVICE", help="cuda or cpu (cuda where there is one)")
    parser.add_argument("--amp", nargs="?", default="off", const="auto", choices=(*AMP_TYPES, "auto"), help="(off)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here, as one flat object")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="for caches, removed at the end (the system's)")
    number = {"type": arguments.positive_int, "metavar": "N"}
    parser.add_argument("--workers", "-j", default=default_workers(), help="(the cores, at most 16)", **number)
    parser.add_argument("--rounds", default=3, help="times that each is measured; medians count (3)", **number)
    parser.add_argument("--batch-size", "-b", default=24, help="(24)", **number)
    parser.add_argument("--steps", default=10, help="training steps measured (10)", **number)
    parser.add_argument("--clip-len", default=16, help="(16)", **number)
    size = {"nargs": 2, "type": arguments.positive_int, "metavar": ("H", "W")}
    parser.add_argument("--resize-size", default=(128, 171), help="(128 171)", **size)
    parser.add_argument("--crop-size", default=(112, 112), help="(112 112)", **size)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when it could not be done, 2 on wrong usage."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    try:
        device = options.resolve_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    figures = {}
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark-", dir=args.scratch) as scratch:
            scratch = Path(scratch)
            videos = AnyVideos(args.data_path) if args.data_path else generated_videos(scratch / "videos")
            setup = BenchmarkOptions(
                videos=videos,
                scratch=scratch,
                device=str(device),
                amp=options.resolve_amp(args.amp, device),
                preprocessing=Preprocessing(
                    clip_len=args.clip_len, resize_size=tuple(args.resize_size), crop_size=tuple(args.crop_size)
                ),
                **{name: getattr(args, name) for name in ("workers", "rounds", "batch_size", "steps")},
            )
            for name in args.benchmarks:
                figures |= (new := BENCHMARKS[name](setup))
                print(table(name, new), flush=True)
        if args.json:
            with replaced_file(args.json) as file:
                file.write(json.dumps(figures, indent=2).encode())
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def table(name: str, figures: dict[str, float]) -> str:
    """A line a figure."""
    width = max(map(len, figures))
    return "\n".join([f"{name}:", *(f"  {key.ljust(width)}  {value:,.4g}" for key, value in figures.items())])


if __name__ == "__main__":
    sys.exit(main())
