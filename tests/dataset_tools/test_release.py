import json
import os
import subprocess
import sys

import pytest

from helpers.release_files import make_release, write_labels
from references.dataset_tools import comparing
from references.dataset_tools.audit import audit_release, look_for_duplicates
from references.dataset_tools.release import ReleaseError, Video, read_release
from references.dataset_tools.selection import keep_at_most, keep_classes, read_classes, rename_splits, split_off_val
from references.dataset_tools.sources import find_sources

GOOD = {"video_path": "./1.mp4", "label": "elbow plank", "split": "train"}


def read(tmp_path, content, **options):
    path = tmp_path / "labels.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_release(path, **options)


def test_entries_are_read_in_order_and_once(tmp_path):
    other = {**GOOD, "video_path": "deep/er/2.mp4"}
    videos = read(tmp_path, [other, GOOD, GOOD])
    assert videos == [Video("2.mp4", "elbow plank", "train"), Video("1.mp4", "elbow plank", "train")]
    assert videos[0].folder == "train/elbow_plank"


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps([GOOD]), encoding="utf-8-sig")
    assert read_release(tmp_path / "labels.json") == [Video("1.mp4", "elbow plank", "train")]


@pytest.mark.parametrize("content", ["", "{", "nothing", '{"video_path": "1.mp4"}', '"text"', "3", "[" * 100000])
def test_what_is_no_list_is_refused(tmp_path, content):
    with pytest.raises(ReleaseError, match="labels.json"):
        read(tmp_path, content)


LINES = f"{json.dumps(GOOD)}\n\n{json.dumps(GOOD)}\n"
WRAPPED = {"info": {}, "videos": [GOOD]}


@pytest.mark.parametrize(
    "content, reason",
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ([], "is an empty list"),
        (3, "is 3, not a list"),
        (GOOD, "is a single entry"),
        ({"a.mp4": "squats"}, 'is an object with the keys "a.mp4"'),
        (WRAPPED, 'is an object whose "videos" holds a list of 1'),
        ({"train": [GOOD], "val": [GOOD]}, 'is an object that holds lists under "train", "val"'),
        (LINES, r"holds one JSON object a line \(JSON Lines\)"),
        ('[{"video_path": "1.mp4",}]', "is not JSON: "),
    ],
)
def test_what_was_found_instead_of_a_list_is_said(tmp_path, content, reason):
    with pytest.raises(ReleaseError, match=f"labels.json: {reason}"):
        read(tmp_path, content)


def test_what_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "labels.json").write_bytes(
        json.dumps([{**GOOD, "label": "plänk"}], ensure_ascii=False).encode("latin-1")
    )
    with pytest.raises(ReleaseError, match="labels.json: is not text in UTF-8"):
        read_release(tmp_path / "labels.json")


@pytest.mark.parametrize("content", [LINES, WRAPPED])
def test_the_command_that_is_proposed_makes_the_list(tmp_path, content):
    with pytest.raises(ReleaseError) as refusal:
        read(tmp_path, content)
    command = str(refusal.value)[str(refusal.value).index("python -c") :].replace("python", f"'{sys.executable}'", 1)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert read_release(tmp_path / "list.json") == [Video("1.mp4", "elbow plank", "train")]


@pytest.mark.parametrize(
    "entry, reason",
    [
        ('{"video_path": "1.mp4", "label": "a", "label": "b", "split": "val"}', 'holds "label" more than once'),
        ('{"video_path": "1.mp4", "label": "a", "label": "a", "split": "val"}', 'holds "label" more than once'),
        ('{"video_path": "1.mp4", "labels": ["a"], "split": "val"}', r'has "labels" \(\["a"\]\), a list'),
        ('{"video_path": "1.mp4", "label": ["a", "b"], "split": "val"}', "write an entry for each of them"),
        ('{"video": "1.mp4", "label": "a"}', 'has no "video_path"; its keys are "video", "label"'),
        ('{"video_path": "1.mp4", "label": "a"}', 'has no "split".*--val-fraction'),
    ],
)
def test_what_an_entry_holds_instead_is_said(tmp_path, entry, reason):
    with pytest.raises(ReleaseError, match=f"entry 1 .*: {reason}"):
        read(tmp_path, f"[{json.dumps(GOOD)}, {entry}]")


@pytest.mark.parametrize("key", ["video_path", "label", "split"])
@pytest.mark.parametrize("value", ["\x1b[31m.mp4", "a\x9bb", "a\x7fb", "a\u2028b", "\u200b", "\u00a0\ufeff"])
def test_a_value_with_control_or_only_invisible_characters_is_refused(tmp_path, key, value):
    with pytest.raises(ReleaseError, match="entry 0 .*(control character|invisible characters only|is empty)"):
        read(tmp_path, [{**GOOD, key: value}])


def test_splits_are_renamed_and_unknown_ones_refused():
    videos = [Video("1.mp4", "a", "train"), Video("2.mp4", "a", "test"), Video("2.mp4", "a", "valid")]
    with pytest.raises(ReleaseError, match=r'"test" \(videos: 1\), "train" \(videos: 1\).*--rename-split .test=val'):
        rename_splits(videos[:2], {})
    with pytest.raises(ReleaseError, match="--rename-split 'valid=val'"):
        rename_splits(videos, {"test": "val"})
    with pytest.raises(ReleaseError, match='no video has the split "dev"'):
        rename_splits(videos, {"test": "val", "valid": "val", "dev": "val"})
    assert rename_splits(videos, {"test": "val", "valid": "val"}) == [videos[0], Video("2.mp4", "a", "val")]
    assert rename_splits(videos[:1], {"train": "val"}) == [Video("1.mp4", "a", "val")]


@pytest.mark.parametrize("key", ["video_path", "label", "split"])
@pytest.mark.parametrize("value", [None, 3, "", " ", "..", ".", "x/..", "a\nb", "a\0b", "\ud800", "x" * 256, ".hidden"])
def test_a_value_that_names_no_file_or_folder_is_refused(tmp_path, key, value):
    with pytest.raises(ReleaseError, match="entry 1 "):
        read(tmp_path, [GOOD, {**GOOD, key: value}])


@pytest.mark.parametrize("key", ["label", "split"])
@pytest.mark.parametrize("value", ["../up", "/abs", "a/b", "a\\b"])
def test_a_folder_that_leaves_dest_is_refused(tmp_path, key, value):
    with pytest.raises(ReleaseError, match=f"entry 1 .*{key}.*path separator|begins with a dot"):
        read(tmp_path, [GOOD, {**GOOD, key: value}])


@pytest.mark.parametrize("key", ["video_path", "label", "split"])
def test_an_entry_without_a_key_is_refused(tmp_path, key):
    with pytest.raises(ReleaseError, match=f'entry 1 .*has no "{key}"'):
        read(tmp_path, [GOOD, {name: value for name, value in GOOD.items() if name != key}])
    with pytest.raises(ReleaseError, match=f'entry 1 .*its "{key}" is null, not a string'):
        read(tmp_path, [GOOD, {**GOOD, key: None}])
    with pytest.raises(ReleaseError, match="entry 1 .*is not an object"):
        read(tmp_path, [GOOD, "1.mp4"])


def test_a_label_may_hold_any_letter(tmp_path):
    assert read(tmp_path, [{**GOOD, "label": "Ausfallschritt – über Kreuz (links)"}])[0].folder.startswith("train/Ausf")


def test_sources_are_searched_with_their_folders_but_not_dest(tmp_path):
    (src, other), _ = make_release(tmp_path, [("1.mp4", "a", "train"), ("2.mp4", "a", "train")])
    (src / "deep").mkdir()
    (src / "deep" / "3.MP4").write_bytes(b"3")
    (src / "dest").mkdir()
    (src / "dest" / "1.mp4").write_bytes(b"placed earlier")
    (src / "readme.txt").write_text("no video")
    (other / "1.mp4").write_bytes(b"the same name")
    (tmp_path / "elsewhere.mp4").write_bytes(b"4")
    (src / "4.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    found = find_sources([src, other, src], {"1.mp4", "2.mp4", "4.mp4"}, skip=src / "dest")
    assert {name: file.path for name, file in found.files.items()} == {
        "1.mp4": str(src / "1.mp4"),
        "2.mp4": str(other / "2.mp4"),
        "4.mp4": str(tmp_path / "elsewhere.mp4"),
    }
    assert [file.path for file in found.repeats["1.mp4"]] == [str(other / "1.mp4")]
    assert found.unlisted == [str(src / "deep" / "3.MP4")]
    assert found.files["4.mp4"].bytes == 1


def test_a_folder_found_twice_counts_once(tmp_path):
    (src, other), _ = make_release(tmp_path, [("1.mp4", "a", "train"), ("2.mp4", "a", "train")])
    (src / "to 2.mp4").symlink_to(other / "2.mp4")
    (src / "2.mp4").symlink_to(other / "2.mp4")
    found = find_sources([tmp_path, src, other], {"1.mp4", "2.mp4"}, skip=tmp_path / "dest")
    assert found.files.keys() == {"1.mp4", "2.mp4"} and found.repeats == {}


@pytest.mark.parametrize("link", ["itself", "nothing", "a pipe"])
def test_what_leads_to_no_file_is_named_and_another_source_used(tmp_path, link):
    (src, other), _ = make_release(tmp_path, [("1.mp4", "a", "train"), ("2.mp4", "a", "train")])
    os.mkfifo(tmp_path / "pipe")
    for name in ("2.mp4", "3.mp4"):
        (src / name).symlink_to({"itself": name, "nothing": "absent", "a pipe": tmp_path / "pipe"}[link])
    found = find_sources([src, other], {"1.mp4", "2.mp4", "3.mp4"}, skip=tmp_path / "dest")
    assert found.files.keys() == {"1.mp4", "2.mp4"} and found.files["2.mp4"].path == str(other / "2.mp4")
    assert sorted(found.not_files) == [str(src / "2.mp4"), str(src / "3.mp4")] and found.unlisted == []


def test_linked_folders_are_searched_but_not_in_circles_nor_in_dest(tmp_path):
    (src, other), _ = make_release(tmp_path / "release", [("1.mp4", "a", "train"), ("2.mp4", "a", "train")])
    storage, dest = tmp_path / "storage", tmp_path / "dest"
    for folder, name in ((storage, "3.mp4"), (dest / "train", "4.mp4"), (tmp_path / "release" / "beside", "5.mp4")):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(b"3")
    for name, folder in (("a", storage), ("b", dest), ("c", dest / "train"), ("d", tmp_path / "release"), ("e", other)):
        (src / name).symlink_to(folder)
    (storage / "back").symlink_to(src)
    (src / "4.mp4").symlink_to(dest / "train" / "4.mp4")
    found = find_sources([src, other], {f"{n}.mp4" for n in range(1, 6)}, skip=dest)
    assert {name: (file.path, file.through_link) for name, file in found.files.items()} == {
        "1.mp4": (str(src / "1.mp4"), False),
        "2.mp4": (str(other / "2.mp4"), False),
        "3.mp4": (str(storage / "3.mp4"), True),
    }
    assert found.repeats == {} and found.not_files == []


def test_unlisted_is_what_the_whole_release_does_not_list(tmp_path):
    srcs, _ = make_release(tmp_path, [(f"{n}.mp4", "a", "train") for n in range(4)])
    found = find_sources(srcs, {"0.mp4"}, skip=tmp_path / "dest", listed={"0.mp4", "1.mp4", "2.mp4"})
    assert found.files.keys() == {"0.mp4"} and found.unlisted == [str(srcs[1] / "3.mp4")]


DECOMPOSED, COMPOSED = "u\u0308.mp4", "\u00fc.mp4"


@pytest.mark.parametrize("on_disk, listed", [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)])
def test_a_name_is_found_in_its_other_unicode_form(tmp_path, on_disk, listed):
    (tmp_path / on_disk).write_bytes(b"1")
    found = find_sources([tmp_path], {listed}, skip=tmp_path / "dest")
    assert found.files[listed].path == str(tmp_path / on_disk) and found.unlisted == []
    found = find_sources([tmp_path], {"1.mp4"}, skip=tmp_path / "dest", listed={listed, "1.mp4"})
    assert found.unlisted == []


def test_both_forms_of_a_name_are_two_files_where_both_are_listed(tmp_path):
    for name in (DECOMPOSED, COMPOSED):
        (tmp_path / name).write_bytes(name.encode())
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this disk takes both forms for one name")
    both = find_sources([tmp_path], {DECOMPOSED, COMPOSED}, skip=tmp_path / "dest")
    assert {name: file.path for name, file in both.files.items()} == {
        name: str(tmp_path / name) for name in (DECOMPOSED, COMPOSED)
    }
    one = find_sources([tmp_path], {COMPOSED}, skip=tmp_path / "dest")
    assert len(one.repeats[COMPOSED]) == 1, "two files of one name"


def audit(tmp_path, entries):
    srcs, labels = make_release(tmp_path, entries)
    videos = read_release(labels)
    return audit_release(videos, find_sources(srcs, {v.name for v in videos}, tmp_path / "dest"), {})


def test_audit_counts_videos_and_bytes(tmp_path):
    found = audit(tmp_path, [("1.mp4", "a b", "train"), ("2.mp4", "a b", "train"), ("3.mp4", "a b", "val")])
    size = len("the bytes of 1.mp4")
    assert found.per_class == {
        "train": {"a b": {"videos": 2, "bytes": 2 * size}},
        "val": {"a b": {"videos": 1, "bytes": size}},
    }
    assert (found.videos, found.bytes, found.errors(False)) == (3, 3 * size, [])


@pytest.mark.parametrize(
    "entries", [[("1.mp4", "a", "train"), ("1.mp4", "b", "train")], [("1.mp4", "a", "train"), ("1.mp4", "a", "val")]]
)
def test_a_leak_is_an_error_unless_allowed(tmp_path, entries):
    found = audit(tmp_path, entries)
    assert "1.mp4" in found.errors(allow_duplicates=False)[0]
    assert found.errors(allow_duplicates=True) == []


@pytest.mark.parametrize("other", ["Push ups", "push_ups", "push  ups", "pushups"])
def test_labels_that_are_hardly_different_are_an_error(tmp_path, other):
    found = audit(tmp_path, [("1.mp4", "push ups", "train"), ("2.mp4", other, "train")])
    assert '"push ups"' in found.errors(allow_duplicates=True)[0]


@pytest.mark.parametrize("other", ["push\u00a0ups", "push\u200b ups", "push ups.", "pu\u0301sh ups"])
def test_labels_that_look_the_same_are_an_error(tmp_path, other):
    label = "p\u00fash ups" if "\u0301" in other else "push ups"
    (error,) = audit(tmp_path, [("1.mp4", label, "train"), ("2.mp4", other, "val")]).errors(allow_duplicates=True)
    first, second = error.split(" differ only in what is hard to see")[0].split(" and ")
    assert first != second and error.isascii(), "it shows what differs"


def test_a_name_that_is_not_a_video_s_is_an_error(tmp_path):
    found = audit(tmp_path, [("1.mp4", "a", "train"), ("2.gif", "a", "val"), ("3", "a", "val"), ("4.MP4", "a", "val")])
    assert found.no_videos == ["2.gif", "3"]
    (error,) = found.errors(allow_duplicates=False)
    assert error.startswith("2 names have no ending of a video (2.gif, 3), so check and training would pass over them")


def test_file_names_alike_but_for_case_are_told_where_they_share_a_folder(tmp_path):
    entries = [("a.mp4", "x", "train"), ("A.MP4", "x", "train"), ("A.mp4", "y", "train"), ("b.mp4", "x", "train")]
    assert audit(tmp_path, entries).alike_files == [["train/x/A.MP4", "train/x/a.mp4"]]


def duplicates_of(tmp_path, entries, contents):
    """The audit of files with these contents."""
    srcs, labels = make_release(tmp_path, entries, parts=1)
    for name, content in contents.items():
        (srcs[0] / name).write_bytes(content)
    videos = read_release(labels)
    sources = find_sources(srcs, set(contents), tmp_path / "dest")
    found = audit_release(videos, sources, {})
    look_for_duplicates(found, videos, {name: (file.path, file.bytes) for name, file in sources.files.items()}, jobs=2)
    return found


SPLITS = {"1.mp4": "train", "2.mp4": "train", "3.mp4": "val", "4.mp4": "val"}


@pytest.mark.parametrize(
    "contents, groups, leaks",
    [
        ((b"aa", b"bb", b"cc", b"dd"), [], []),
        ((b"aa", b"aa", b"bb", b"cc"), [["1.mp4", "2.mp4"]], []),
        (
            (b"aa", b"bb", b"bb", b"aa"),
            [["1.mp4", "4.mp4"], ["2.mp4", "3.mp4"]],
            [["1.mp4", "4.mp4"], ["2.mp4", "3.mp4"]],
        ),
        ((b"aa", b"aa", b"aa", b"cc"), [["1.mp4", "2.mp4", "3.mp4"]], [["1.mp4", "2.mp4", "3.mp4"]]),
        ((b"", b"", b"", b"c"), [], []),
    ],
)
def test_the_same_bytes_under_several_names(tmp_path, contents, groups, leaks):
    entries = [(name, "a", split) for name, split in SPLITS.items()]
    found = duplicates_of(tmp_path, entries, dict(zip(SPLITS, contents, strict=True)))
    assert (found.duplicates, found.leaking_duplicates) == (groups, leaks)
    assert len(found.errors(allow_duplicates=True)) == len(leaks)
    assert found.errors(allow_duplicates=False, allow_leaks=True) == []


def test_only_files_of_the_same_size_are_read_for_duplicates(tmp_path, monkeypatch):
    read_paths = []
    digest = comparing._digest
    monkeypatch.setattr(comparing, "_digest", lambda path: read_paths.append(path) or digest(path))
    entries = [(name, "a", split) for name, split in SPLITS.items()]
    duplicates_of(tmp_path, entries, dict(zip(SPLITS, (b"1", b"22", b"33", b"4444"), strict=True)))
    assert sorted(path[-5:] for path in read_paths) == ["2.mp4", "3.mp4"]


def test_a_file_that_cannot_be_compared_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "_digest", lambda path: OSError(5, "Input/output error"))
    entries = [(name, "a", split) for name, split in SPLITS.items()]
    found = duplicates_of(tmp_path, entries, dict.fromkeys(SPLITS, b"same"))
    assert found.errors(False)[0] == "1.mp4: cannot be read to look for duplicates: Input/output error"
    assert len(found.errors(False)) == 4


def test_many_errors_of_a_kind_are_cut_short(tmp_path):
    entries = [(f"{n}.mp4", label, "train") for n in range(30) for label in ("a", "b")]
    errors = audit(tmp_path, entries).errors(allow_duplicates=False)
    assert len(errors) == 21 and errors[-1].startswith("and 10 more")


def test_one_name_in_two_sources(tmp_path):
    srcs, labels = make_release(tmp_path, [("1.mp4", "a", "train"), ("2.mp4", "b", "train")])
    videos = read_release(labels)
    (srcs[1] / "1.mp4").write_bytes((srcs[0] / "1.mp4").read_bytes())
    found = audit_release(videos, find_sources(srcs, {"1.mp4", "2.mp4"}, tmp_path / "dest"), {})
    assert found.errors(False) == [] and found.same_name_same_bytes.keys() == {"1.mp4"}
    (srcs[1] / "1.mp4").write_bytes(b"THE BYTES OF 1.mp4")
    found = audit_release(videos, find_sources(srcs, {"1.mp4", "2.mp4"}, tmp_path / "dest"), {})
    assert str(srcs[0] / "1.mp4") in found.errors(True)[0] and str(srcs[1] / "1.mp4") in found.errors(True)[0]


def test_audit_tells_what_is_absent_unlisted_and_in_one_split_only(tmp_path):
    srcs, labels = make_release(tmp_path, [("1.mp4", "a", "train"), ("2.mp4", "a", "val"), ("3.mp4", "b", "val")])
    write_labels(labels, [("1.mp4", "a", "train"), ("4.mp4", "a", "val"), ("5.mp4", "b", "val")])
    videos = read_release(labels)
    found = audit_release(videos, find_sources(srcs, {v.name for v in videos}, tmp_path / "dest"), {"5.mp4": 7})
    assert found.absent == ["4.mp4"] and found.per_class["val"]["b"] == {"videos": 1, "bytes": 7}
    assert sorted(found.unlisted) == [str(srcs[0] / "3.mp4"), str(srcs[1] / "2.mp4")]
    assert found.one_split_only == {"b": "val"}
    assert "listed but absent: 1; present but unlisted: 2" in found.short_form()


VIDEOS = [Video(f"{label}{n}.mp4", label, "train") for label in ("a b", "c", "d") for n in range(10)]


def test_classes_are_found_in_either_unicode_form(tmp_path):
    videos = [Video("1.mp4", "pl\u00e4nk", "train"), Video("2.mp4", "c", "train")]
    assert keep_classes(videos, ["pla\u0308nk"]) == videos[:1]


def test_a_classes_file_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "classes.txt").write_bytes("plänk".encode("latin-1"))
    with pytest.raises(ReleaseError, match="classes.txt: is not text in UTF-8"):
        read_classes(tmp_path / "classes.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_classes_file(tmp_path, encoding):
    path = tmp_path / "classes.txt"
    path.write_text("a_b\n\n d \n", encoding=encoding)
    assert {video.label for video in keep_classes(VIDEOS, read_classes(path))} == {"a b", "d"}
    with pytest.raises(ReleaseError, match="lunge"):
        keep_classes(VIDEOS, ["c", "lunge"])


def test_at_most_so_many_of_a_class_and_split():
    videos = VIDEOS + [video._replace(name="v" + video.name, split="val") for video in VIDEOS[:2]]
    kept = keep_at_most(videos, 3, seed=0)
    counts = {}
    for video in kept:
        counts[video.split, video.label] = counts.get((video.split, video.label), 0) + 1
    assert counts == {("train", "a b"): 3, ("train", "c"): 3, ("train", "d"): 3, ("val", "a b"): 2}
    assert set(keep_at_most(videos[::-1], 3, seed=0)) == set(kept) != set(keep_at_most(videos, 3, seed=1))


def test_val_split_is_stratified_and_reproducible():
    videos = VIDEOS + [Video("alone.mp4", "alone", "train")]
    split = split_off_val(videos, 0.25, seed=0)
    val = [video for video in split if video.split == "val"]
    assert sorted(video.label for video in val) == ["a b"] * 2 + ["c"] * 2 + ["d"] * 2
    assert set(split_off_val(videos[::-1], 0.25, seed=0)) == set(split) != set(split_off_val(videos, 0.25, seed=1))
    assert split_off_val(VIDEOS, 0.01, seed=0).count(Video("x", "c", "val")) == 0
    with pytest.raises(ReleaseError, match="val"):
        split_off_val(split, 0.25, seed=0)


def test_a_video_of_two_classes_goes_to_one_split():
    videos = VIDEOS + [video._replace(label="e") for video in VIDEOS]
    splits = {}
    for video in split_off_val(videos, 0.3, seed=0):
        splits.setdefault(video.name, set()).add(video.split)
    assert all(len(found) == 1 for found in splits.values())
