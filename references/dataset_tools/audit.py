"""What a release holds, and what is wrong with it."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

from references.dataset_tools.comparing import Duplicates, find_duplicates, same_bytes
from references.dataset_tools.names import appearance, composed, folded
from references.dataset_tools.progress import printable_name
from references.dataset_tools.release import Video
from references.dataset_tools.sources import Sources
from references.dataset_tools.walking import VIDEO_ENDINGS

ERRORS_PER_KIND = 20  # that are printed; audit.json holds all


@dataclass
class Audit:
    """The state of a release against its sources; what `audit.json` holds."""

    videos: int = 0
    bytes: int = 0
    per_class: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)  # split -> label -> videos, bytes
    absent: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    not_files: list[str] = field(default_factory=list)  # paths with a listed name that lead to no file
    no_videos: list[str] = field(default_factory=list)  # names without a video extension
    same_name_same_bytes: dict[str, list[str]] = field(default_factory=dict)
    same_name_different_bytes: dict[str, list[str]] = field(default_factory=dict)
    listed_twice: dict[str, list[list[str]]] = field(default_factory=dict)  # name -> [label, split] pairs: a leak
    one_split_only: dict[str, str] = field(default_factory=dict)
    alike_labels: list[list[str]] = field(default_factory=list)
    alike_files: list[list[str]] = field(default_factory=list)  # paths under dest that differ in case only
    duplicates: list[list[str]] = field(default_factory=list)  # names of files with the same bytes
    leaking_duplicates: list[list[str]] = field(default_factory=list)  # of these, the groups in both train and val
    not_compared: dict[str, str] = field(default_factory=dict)  # name -> why it could not be read

    def errors(self, allow_duplicates: bool, allow_leaks: bool = False) -> list[str]:
        """Why nothing may be placed; empty where all is well."""
        errors = []
        if self.no_videos:
            names = f"{len(self.no_videos)} names have no video extension ({_some(self.no_videos)})"
            errors.append(f"{names}, so check_videos.py and training would ignore them; known are {_endings()}")
        errors += _explain(
            self.same_name_different_bytes.items(),
            lambda name, paths: (
                f"{name}: two different files have this name: {' and '.join(paths)}; rename or remove one"
            ),
        )
        if not allow_duplicates:
            errors += _explain(
                self.listed_twice.items(),
                lambda name, places: (
                    f"{name}: is listed under {_places(places)}, a leak; correct the labels, or --allow-duplicates"
                ),
            )
        errors += _explain(
            self.alike_labels,
            lambda *names: (
                f"{_told_apart(names)} differ only in what is hard to see (case, spaces, _, Unicode form, "
                "invisible characters, a last dot); give them one spelling in the labels"
            ),
        )
        if not allow_leaks:
            errors += _explain(
                self.leaking_duplicates,
                lambda *names: (
                    f"{', '.join(names)}: the same bytes in train and in val, a leak; "
                    "leave them in one split, or --allow-leaks"
                ),
            )
        errors += _explain(
            self.not_compared.items(),
            lambda name, reason: f"{name}: cannot be read to look for duplicates: {reason}",
        )
        return errors

    def as_json(self) -> dict:
        return asdict(self)

    def short_form(self) -> str:
        lines = [f"{self.videos} videos, {_megabytes(self.bytes)} MB"]
        for split, classes in sorted(self.per_class.items()):
            videos = sum(count["videos"] for count in classes.values())
            size = sum(count["bytes"] for count in classes.values())
            lines.append(f"  {split}: {videos} videos, {_megabytes(size)} MB in {len(classes)} classes")
            for label, count in sorted(classes.items()):
                size_and_label = f"{_megabytes(count['bytes']):>10} MB  {printable_name(label)}"
                lines.append(f"    {count['videos']:7d} {size_and_label}")
        lines.append(f"  listed but absent: {len(self.absent)}; present but unlisted: {len(self.unlisted)}")
        for text, found in (
            ("with a listed name, but a broken link or not a file", self.not_files),
            ("without a video extension", self.no_videos),
            ("the same file in several sources (the first is used)", self.same_name_same_bytes),
            ("different files of one name", self.same_name_different_bytes),
            ("listed under several labels or splits", self.listed_twice),
            ("classes in one split only", self.one_split_only),
            ("labels that are hard to tell apart", self.alike_labels),
            ("file names of a class that differ only in case or Unicode form", self.alike_files),
            ("the same bytes under several names", self.duplicates),
            ("of these, in both train and val", self.leaking_duplicates),
        ):
            if found:
                lines.append(f"  {text}: {len(found)} ({_some(found)})")
        return "\n".join(lines)


def audit_release(videos: list[Video], sources: Sources, at_dest: dict[str, int]) -> Audit:
    """Compare what is listed with what the sources hold. `at_dest`: name -> bytes of what no longer needs a source."""
    audit = Audit(unlisted=sources.unlisted, not_files=sources.not_files)
    names = _count(audit, videos, sources, at_dest)
    audit.absent = [name for name in names if name not in sources.files and name not in at_dest]
    audit.no_videos = _without_ending(names)
    for name in sources.repeats:
        first, *others = [sources.files[name], *sources.repeats[name]]
        same = all(same_bytes(first.path, other.path) for other in others)
        found = audit.same_name_same_bytes if same else audit.same_name_different_bytes
        found[name] = [first.path, *(other.path for other in others)]
    splits_of = defaultdict(set)
    for split, classes in audit.per_class.items():
        for label in classes:
            splits_of[label].add(split)
    if len(audit.per_class) > 1:
        audit.one_split_only = {label: min(splits) for label, splits in splits_of.items() if len(splits) == 1}
    audit.alike_labels = _alike(splits_of, appearance)
    if not all(name.islower() and name.isascii() for name in names):  # else no two of them can be alike
        audit.alike_files = _alike({f"{video.folder}/{video.name}" for video in videos}, folded)
    return audit


def _count(audit: Audit, videos: list[Video], sources: Sources, at_dest: dict[str, int]) -> dict[str, tuple[str, str]]:
    """Count videos and bytes by class, and note those that are listed twice. Returns name -> label, split."""
    first_place: dict[str, tuple[str, str]] = {}
    for name, label, split in videos:
        if name in first_place:
            audit.listed_twice.setdefault(name, [[*first_place[name]]]).append([label, split])
        else:
            first_place[name] = (label, split)
        count = audit.per_class.setdefault(split, {}).setdefault(label, {"videos": 0, "bytes": 0})
        source = sources.files.get(name)
        if source is None and name not in at_dest:
            continue
        count["videos"] += 1
        count["bytes"] += source.bytes if source else at_dest[name]
    audit.videos = sum(count["videos"] for classes in audit.per_class.values() for count in classes.values())
    audit.bytes = sum(count["bytes"] for classes in audit.per_class.values() for count in classes.values())
    return first_place


def look_for_duplicates(audit: Audit, videos: list[Video], files: dict[str, tuple[str, int]], jobs: int) -> None:
    """Add to the audit which videos hold the same bytes. Shows progress.

    Args:
        audit: of these videos; changed in place.
        videos: the entries of the release.
        files: name -> path and bytes.
        jobs: number of threads.
    """
    found: Duplicates = find_duplicates(((name, *file) for name, file in files.items()), jobs)
    audit.duplicates, audit.not_compared = found.groups, found.unread
    splits_of = defaultdict(set)
    names = {name for group in found.groups for name in group}
    for video in videos:
        if video.name in names:
            splits_of[video.name].add(video.split)
    for group in found.groups:
        if len(set().union(*(splits_of[name] for name in group))) > 1:
            audit.leaking_duplicates.append(group)


def move_errors(audit: Audit, sources: Sources) -> list[str]:
    """Why the sources of this release cannot be moved; empty where they can."""
    errors = []
    if audit.listed_twice:
        errors.append("a video listed twice cannot be moved to two places; choose another --mode")
    linked = [file.path for file in sources.files.values() if file.through_link]
    if linked:
        where = f"{len(linked)} videos are found through symbolic links, the first at {printable_name(linked[0])}"
        errors.append(f"{where}: these are not moved; choose another --mode, or replace the links by the files")
    return errors


def explain_clashes(clashing: list[list[str]]) -> list[str]:
    """Why paths that are one to the destination's disk cannot be placed."""
    return _explain(
        clashing,
        lambda *paths: (
            f"{' and '.join(paths)} are one name to the disk of --dest, which ignores case or Unicode form; "
            "rename the files and their entries, or place them on another disk"
        ),
    )


def _without_ending(names: Iterable[str]) -> list[str]:
    """The names whose extension, in any case, is not that of a video."""
    wanted = {ending.lstrip(".") for ending in VIDEO_ENDINGS}
    others = {ending for ending in {name.rpartition(".")[2] for name in names} if ending.lower() not in wanted}
    return [name for name in names if name.rpartition(".")[2] in others] if others else []


def _endings() -> str:
    return ", ".join(ending.lstrip(".") for ending in VIDEO_ENDINGS)


def _alike(names: Iterable[str], key: Callable[[str], str]) -> list[list[str]]:
    groups = defaultdict(list)
    for name in sorted(names):
        groups[key(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _explain(found: Iterable, explanation: Callable[..., str]) -> list[str]:
    found = list(found)
    lines = [printable_name(explanation(*item)) for item in found[:ERRORS_PER_KIND]]
    if len(found) > ERRORS_PER_KIND:
        lines.append(f"and {len(found) - ERRORS_PER_KIND} more like the last (--report-dir lists all)")
    return lines


def _places(places: list[list[str]]) -> str:
    return " and ".join(f"{_quoted(label)} in {split}" for label, split in places)


def _told_apart(names: Iterable[str]) -> str:
    """The names in quotes, where need be with escapes, so that no two of them look the same."""
    quoted = [_quoted(name) for name in names]
    if len(set(map(composed, quoted))) < len(quoted):
        quoted = [text.encode("ascii", "backslashreplace").decode() for text in quoted]
    return " and ".join(quoted)


def _quoted(name: str) -> str:
    return f'"{printable_name(name)}"'


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _some(found: Iterable, limit: int = 5) -> str:
    items = list(found)
    names = [" / ".join(map(printable_name, [item] if isinstance(item, str) else item)) for item in items[:limit]]
    return ", ".join(names) + (", ..." if len(items) > limit else "")
