"""Places the videos of a downloaded release at dest/<split>/<class>/<video>, as its JSON of labels says.

    python refactor_dataset.py --src QEVD/QEVD-FIT-300k-Part-{1,2,3,4} --labels fine_grained_labels_release.json \
        --dest full_dataset

The sources are never changed (unless --mode move is asked for). Run again, it places only what is missing.
"""

import argparse
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from references.dataset_tools import placing, records, selection
from references.dataset_tools.audit import Audit, audit_release
from references.dataset_tools.progress import printable, progress
from references.dataset_tools.release import ReleaseError, SourceFile, Sources, Video, find_sources, read_release
from references.dataset_tools.reports import ManifestRow, write_audit, write_manifest


@dataclass
class Outcome:
    """What one run did; paths are relative to the destination."""

    ways: dict[str, int] = field(default_factory=dict)  # "hard link", "copy", ... -> number of files placed so
    present: int = 0
    withdrawn: dict[str, str] = field(default_factory=dict)  # not put back: path -> "quarantined" or "remuxed"
    absent: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)  # (path, reason): not placed, differing, not pruned
    taken_away: int = 0  # sources of files that were there already, with mode "move"
    pruned: int = 0
    dry_run: bool = False

    def __str__(self) -> str:
        ways = ", ".join(f"{count} by {way}" for way, count in sorted(self.ways.items()))
        lines = [f"placed {sum(self.ways.values())}{f' ({ways})' if ways else ''}, {self.present} were there already"]
        if self.taken_away:
            verb = "would take" if self.dry_run else "took"
            lines.append(f"{verb} away the sources of {self.taken_away} that were there already (--mode move)")
        for status in ("quarantined", "remuxed"):
            count = list(self.withdrawn.values()).count(status)
            if count:
                remedy = "--force puts back what a source holds, check_videos.py --restore all"
                lines.append(f"{count} left as they are: check_videos.py {status} them ({remedy})")
        if self.pruned:
            verb = "would prune" if self.dry_run else "pruned"
            lines.append(f"{verb} {self.pruned} that the labels no longer ask for")
        return "\n".join(lines)


class DatasetRefactorer:
    """Places the videos that `labels` lists, found by file name in `srcs`, under `dest`.

    `mode` is one of "auto" (hard link, else copy), "hardlink", "symlink", "copy", "move"; the other options are those
    of the command line, described there.
    """

    def __init__(
        self,
        srcs: list[Path],
        dest: Path,
        labels: Path,
        *,
        mode: str = "auto",
        classes: list[str] | None = None,
        max_per_class: int | None = None,
        val_fraction: float | None = None,
        seed: int = 0,
        allow_duplicates: bool = False,
        force: bool = False,
        prune: bool = False,
        verify: bool = False,
        dry_run: bool = False,
        report_dir: Path | None = None,
        jobs: int = 1,
    ):
        self.srcs, self.dest, self.labels = [Path(src) for src in srcs], Path(dest), Path(labels)
        self.mode, self.jobs = mode, jobs
        self.classes, self.max_per_class, self.val_fraction, self.seed = classes, max_per_class, val_fraction, seed
        self.allow_duplicates, self.force = allow_duplicates, force
        self.prune, self.verify, self.dry_run = prune, verify, dry_run
        self.report_dir = Path(report_dir) if report_dir else None

    def refactor_dataset(self) -> Outcome:
        """Places what is missing, and prints what was found and done.

        Raises ReleaseError, before anything is placed, where the release cannot be used, and PlacingError where placing
        had to stop (a full disk); a rerun goes on from there.
        """
        listed = read_release(self.labels, split_is_optional=self.val_fraction is not None)
        videos = self._select(listed)
        with self._sole_run():
            sources = find_sources(
                self.srcs, {video.name for video in videos}, skip=self.dest, listed={video.name for video in listed}
            )
            tree = placing.scan_tree(self.dest, {video.folder for video in videos})
            withdrawn = records.read_withdrawn(self.dest)
            targets = {f"{video.folder}/{video.name}": video for video in videos}
            audit = audit_release(videos, sources, self._without_source(targets, sources, tree, withdrawn))
            print(printable(audit.short_form()))
            if self.report_dir is not None:
                write_audit(self.report_dir, audit)
            self._refuse_if_wrong(audit, sources)
            outcome = self._place(targets, sources, tree, withdrawn)
            outcome.absent = audit.absent
            if self.verify:
                self._verify(targets, sources, outcome)
            if self.prune:
                self._prune(set(targets), outcome)
            if self.report_dir is not None:
                write_manifest(self.report_dir, self._list_placed(targets, sources, outcome))
        print(printable(str(outcome)))
        list_problems("could not be dealt with", [f"{path}: {reason}" for path, reason in outcome.problems])
        list_problems("listed, but in none of the sources", outcome.absent)
        return outcome

    def _select(self, videos: list[Video]) -> list[Video]:
        if self.classes is not None:
            videos = selection.keep_classes(videos, self.classes)
        if self.val_fraction is not None:
            videos = selection.split_off_val(videos, self.val_fraction, self.seed)
        if self.max_per_class is not None:
            videos = selection.keep_at_most(videos, self.max_per_class, self.seed)
        return videos

    @contextmanager
    def _sole_run(self) -> Iterator[None]:
        if self.dry_run:
            yield
            return
        (self.dest / records.FOLDER).mkdir(parents=True, exist_ok=True)
        waiting = printable(f"waiting for another run on {self.dest} to end")
        with records.locked(self.dest / records.FOLDER / "lock", waiting):
            yield

    def _without_source(
        self, targets: dict[str, Video], sources: Sources, tree: placing.Tree, withdrawn: dict[str, str]
    ) -> dict[str, int]:
        """Name -> bytes of the videos that no source holds and that are in place, or were until they were withdrawn."""
        paths = {path: video.name for path, video in targets.items() if video.name not in sources.files}
        gone = {path: name for path, name in paths.items() if path in withdrawn and path not in tree.files}
        placed = placing.read_placed(self.dest) if gone else {}
        sizes = {name: placed[path][0] if path in placed else 0 for path, name in gone.items()}
        return sizes | {name: os.path.getsize(self.dest / path) for path, name in paths.items() if path in tree.files}

    def _list_placed(self, targets: dict[str, Video], sources: Sources, outcome: Outcome) -> Iterator[ManifestRow]:
        """What is now under dest; after a dry run, what would be."""
        placed = placing.read_placed(self.dest)
        for path, video in sorted(targets.items()):
            source = sources.files.get(video.name)
            try:
                size = os.path.getsize(self.dest / path)
            except OSError:
                if not self.dry_run or source is None or path in outcome.withdrawn:
                    continue
                size = source.bytes
            _, _, origin = placed.get(path, (0, 0, source.path if source else ""))
            yield ManifestRow(path, origin, video.label, video.split, size)

    def _refuse_if_wrong(self, audit: Audit, sources: Sources) -> None:
        errors = audit.errors(self.allow_duplicates)
        if self.mode == "move":
            if audit.listed_twice:
                errors.append("a video listed twice cannot be moved to two places; choose another --mode")
            linked = [file.path for file in sources.files.values() if file.through_link]
            if linked:
                where = f"{len(linked)} videos are found through symbolic links, the first at {linked[0]}"
                errors.append(f"{where}: these are not moved; choose another --mode, or replace the links by the files")
        if errors:
            raise ReleaseError("nothing was placed:\n" + "\n".join(f"  {error}" for error in errors))

    def _place(self, targets: dict[str, Video], sources: Sources, tree: placing.Tree, withdrawn: dict) -> Outcome:
        outcome = Outcome(dry_run=self.dry_run)
        placements, forced, unfinished_moves = [], [], []
        for path, video in targets.items():
            source, is_there = sources.files.get(video.name), path in tree.files
            if path in withdrawn and (withdrawn[path] == "remuxed" or not is_there):
                is_held = source is not None and not (is_there and os.path.samefile(self.dest / path, source.path))
                if self.force and is_held:
                    forced.append(path)
                    placements.append(placing.Placement(path, source))
                    continue
                outcome.withdrawn[path] = withdrawn[path]
                if self.force:
                    reason = f"was {withdrawn[path]}, and no source holds it; check_videos.py --restore puts it back"
                    outcome.problems.append((path, reason))
            elif is_there:
                outcome.present += 1
                if source is not None:
                    unfinished_moves.append((path, source))
            elif source is not None:
                placements.append(placing.Placement(path, source))
        if self.dry_run:
            outcome.ways = {f"{self.mode}, had this not been a dry run": len(placements)} if placements else {}
            self._finish_moves(unfinished_moves, outcome)
            return outcome
        records.record_withdrawn(self.dest, forced, "put back")
        in_the_way = [path for path in forced if path in tree.files]
        to_nothing = [placement.target for placement in placements if placement.target in tree.dangling]
        for path in [*tree.partial, *to_nothing, *in_the_way]:
            (self.dest / path).unlink()
        with progress(len(placements), "placing", "file") as advance:
            placed = placing.place_all(placements, self.dest, self.mode, self.jobs, advance, self.verify)
        outcome.ways = dict(placed.ways)
        outcome.problems += placed.failures
        self._finish_moves(unfinished_moves, outcome)
        return outcome

    def _finish_moves(self, moves: list[tuple[str, SourceFile]], outcome: Outcome) -> None:
        if self.mode == "move":
            outcome.taken_away, kept = placing.finish_moves(moves, self.dest, self.dry_run)
            outcome.problems += kept

    def _verify(self, targets: dict[str, Video], sources: Sources, outcome: Outcome) -> None:
        passed_over = {*outcome.withdrawn, *(path for path, _ in outcome.problems)}
        pairs = []
        for path, video in targets.items():
            source = sources.files.get(video.name)
            if source is None or path in passed_over or not (self.dest / path).exists():
                continue
            if self.mode != "move" or os.path.exists(source.path):  # else it was compared before it was taken away
                pairs.append((str(self.dest / path), source.path))
        with progress(len(pairs), "verifying", "file") as advance:
            differing = placing.find_differing(pairs, self.jobs, advance)
        outcome.problems += [(os.path.relpath(path, self.dest), reason) for path, reason in differing]

    def _prune(self, wanted: set[str], outcome: Outcome) -> None:
        prunable, kept = placing.find_prunable(self.dest, wanted)
        if not self.dry_run:
            placing.remove(self.dest, prunable)
        outcome.pruned = len(prunable)
        outcome.problems += [(path, f"not pruned: {reason}") for path, reason in kept]


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", type=Path, nargs="+", required=True, metavar="DIR", help="folders with the videos")
    parser.add_argument("--labels", type=Path, required=True, metavar="JSON", help="the release's list of videos")
    parser.add_argument("--dest", type=Path, required=True, metavar="DIR", help="where the tree goes")

    group = parser.add_argument_group("which videos")
    group.add_argument("--classes-file", type=Path, metavar="FILE", help="only these labels, one a line")
    group.add_argument("--max-per-class", type=int, metavar="N", help="at most N of a class in each split")
    group.add_argument(
        "--val-fraction", type=float, metavar="F", help="makes a val split of this part of each class, if there is none"
    )
    group.add_argument("--seed", type=int, default=0, help="draws for the two options above (default: 0)")
    group.add_argument("--allow-duplicates", action="store_true", help="a video may have two labels or splits")
    group.add_argument("--allow-missing", action="store_true", help="exit code 0 even if listed videos are absent")

    group = parser.add_argument_group("how they are placed")
    group.add_argument(
        "--mode",
        choices=placing.PLACERS,
        default="auto",
        help="auto is hard link, else copy; only move changes the sources",
    )
    group.add_argument("--force", action="store_true", help="puts back what check_videos.py quarantined or remuxed")
    group.add_argument("--prune", action="store_true", help="removes files placed earlier that are not asked for now")
    group.add_argument("--verify", action="store_true", help="compares the bytes of every file with its source's")
    group.add_argument("--dry-run", action="store_true", help="only says what would be done")
    group.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="threads (default: the cores)")
    group.add_argument("--report-dir", type=Path, metavar="DIR", help="writes manifest.csv and audit.json there")
    return parser


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for src in args.src:
        if not src.is_dir():
            parser.error(f"--src {src}: there is no such folder")
        if src.resolve() == args.dest.resolve():
            parser.error(f"--src {src}: is --dest, which must be another folder")
    for option, path in (("--labels", args.labels), ("--classes-file", args.classes_file)):
        if path is not None and not path.is_file():
            parser.error(f"{option} {path}: there is no such file")
    for folder in (args.dest, args.report_dir):
        if folder is not None and folder.exists() and not folder.is_dir():
            parser.error(f"{folder}: is a file, not a folder")
    if args.val_fraction is not None and not 0 < args.val_fraction < 1:
        parser.error(f"--val-fraction {args.val_fraction}: must lie between 0 and 1")
    for option, number in (("--max-per-class", args.max_per_class), ("--jobs", args.jobs)):
        if number is not None and number < 1:
            parser.error(f"{option} {number}: must be at least 1")


def main(argv: list[str] | None = None) -> int:
    parser = get_args_parser()
    args = parser.parse_args(argv)
    check_args(parser, args)
    options = {
        name: value for name, value in vars(args).items() if name not in ("src", "classes_file", "allow_missing")
    }
    try:
        classes = selection.read_classes(args.classes_file) if args.classes_file else None
        with collector_paused():
            outcome = DatasetRefactorer(args.src, classes=classes, **options).refactor_dataset()
    except (ReleaseError, records.RecordError, placing.PlacingError, OSError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was placed is whole, run again to go on", file=sys.stderr)
        return 1
    return 1 if outcome.problems or (outcome.absent and not args.allow_missing) else 0


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without the cyclic garbage collector, which would go over hundreds of thousands of tuples again and again.

    It took 15 % of the time of a rerun over 100,000 files; nothing here is in cycles.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def list_problems(heading: str, items: list[str], limit: int = 100) -> None:
    if not items:
        return
    print(f"{len(items)} {heading}:", file=sys.stderr)
    for item in items[:limit]:
        print(f"  {item}", file=sys.stderr)
    if len(items) > limit:
        print(f"  and {len(items) - limit} more (--report-dir lists all that are absent)", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
