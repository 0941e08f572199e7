"""Place the videos of a downloaded release at dest/<split>/<class>/<video>, as its JSON of labels says.

    python refactor_dataset.py --src QEVD/QEVD-FIT-300k-Part-{1,2,3,4} --labels fine_grained_labels_release.json \
        --dest full_dataset

The sources are never changed (except by --mode move). Run again, it places only what is missing. Exit code: 0 if all is
placed, 1 if something is absent, refused or failed, 2 for wrong usage, 130 after Ctrl-C, 143 after SIGTERM.
"""

import argparse
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from references.dataset_tools import audit, comparing, placing, planning, records, reports, selection
from references.dataset_tools.progress import printable, printable_name, progress
from references.dataset_tools.release import ReleaseError, Video, read_release
from references.dataset_tools.reports import Outcome
from references.dataset_tools.sources import Sources, find_sources
from references.dataset_tools.stopping import (
    ArgumentParser,
    exit_code_of,
    folder_problem,
    input_problem,
    output_problem,
    replacing_problem,
)


class DatasetRefactorer:
    """Place the videos that `labels` lists, found by file name in `srcs`, under `dest`.

    Args:
        srcs: folders with the videos.
        dest: where the tree goes.
        labels: the release's JSON.
        mode: "auto" (hard link, else copy), "hardlink", "symlink", "copy" or "move".
        classes: only these labels; all where it is None.
        max_per_class: at most so many videos of a class in each split.
        val_fraction: moves this part of each class to "val", where the labels have no "val".
        seed: of the draws for these two.
        allow_duplicates: a video may have two labels or splits.
        force: puts back what check_videos.py quarantined or remuxed.
        prune: removes files placed earlier that are not asked for now.
        verify: compares the bytes of every file with those of its source.
        dry_run: changes nothing, and says what would be done.
        report_dir: where manifest.csv and audit.json are written.
        jobs: number of threads.
        rename_split: split of the labels -> "train" or "val".
        find_duplicates: looks for the same bytes under several names.
        allow_leaks: lets such videos be in both train and val.
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
        rename_split: dict[str, str] | None = None,
        find_duplicates: bool = False,
        allow_leaks: bool = False,
    ):
        self.srcs, self.dest, self.labels = [Path(src) for src in srcs], Path(dest), Path(labels)
        self.mode, self.jobs = mode, jobs
        self.classes, self.max_per_class, self.val_fraction, self.seed = classes, max_per_class, val_fraction, seed
        self.rename_split = rename_split or {}
        self.allow_duplicates, self.find_duplicates, self.allow_leaks = allow_duplicates, find_duplicates, allow_leaks
        self.force, self.prune, self.verify, self.dry_run = force, prune, verify, dry_run
        self.report_dir = Path(report_dir) if report_dir else None

    def refactor_dataset(self) -> Outcome:
        """Place what is missing, and print what was found and done.

        Raises ReleaseError, before anything is placed, where the release cannot be used, and PlacingError where placing
        had to stop (a full disk); a rerun goes on from there.
        """
        listed = read_release(self.labels, split_is_optional=self.val_fraction is not None)
        videos = self._select(listed)
        if self.report_dir is not None:
            reports.prepare(self.report_dir)
        with self._sole_run():
            sources = find_sources(
                self.srcs, {video.name for video in videos}, skip=self.dest, listed={video.name for video in listed}
            )
            tree = planning.scan_tree(self.dest, {video.folder for video in videos})
            withdrawn = records.read_withdrawn(self.dest)
            targets = {f"{video.folder}/{video.name}": video for video in videos}
            found = self._audit(videos, targets, sources, tree, withdrawn)
            plan = planning.plan_placements(self.dest, targets, sources, tree, withdrawn, self.force)
            outcome = self._place(plan, tree)
            outcome.absent = found.absent
            if self.verify:
                self._verify(targets, sources, outcome)
            if self.prune:
                self._prune(set(targets), outcome)
            if self.report_dir is not None:
                reports.write_manifest(self.report_dir, reports.list_placed(self.dest, targets, sources, outcome))
        print(printable(str(outcome)))
        reports.list_problems("could not be dealt with", [f"{path}: {reason}" for path, reason in outcome.problems])
        reports.list_problems("listed, but in none of the sources", outcome.absent)
        return outcome

    def _select(self, videos: list[Video]) -> list[Video]:
        videos = selection.rename_splits(videos, self.rename_split)
        if self.classes is not None:
            videos = selection.keep_classes(videos, self.classes)
        if self.val_fraction is not None:
            videos = selection.split_off_val(videos, self.val_fraction, self.seed)
        if self.max_per_class is not None:
            videos = selection.keep_at_most(videos, self.max_per_class, self.seed)
        if not videos:  # --prune would take away everything
            raise ReleaseError("no video is left to place; check the options that choose videos")
        return videos

    @contextmanager
    def _sole_run(self) -> Iterator[None]:
        if self.dry_run:
            yield
            return
        (self.dest / records.FOLDER).mkdir(parents=True, exist_ok=True)
        waiting = printable_name(f"waiting for another run on {self.dest} to end")
        with records.locked(self.dest / records.FOLDER / "lock", waiting):
            yield

    def _audit(
        self,
        videos: list[Video],
        targets: dict[str, Video],
        sources: Sources,
        tree: planning.Tree,
        withdrawn: dict[str, str],
    ) -> audit.Audit:
        """Print and write the audit. Raises ReleaseError where it found what forbids placing."""
        at_dest = planning.sizes_without_source(self.dest, targets, sources, tree, withdrawn)
        found = audit.audit_release(videos, sources, at_dest)
        if self.find_duplicates:
            files = planning.files_to_compare(self.dest, targets, sources, tree)
            audit.look_for_duplicates(found, videos, files, self.jobs)
        print(printable(found.short_form()))
        if self.report_dir is not None:
            reports.write_audit(self.report_dir, found)
        errors = found.errors(self.allow_duplicates, self.allow_leaks)
        clashing = planning.find_clashing(self.dest, found.alike_files)
        errors += audit.explain_clashes(clashing)
        if self.mode == "move":
            errors += audit.move_errors(found, sources)
        if errors:
            raise ReleaseError("nothing was placed:\n" + "\n".join(f"  {error}" for error in errors))
        for group in found.alike_files[: audit.ERRORS_PER_KIND]:
            warning = "differ only in case or Unicode form: macOS and Windows would keep one of them"
            print(f"warning: {', '.join(map(printable_name, group))} {warning}", file=sys.stderr)
        return found

    def _place(self, plan: planning.Plan, tree: planning.Tree) -> Outcome:
        outcome = Outcome(
            present=len(plan.present), withdrawn=plan.withdrawn, problems=plan.problems, dry_run=self.dry_run
        )
        if not self.dry_run:
            planning.clear_way(self.dest, plan, tree)
            with progress(len(plan.placements), "placing", "file") as advance:
                placed = placing.place_all(plan.placements, self.dest, self.mode, self.jobs, advance, self.verify)
            outcome.ways = dict(placed.ways)
            outcome.problems += placed.failures
        elif plan.placements:
            outcome.ways = {f"{self.mode}, had this not been a dry run": len(plan.placements)}
        if self.mode == "move":
            unfinished = [(path, source) for path, source in plan.present if source is not None]
            outcome.taken_away, kept = placing.finish_moves(unfinished, self.dest, self.dry_run)
            outcome.problems += kept
        return outcome

    def _verify(self, targets: dict[str, Video], sources: Sources, outcome: Outcome) -> None:
        passed_over = {*outcome.withdrawn, *(path for path, _ in outcome.problems)}
        pairs = []
        for path, video in targets.items():
            source = sources.files.get(video.name)
            if source is None or path in passed_over or not (self.dest / path).exists():
                continue
            if self.mode != "move" or os.path.exists(source.path):  # else it was compared before it was taken away
                pairs.append((str(self.dest / path), source.path))
        differing = comparing.find_differing(pairs, self.jobs)
        outcome.problems += [(os.path.relpath(path, self.dest), reason) for path, reason in differing]

    def _prune(self, wanted: set[str], outcome: Outcome) -> None:
        prunable, kept = placing.find_prunable(self.dest, wanted)
        if not self.dry_run:
            placing.remove(self.dest, prunable)
        outcome.pruned = len(prunable)
        outcome.problems += [(path, f"not pruned: {reason}") for path, reason in kept]


def get_args_parser() -> ArgumentParser:
    parser = ArgumentParser(__doc__)
    parser.add_argument("--src", type=Path, nargs="+", required=True, metavar="DIR", help="folders with the videos")
    parser.add_argument("--labels", type=Path, required=True, metavar="JSON", help="the release's list of videos")
    parser.add_argument("--dest", type=Path, required=True, metavar="DIR", help="where the tree goes")

    group = parser.add_argument_group("which videos")
    group.add_argument(
        "--rename-split",
        type=parse_renaming,
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="takes a split of the labels for train or val, such as test=val; may be repeated",
    )
    group.add_argument("--classes-file", type=Path, metavar="FILE", help="only these labels, one a line")
    group.add_argument("--max-per-class", type=int, metavar="N", help="at most N of a class in each split")
    group.add_argument(
        "--val-fraction", type=float, metavar="F", help="moves this part of each class to val, where there is no val"
    )
    group.add_argument("--seed", type=int, default=0, help="of the draws for the two options above (default: 0)")
    group.add_argument("--allow-missing", action="store_true", help="exit code 0 even if listed videos are absent")

    group = parser.add_argument_group("leaks")
    group.add_argument("--allow-duplicates", action="store_true", help="a video may have two labels or splits")
    group.add_argument("--find-duplicates", action="store_true", help="looks for the same bytes under several names")
    group.add_argument("--allow-leaks", action="store_true", help="lets such videos be in both train and val")

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


def parse_renaming(text: str) -> tuple[str, str]:
    old, equals, new = text.rpartition("=")
    if not equals or not old or new not in selection.SPLITS:
        raise argparse.ArgumentTypeError(f"{text}: must be OLD=train or OLD=val, such as test=val")
    return old, new


def check_args(parser: ArgumentParser, args: argparse.Namespace) -> None:
    """End the script with exit code 2 where the arguments cannot be used."""
    if problem := find_problem(args):
        parser.error(problem)


def find_problem(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the arguments, or None."""
    real = os.path.realpath
    for src in args.src:
        if problem := folder_problem("--src", src):
            return problem
        if real(src) == real(args.dest):
            return f"--src {src}: is --dest, which must be another folder"
        for place in (args.dest / split for split in selection.SPLITS):
            if os.path.islink(place) and real(place) == real(src):
                return f"--src {src}: is where the link {place} leads; the tree must be another folder"
    for option, path in (("--labels", args.labels), ("--classes-file", args.classes_file)):
        if problem := input_problem(option, path):
            return problem
        if path and args.report_dir and real(path) in map(real, reports.files_in(args.report_dir)):
            return f"{option} {path}: is a file that --report-dir would overwrite; name another folder"
    for option, folder in (("--dest", args.dest), ("--report-dir", args.report_dir)):
        if problem := output_problem(option, folder, is_folder=True):
            return problem
    if args.report_dir is not None:
        folder = Path(real(args.report_dir))
        if any(folder.is_relative_to(real(args.dest / split)) for split in selection.SPLITS):
            return f"--report-dir {args.report_dir}: lies among the class folders; name another folder"
        for path in reports.files_in(args.report_dir):
            if problem := replacing_problem("--report-dir", path, reports.BEGINNINGS[path.name]):
                return problem
    if args.val_fraction is not None and not 0 < args.val_fraction < 1:
        return f"--val-fraction {args.val_fraction}: must lie between 0 and 1"
    for option, number, least in (
        ("--max-per-class", args.max_per_class, 1),
        ("--jobs", args.jobs, 1),
        ("--seed", args.seed, 0),  # -1 draws as 1 does
    ):
        if number is not None and number < least:
            return f"{option} {number}: must be at least {least}"
    if len(dict(args.rename_split)) < len(args.rename_split):
        return "--rename-split: one split is renamed twice"
    if args.allow_leaks and not args.find_duplicates:
        return "--allow-leaks needs --find-duplicates"
    return None


def main(argv: list[str] | None = None) -> int:
    parser = get_args_parser()
    args = parser.parse_args(argv)
    check_args(parser, args)
    expected = (ReleaseError, records.RecordError, placing.PlacingError, OSError)
    return exit_code_of(lambda: refactor(args), expected, "stopped; what was placed is whole, run again to go on")


def refactor(args: argparse.Namespace) -> int:
    options = {name: value for name, value in vars(args).items() if name not in ("classes_file", "allow_missing")}
    options |= {"srcs": options.pop("src"), "rename_split": dict(args.rename_split)}
    classes = selection.read_classes(args.classes_file) if args.classes_file else None
    with collector_paused():
        outcome = DatasetRefactorer(**options, classes=classes).refactor_dataset()
    is_short = bool(outcome.absent) and not args.allow_missing
    if is_short:
        print("the exit code is 1, since listed videos are absent; --allow-missing accepts that", file=sys.stderr)
    return 1 if outcome.problems or is_short else 0


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


if __name__ == "__main__":
    sys.exit(main())
