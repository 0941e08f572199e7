"""Check that every video of a tree can be read to its end, and move the others out of the way without losing any.

    python check_videos.py --root full_dataset --quarantine bad_videos --remux --replace --report check.csv

Every frame is decoded, in worker processes. Exit code: 0 if everything now under root is readable, 1 if something is
not or could not be handled, 2 for wrong usage, 130 after Ctrl-C, 143 after SIGTERM.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from references.dataset_tools import records
from references.dataset_tools.checking import REPORT_HEADER, Row, TreeChecker, summarise, write_report
from references.dataset_tools.probing import ProbeOptions, require_prober
from references.dataset_tools.progress import printable, printable_name, progress
from references.dataset_tools.quarantine import JOURNAL, LOCK, Quarantine
from references.dataset_tools.reading import READERS
from references.dataset_tools.state import STATE_BEGINNING
from references.dataset_tools.stopping import (
    ArgumentParser,
    exit_code_of,
    folder_problem,
    output_problem,
    replacing_problem,
)
from references.dataset_tools.walking import VIDEO_ENDINGS, find_videos, take_shard, walked_folders

STATUSES_THAT_LEAVE_ROOT_READABLE = {"ok", "remuxed", "quarantined"}
STOPPED = "stopped; what was done so far is in the report and the journal, run again to go on"


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="its train/ and val/, or all of it")
    parser.add_argument(
        "--ext", type=parse_ending, nargs="+", default=VIDEO_ENDINGS, metavar="EXT", help="file extensions to check"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), metavar="N", help="worker processes (default: cores)"
    )
    parser.add_argument("--report", type=Path, metavar="CSV", help="a line per file: path,status,reason,frames,seconds")
    parser.add_argument("--state", type=Path, metavar="FILE", help="remembers readable files, which are not read again")
    parser.add_argument("--shard", type=parse_shard, metavar="I/N", help="only every N-th file, from the I-th on")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")

    group = parser.add_argument_group("what is readable")
    group.add_argument("--prober", choices=READERS, default="av", help="PyAV (default), or the ffmpeg program")
    group.add_argument("--max-corrupt-frames", type=int, default=0, metavar="N", help="damaged frames to tolerate (0)")
    group.add_argument("--min-frames", type=int, default=1, metavar="N", help="frames a video must have (1)")
    group.add_argument(
        "--timeout", type=float, default=60, metavar="SECONDS", help="without progress on a file (default: 60)"
    )

    group = parser.add_argument_group("what happens to bad files (without --quarantine they are only reported)")
    group.add_argument("--quarantine", type=Path, metavar="DIR", help="move them there, with a journal")
    group.add_argument("--remux", action="store_true", help="try a stream copy first, which may repair the container")
    group.add_argument("--replace", action="store_true", help="put a good remux in the place of the original")
    group.add_argument("--restore", action="store_true", help="put all quarantined files back, and check nothing")
    return parser


def parse_ending(text: str) -> str:
    ending = text.lower().removeprefix(".")
    if not ending.isalnum():
        raise argparse.ArgumentTypeError(f"{text}: must be a file extension such as mp4; separate several by spaces")
    return ending


def parse_shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) <= int(count) and int(count) > 0):
        raise argparse.ArgumentTypeError(f"{text}: must be I/N, with I from 1 to N (or from 0 to N-1)")
    return int(index), int(count)


def check_args(parser: ArgumentParser, args: argparse.Namespace) -> None:
    """End the script with exit code 2 where the arguments cannot be used."""
    if problem := folder_problem("--root", args.root):
        parser.error(problem)
    if args.quarantine is None:
        if args.restore:
            parser.error("--restore needs --quarantine, where the files are")
        if args.remux:
            print("without --quarantine, which keeps the originals, nothing is remuxed: bad files are only reported")
    elif problem := output_problem("--quarantine", args.quarantine, is_folder=True):
        parser.error(problem)
    elif args.quarantine.resolve() == args.root.resolve():
        parser.error("--quarantine must not be --root")
    elif not args.restore and is_among_videos(args.quarantine, args.root):
        parser.error(f"--quarantine {args.quarantine}: lies where videos are looked for; name another folder")
    if args.report and args.state and args.report.resolve() == args.state.resolve():
        parser.error(f"--report {args.report}: is --state, which must be another file")
    kept = args.quarantine and (args.quarantine / JOURNAL).resolve()
    for option, path in (("--report", args.report), ("--state", args.state)):
        if path and (path.resolve() == kept or path.resolve().parent.name == records.FOLDER):
            parser.error(f"{option} {path}: is where these scripts keep what they did; name another place")
    if args.replace and not args.remux:
        parser.error("--replace needs --remux")
    for option, number, least in (
        ("--jobs", args.jobs, 1),
        ("--min-frames", args.min_frames, 1),
        ("--max-corrupt-frames", args.max_corrupt_frames, 0),
    ):
        if number < least:
            parser.error(f"{option} {number}: must be at least {least}")
    if not args.timeout > 0:
        parser.error(f"--timeout {args.timeout}: must be more than 0")
    try:
        require_prober(args.prober)
    except RuntimeError as error:
        parser.error(str(error))


def is_among_videos(quarantine: Path, root: Path) -> bool:
    """Whether files in the folder `quarantine` are, or would be, taken for files of the tree.

    A root without train/ and val/ may contain its quarantine folder, as long as that contains nothing else.
    """
    folder, walked = quarantine.resolve(), walked_folders(root)
    if walked != [root]:
        return any(folder.is_relative_to(start.resolve()) for start in walked)
    is_used = folder.is_dir() and not (folder / JOURNAL).exists() and set(os.listdir(folder)) - {LOCK}
    return bool(is_used) and folder.is_relative_to(root.resolve())


def main(argv: list[str] | None = None) -> int:
    parser = get_args_parser()
    args = parser.parse_args(argv)
    check_args(parser, args)
    expected = (OSError, RuntimeError, records.RecordError)
    return exit_code_of(lambda: run(args), expected, STOPPED)


def run(args: argparse.Namespace) -> int:
    require_writable(args)
    quarantine = Quarantine(args.quarantine, args.root) if args.quarantine else None
    if quarantine is not None and args.restore:
        return restore(quarantine, args.dry_run)
    if quarantine is None or args.dry_run:
        return check(args, quarantine)
    with sole_check(args.root, args.shard):
        return check(args, quarantine)


def require_writable(args: argparse.Namespace) -> None:
    """Raise RuntimeError where a result could not be written: before hours of work, not after."""
    problems = [
        output_problem("--report", args.report, is_folder=False),
        output_problem("--state", args.state, is_folder=False),
        replacing_problem("--report", args.report, REPORT_HEADER),
        replacing_problem("--state", args.state, STATE_BEGINNING),
    ]
    for problem in filter(None, problems):
        raise RuntimeError(printable_name(problem))


def require_no_video(args: argparse.Namespace, paths: list[str]) -> None:
    """Raise RuntimeError where a result would replace a file that is to be checked, under whatever name."""
    for option, output in (("--report", args.report), ("--state", args.state)):
        if output is None or not output.is_file():
            continue
        for path in (args.root / path for path in paths):
            if path.exists() and path.samefile(output):
                reason = f"{option} {output}: is {path}, a file to check, and would replace it; name another place"
                raise RuntimeError(printable_name(reason))


def check(args: argparse.Namespace, quarantine: Quarantine | None) -> int:
    if args.report:
        os.makedirs(os.path.dirname(os.path.realpath(args.report)), exist_ok=True)  # a report is written at the end
    if quarantine and not args.dry_run:
        quarantine.settle()
    paths, unreadable, leftovers = find_videos(args.root, args.ext, skip=args.quarantine)
    require_no_video(args, paths)
    if not paths and not unreadable:
        nothing = f"no file under {args.root} ends in {', '.join(args.ext)}"
        require_withdrawn(quarantine, printable_name(nothing))
    if args.shard:
        paths = take_shard(paths, quarantine.paths_taken_from_root() if quarantine else set(), *args.shard)
    rows = [Row(path, "error", reason) for path, reason in unreadable]
    checker = TreeChecker(
        args.root,
        quarantine,
        options=ProbeOptions(args.prober, args.max_corrupt_frames, args.min_frames),
        remux=args.remux and quarantine is not None,
        replace=args.replace,
        dry_run=args.dry_run,
        jobs=args.jobs,
        timeout=args.timeout,
        state=args.state,
    )
    if quarantine and not args.dry_run:
        checker.sweep(leftovers, paths if args.shard else None)  # the other shards may be at work
    tqdm.get_lock()  # where Ctrl-C comes while `write` makes it, tqdm turns that into an AttributeError
    start = time.monotonic()
    try:
        with progress(len(paths), "checking", "file") as advance, contextlib.closing(checker.check(paths)) as checked:
            for row in checked:
                rows.append(row)
                advance(1)
                if row.status != "ok":
                    tqdm.write(printable_name(f"{row.status} {row.path}: {row.reason}"))
        seconds = max(time.monotonic() - start, 1e-9)
        megabytes = checker.bytes_read / 1e6
        rates = f"{len(paths) / seconds:.1f} files/s, {megabytes / seconds:.1f} MB/s"
        print(f"{len(paths)} files in {seconds:.1f} s: {rates}")
        print(printable(summarise(rows)))
    finally:  # also where the run was stopped
        if args.report:
            write_report(args.report, rows)
    return 0 if all(row.status in STATUSES_THAT_LEAVE_ROOT_READABLE for row in rows) else 1


def require_withdrawn(quarantine: Quarantine | None, nothing: str) -> None:
    """Raise RuntimeError if there is nothing to check, unless that is because everything was quarantined."""
    if quarantine is None or not quarantine.paths_taken_from_root():
        raise RuntimeError(f"{nothing}; check --root and --ext")
    print(f"{nothing} any more: look at what was quarantined", file=sys.stderr)


def restore(quarantine: Quarantine, dry_run: bool) -> int:
    if not quarantine.journal.exists():
        folder = printable_name(str(quarantine.folder))
        raise FileNotFoundError(f"{folder} is not a quarantine folder of this script: it has no {JOURNAL}")
    if not dry_run:
        quarantine.settle()
    entries, places, failed = quarantine.restorable(), set(), 0
    for entry in entries:
        try:
            if not dry_run:
                quarantine.restore(entry)
            elif entry["path"] in places:
                raise FileExistsError("a newer file of the same name would be in its place")
            else:
                quarantine.require_restorable(entry)
                places.add(entry["path"])
        except OSError as error:
            failed += 1
            print(printable_name(f"not restored: {entry['path']}: {error}"), file=sys.stderr)
    print(f"{'would restore' if dry_run else 'restored'} {len(entries) - failed} of {len(entries)} files")
    others = quarantine.count_of_other_roots()
    for root, count in others.items():
        remedy = "give that as --root" if os.path.isdir(root) else "which is not there now: move the tree back for this"
        print(printable_name(f"{count} more came from another root, {root}: {remedy}"), file=sys.stderr)
    return 1 if failed or (others and not entries) else 0


@contextlib.contextmanager
def sole_check(root: Path, shard: tuple[int, int] | None) -> Iterator[None]:
    """Make a second check of the same files wait. Shards of one division run side by side."""
    name = f"check-{shard[0] % shard[1]}-of-{shard[1]}.lock" if shard else "check.lock"
    waiting = printable_name(f"waiting for another check of {root} to end")
    with records.locked(root / records.FOLDER / name, waiting):
        yield


if __name__ == "__main__":
    sys.exit(main())
