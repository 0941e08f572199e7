"""The JSON of a release: the videos that it lists, validated."""

import json
import unicodedata
from collections import Counter
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from references.dataset_tools.names import IS_UTF8, is_invisible, to_name
from references.dataset_tools.progress import printable_name

KEYS = ("video_path", "label", "split")


class ReleaseError(ValueError):
    """The release cannot be used as it is; the message says which entry or file, and what to do."""


class Video(NamedTuple):
    """One entry of the release: a video's file name, and the label and split that it is listed under."""

    name: str
    label: str
    split: str

    @property
    def folder(self) -> str:
        """The class folder that it belongs in, relative to the destination."""
        return f"{self.split}/{class_folder(self.label)}"


class RepeatingObject(dict):
    """A JSON object that holds `repeated` keys more than once."""

    repeated: list[str]


@cache
def class_folder(label: str) -> str:
    return label.replace(" ", "_")


def read_release(labels: Path, split_is_optional: bool = False) -> list[Video]:
    """Read the videos that the JSON lists, in its order; an entry written twice counts once.

    With `split_is_optional` an entry without a split belongs to "train".
    Raises ReleaseError where the file is not a list of entries `{"video_path", "label", "split"}`, where that list is
    empty, or where a name in it would lead out of the destination.
    """
    shown = printable_name(str(labels))
    entries = _parse(labels, shown)
    if not isinstance(entries, list):
        raise ReleaseError(f"{shown}: {_describe_other(entries, labels)}")
    if not entries:
        raise ReleaseError(f"{shown}: is an empty list; it must hold an entry for every video")
    default_split = "train" if split_is_optional else None
    videos: dict[Video, None] = {}
    for index, entry in enumerate(entries):
        try:
            videos[_read_entry(entry, default_split)] = None
        except ReleaseError as error:
            text = json.dumps(entry)
            raise ReleaseError(f"{shown}: entry {index} ({text[:200]}): {error}") from None
    return list(videos)


def _parse(labels: Path, shown: str) -> object:
    data = labels.read_bytes()
    if not data.strip():
        raise ReleaseError(f"{shown}: is empty; it must be a JSON list with an entry for every video")
    try:
        return json.loads(data, object_pairs_hook=_to_object)
    except UnicodeDecodeError as error:
        raise ReleaseError(f"{shown}: is not text in UTF-8 ({error}); save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        if _is_json_lines(data):
            raise ReleaseError(
                f"{shown}: holds one JSON object a line (JSON Lines), not a list of entries; make it a list: "
                + _python("[json.loads(line) for line in sys.stdin if line.strip()]", labels)
            ) from None
        raise ReleaseError(f"{shown}: is not JSON: {error}") from None


def _to_object(pairs: list[tuple[str, object]]) -> dict:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        entry = RepeatingObject(entry)
        entry.repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    return entry


def _is_json_lines(data: bytes) -> bool:
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()][:2]
    try:
        return len(lines) == 2 and all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


def _python(expression: str, labels: Path) -> str:
    """A command that writes `expression` of the labels (on standard input) as a JSON of its own."""
    return f"python -c \"import json, sys; json.dump({expression}, sys.stdout)\" < '{labels}' > list.json"


def _describe_other(value: object, labels: Path) -> str:
    """What the JSON is instead of a list, and what to do about it."""
    if not isinstance(value, dict):
        return f"is {json.dumps(value)[:50]}, not a list of entries"
    if "video_path" in value:
        return "is a single entry, not a list of entries; put [ before it and ] after it"
    lists = [key for key, inner in value.items() if isinstance(inner, list)]
    if len(lists) == 1 and lists[0].isidentifier():
        command = _python(f"json.load(sys.stdin)['{lists[0]}']", labels)
        found = f'is an object whose "{lists[0]}" holds a list of {len(value[lists[0]])}, not the list itself'
        return f"{found}; take the list out of it: {command}"
    if lists:
        return f"is an object that holds lists under {_quoted(lists)}; make it one list, of entries {_example()}"
    return f"is an object with the keys {_quoted(value)}, not a list of entries {_example()}"


def _read_entry(entry: object, default_split: str | None) -> Video:
    if not isinstance(entry, dict):
        raise ReleaseError(f"is not an object like {_example()}")
    if isinstance(entry, RepeatingObject):
        raise ReleaseError(f"holds {_quoted(entry.repeated)} more than once; keep the right one")
    path, label, split = entry.get("video_path"), entry.get("label"), entry.get("split", default_split)
    if not (isinstance(path, str) and isinstance(label, str) and isinstance(split, str)):
        raise ReleaseError(_describe_unusable(entry, dict(zip(KEYS, (path, label, split), strict=True))))
    video = Video(path.rpartition("/")[2], label, split)
    problems = _name_problem(video.name), _folder_problem(video.label), _folder_problem(video.split)
    if any(problems):
        key, text, problem = next(found for found in zip(KEYS, video, problems, strict=True) if found[2])
        raise ReleaseError(f'its {key} "{printable_name(text)}" {problem}, so it cannot name a file or folder')
    return video if IS_UTF8 else Video(*map(to_name, video))


def _describe_unusable(entry: dict, values: dict[str, object]) -> str:
    """Why an entry whose `values` (by key) are not all strings cannot be used, and what to do about it."""
    key, value = next((key, value) for key, value in values.items() if not isinstance(value, str))
    if key in entry:
        found = f'its "{key}" is {json.dumps(value)[:50]}, not a string'
        several = '; a video has one label here: write an entry for each of them, with "label" a string'
        return found + (several if key == "label" and isinstance(value, list) else "")
    if key == "label" and isinstance(entry.get("labels"), list):
        found = f'has "labels" ({json.dumps(entry["labels"])[:80]}), a list, where "label" is wanted'
        return f'{found}; a video has one label here: name it by "label", in an entry for each label that it has'
    remedy = '; --val-fraction makes a "val" split of labels that have no splits' if key == "split" else ""
    return f'has no "{key}"; its keys are {_quoted(entry)}{remedy}'


def _example() -> str:
    return '{"video_path": ..., "label": ..., "split": ...}'


def _quoted(keys, limit: int = 5) -> str:
    quoted = [json.dumps(key[:50]) for key in keys]
    return (", ".join(quoted[:limit]) + (", ..." if len(quoted) > limit else "")) or "(none)"


def _name_problem(text: str) -> str | None:
    """Why `text` cannot be the name of one file or folder; None where it can."""
    if text.isascii() and text.isprintable() and text[:1].isalnum() and "/" not in text and "\\" not in text:
        return None if len(text) <= 255 else "is longer than 255 bytes"  # the usual case, quickly
    if not text.strip():
        return "is empty"
    if text.startswith("."):
        return "begins with a dot"
    if "/" in text or "\\" in text:
        return "holds a path separator"
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
        return "holds a control character"
    if all(is_invisible(character) for character in text):
        return "holds invisible characters only"
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return "is longer than 255 bytes" if len(encoded) > 255 else None


_folder_problem = lru_cache(maxsize=None)(_name_problem)  # labels are few, entries many
