"""What a release holds and what is wrong with it; a room of its own, as it changes nothing."""

from collections import defaultdict
from dataclasses import asdict, dataclass, field

from references.dataset_tools.placing import same_bytes
from references.dataset_tools.release import Sources, Video


@dataclass
class Audit:
    """The state of a release against its sources; what `audit.json` holds."""

    videos: int = 0
    bytes: int = 0
    per_class: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)  # split -> label -> videos, bytes
    absent: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    not_files: list[str] = field(default_factory=list)  # paths with a listed name that lead to no file
    same_name_same_bytes: dict[str, list[str]] = field(default_factory=dict)
    same_name_different_bytes: dict[str, list[str]] = field(default_factory=dict)
    listed_twice: dict[str, list[list[str]]] = field(default_factory=dict)  # name -> [label, split] pairs: a leak
    one_split_only: dict[str, str] = field(default_factory=dict)
    alike_labels: list[list[str]] = field(default_factory=list)

    def errors(self, allow_duplicates: bool) -> list[str]:
        """Why nothing may be placed; empty where all is well."""
        errors = []
        for name, paths in self.same_name_different_bytes.items():
            errors.append(f"{name}: two different files have this name: {' and '.join(paths)}; rename or remove one")
        if not allow_duplicates:
            for name, places in self.listed_twice.items():
                where = " and ".join(f'"{label}" in {split}' for label, split in places)
                errors.append(f"{name}: is listed under {where}, a leak; correct the labels, or --allow-duplicates")
        for names in self.alike_labels:
            quoted = " and ".join(f'"{name}"' for name in names)
            errors.append(f"{quoted} would share a folder on some systems; give them one spelling in the labels")
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
                lines.append(f"    {count['videos']:7d} {_megabytes(count['bytes']):>10} MB  {label}")
        lines.append(f"  listed but absent: {len(self.absent)}; present but unlisted: {len(self.unlisted)}")
        for text, found in (
            ("with a listed name, but a link to nothing or no file", self.not_files),
            ("the same file in several sources (the first is used)", self.same_name_same_bytes),
            ("different files of one name", self.same_name_different_bytes),
            ("listed under several labels or splits", self.listed_twice),
            ("classes in one split only", self.one_split_only),
            ("labels that differ in case, spaces or _ only", self.alike_labels),
        ):
            if found:
                lines.append(f"  {text}: {len(found)} ({_some(found)})")
        return "\n".join(lines)


def audit_release(videos: list[Video], sources: Sources, at_dest: dict[str, int]) -> Audit:
    """Compares what is listed with what the sources hold. `at_dest`: name -> bytes of what needs no source any more."""
    audit = Audit(unlisted=sources.unlisted, not_files=sources.not_files)
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
    audit.absent = [name for name in first_place if name not in sources.files and name not in at_dest]
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
    audit.alike_labels = _alike(splits_of) + _alike(audit.per_class)
    return audit


def _alike(names) -> list[list[str]]:
    groups = defaultdict(list)
    for name in sorted(names):
        groups[name.replace("_", "").replace(" ", "").casefold()].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _some(found, limit: int = 5) -> str:
    names = [" / ".join(item) if isinstance(item, list) else item for item in found]
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
