"""How fast the dataset scripts are, as `references.dataset_tools.benchmarks` measures it."""

import sys
from pathlib import Path
from types import ModuleType

from benchmarks.measuring import BenchmarkOptions

REPOSITORY = Path(__file__).resolve().parents[3]
ENTRIES_TO_PLACE = 300_000


def benchmark_refactor(options: BenchmarkOptions) -> dict[str, float]:
    """Placing made-up files by hard links, against a bare loop of links."""
    work_dir = options.scratch / "refactor"
    return _named("refactor", _tools().benchmark_refactor(ENTRIES_TO_PLACE, work_dir, options.workers))


def benchmark_check(options: BenchmarkOptions) -> dict[str, float]:
    """Checking videos, against processes that only decode them."""
    files = [Path(path) for path in options.videos.paths]
    return _named("check", _tools().benchmark_check(files, options.scratch / "check", options.workers, options.rounds))


def _tools() -> ModuleType:
    """The benchmarks of the dataset tools, the only import from that tree."""
    if str(REPOSITORY) not in sys.path:
        sys.path.append(str(REPOSITORY))
    from references.dataset_tools import benchmarks

    return benchmarks


def _named(prefix: str, figures: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in figures.items()}
