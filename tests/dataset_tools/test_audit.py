import pytest

from helpers.release_files import make_release, write_labels
from references.dataset_tools import comparing
from references.dataset_tools.audit import Audit, audit_release, explain_clashes, look_for_duplicates, move_errors
from references.dataset_tools.release import Video, read_release
from references.dataset_tools.sources import find_sources


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
    assert error.startswith(
        "2 names have no video extension (2.gif, 3), so check_videos.py and training would ignore them"
    )


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


def release_of(tmp_path, entries, parts=1):
    srcs, labels = make_release(tmp_path, entries, parts)
    videos = read_release(labels)
    return videos, find_sources(srcs, {video.name for video in videos}, tmp_path / "dest")


def test_the_short_form(tmp_path):
    """Counted by hand: a file holds 18 bytes, or 2.5 million."""
    entries = [
        ("1.mp4", "squats", "train"),
        ("2.mp4", "squats", "train"),
        ("3.mp4", "elbow plank", "val"),
        ("4.mp4", "Squats", "val"),
        ("5.mp4", "squats", "val"),
        ("3.mp4", "squats", "val"),
        ("5.MP4", "squats", "val"),
        ("6.txt", "squats", "val"),
    ]
    make_release(tmp_path, entries[:1])
    (tmp_path / "part-1/1.mp4").write_bytes(bytes(2_500_000))
    for name in ("2.mp4", "3.mp4", "5.mp4", "5.MP4", "6.txt", "7.mp4", "8.mp4"):
        (tmp_path / "part-1" / name).write_bytes(b"the bytes of x.mp4")
    (tmp_path / "part-2/2.mp4").write_bytes(b"the bytes of x.mp4")
    (tmp_path / "part-2/3.mp4").write_bytes(b"other bytes")
    (tmp_path / "part-2/9.mp4").symlink_to("nowhere")
    entries.append(("9.mp4", "squats", "val"))
    videos = read_release(write_labels(tmp_path / "labels.json", entries))
    names = {video.name for video in videos}
    sources = find_sources([tmp_path / "part-1", tmp_path / "part-2"], names, tmp_path / "dest")
    found = audit_release(videos, sources, {"4.mp4": 400_000})
    files = {name: (file.path, file.bytes) for name, file in sources.files.items()}
    look_for_duplicates(found, videos, files, jobs=1)
    assert found.short_form().splitlines() == [
        "8 videos, 2.9 MB",
        "  train: 2 videos, 2.5 MB in 1 classes",
        "          2        2.5 MB  squats",
        "  val: 6 videos, 0.4 MB in 3 classes",
        "          1        0.4 MB  Squats",
        "          1        0.0 MB  elbow plank",
        "          4        0.0 MB  squats",
        "  listed but absent: 1; present but unlisted: 2",
        f"  with a listed name, but a broken link or not a file: 1 ({tmp_path}/part-2/9.mp4)",
        "  without a video extension: 1 (6.txt)",
        "  the same file in several sources (the first is used): 1 (2.mp4)",
        "  different files of one name: 1 (3.mp4)",
        "  listed under several labels or splits: 1 (3.mp4)",
        "  classes in one split only: 2 (elbow plank, Squats)",
        "  labels that are hard to tell apart: 1 (Squats / squats)",
        "  file names of a class that differ only in case or Unicode form: 1 (val/squats/5.MP4 / val/squats/5.mp4)",
        "  the same bytes under several names: 1 (2.mp4 / 3.mp4 / 5.MP4 / 5.mp4 / 6.txt)",
        "  of these, in both train and val: 1 (2.mp4 / 3.mp4 / 5.MP4 / 5.mp4 / 6.txt)",
    ]
    assert found.absent == ["9.mp4"] and found.one_split_only == {"elbow plank": "val", "Squats": "val"}
    assert found.listed_twice == {"3.mp4": [["elbow plank", "val"], ["squats", "val"]]}
    assert found.same_name_different_bytes == {"3.mp4": [f"{tmp_path}/part-{number}/3.mp4" for number in (1, 2)]}
    assert found.as_json()["per_class"]["train"] == {"squats": {"videos": 2, "bytes": 2_500_018}}
    errors = found.errors(allow_duplicates=False)
    assert [error.split(":")[0] for error in errors] == [
        "1 names have no video extension (6.txt), so check_videos.py and training would ignore them; known are "
        "mp4, m4v, mov, 3gp, avi, mkv, webm, ts, mts, m2ts, mpg, mpeg, flv, wmv, asf, ogv",
        "3.mp4",
        "3.mp4",
        '"Squats" and "squats" differ only in what is hard to see (case, spaces, _, Unicode form, '
        "invisible characters, a last dot); give them one spelling in the labels",
        "2.mp4, 3.mp4, 5.MP4, 5.mp4, 6.txt",
    ]
    assert errors[2] == (
        '3.mp4: is listed under "elbow plank" in val and "squats" in val, a leak; '
        "correct the labels, or --allow-duplicates"
    )
    assert len(found.errors(allow_duplicates=True, allow_leaks=True)) == 3


@pytest.mark.parametrize(
    "count, shown", [(5, "0.gif, 1.gif, 2.gif, 3.gif, 4.gif"), (6, "0.gif, 1.gif, 2.gif, 3.gif, 4.gif, ...")]
)
def test_at_most_five_names_are_shown(tmp_path, count, shown):
    videos, sources = release_of(tmp_path, [(f"{n}.gif", "a", "train") for n in range(count)])
    found = audit_release(videos, sources, {})
    assert f"  without a video extension: {count} ({shown})" in found.short_form().splitlines()


@pytest.mark.parametrize("count, last", [(20, "19.mp4: "), (21, "and 1 more like the last (--report-dir lists all)")])
def test_at_most_twenty_errors_of_a_kind_are_listed(tmp_path, count, last):
    entries = [(f"{n:02d}.mp4", label, "train") for n in range(count) for label in ("a", "b")]
    errors = audit(tmp_path, entries).errors(allow_duplicates=False)
    assert len(errors) == min(count, 20) + (count > 20) and errors[-1].startswith(last)


def test_a_class_is_in_one_split_only_where_there_are_two(tmp_path):
    assert audit(tmp_path / "1", [("1.mp4", "a", "train"), ("2.mp4", "b", "train")]).one_split_only == {}
    both = [("1.mp4", "a", "train"), ("2.mp4", "b", "train"), ("3.mp4", "b", "val")]
    assert audit(tmp_path / "2", both).one_split_only == {"a": "train"}


@pytest.mark.parametrize(
    "names, alike",
    [
        (("a.mp4", "b.mp4"), []),
        (("a.mp4", "A.mp4"), [["train/x/A.mp4", "train/x/a.mp4"]]),
        (("u\u0308.mp4", "\u00fc.mp4"), [["train/x/u\u0308.mp4", "train/x/\u00fc.mp4"]]),
        (("1.MP4", "2.mp4"), []),
    ],
)
def test_names_that_some_disks_take_for_one(tmp_path, names, alike):
    assert audit(tmp_path, [(name, "x", "train") for name in names]).alike_files == alike


def test_the_same_video_in_three_sources(tmp_path):
    videos, _ = release_of(tmp_path, [("1.mp4", "a", "train")], parts=3)
    contents = (b"same", b"same", b"else")
    srcs = [tmp_path / f"part-{number}" for number in (1, 2, 3)]
    for src, content in zip(srcs, contents, strict=True):
        (src / "1.mp4").write_bytes(content)
    paths = [str(src / "1.mp4") for src in srcs]
    found = audit_release(videos, find_sources(srcs, {"1.mp4"}, tmp_path / "dest"), {})
    assert found.same_name_different_bytes == {"1.mp4": paths} and found.same_name_same_bytes == {}
    found = audit_release(videos, find_sources(srcs[:2], {"1.mp4"}, tmp_path / "dest"), {})
    assert found.same_name_same_bytes == {"1.mp4": paths[:2]} and found.same_name_different_bytes == {}


def test_a_source_counts_before_what_is_in_place(tmp_path):
    videos, sources = release_of(tmp_path, [("1.mp4", "a", "train"), ("2.mp4", "a", "train")])
    del sources.files["2.mp4"]
    found = audit_release(videos, sources, {"1.mp4": 1000, "2.mp4": 1000})
    assert (found.videos, found.bytes, found.absent) == (2, 1018, [])
    assert (audit_release(videos, sources, {}).videos, audit_release(videos, sources, {}).absent) == (1, ["2.mp4"])


def test_what_cannot_be_moved(tmp_path):
    videos, sources = release_of(tmp_path, [("1.mp4", "a", "train"), ("1.mp4", "b", "train"), ("2.mp4", "b", "val")])
    found = audit_release(videos, sources, {})
    assert move_errors(found, sources) == ["a video listed twice cannot be moved to two places; choose another --mode"]
    videos, sources = release_of(tmp_path / "2", [("1.mp4", "a", "train"), ("2.mp4", "a", "train")])
    found = audit_release(videos, sources, {})
    assert move_errors(found, sources) == []
    sources.files["2.mp4"] = sources.files["2.mp4"]._replace(path="/x\n/2.mp4", through_link=True)
    (error,) = move_errors(found, sources)
    assert error.startswith(r"1 videos are found through symbolic links, the first at /x\n/2.mp4: these are not moved")


def test_clashes_are_explained():
    (error,) = explain_clashes([["train/x/A.mp4", "train/x/a.mp4"]])
    assert error.startswith("train/x/A.mp4 and train/x/a.mp4 are one name to the disk of --dest")
    assert explain_clashes([]) == []


def test_an_error_about_strange_names_is_one_line(tmp_path):
    (tmp_path / "a\nb").mkdir()
    videos, _ = release_of(tmp_path, [("1.mp4", "a", "train")])
    (tmp_path / "a\nb" / "1.mp4").write_bytes(b"else")
    found = audit_release(videos, find_sources([tmp_path], {"1.mp4"}, tmp_path / "dest"), {})
    (error,) = found.errors(allow_duplicates=False)
    assert rf"{tmp_path}/a\nb/1.mp4" in error and "\n" not in error


def test_an_audit_of_nothing():
    assert Audit().short_form().splitlines() == ["0 videos, 0.0 MB", "  listed but absent: 0; present but unlisted: 0"]
    assert Audit().errors(allow_duplicates=False) == []


def test_a_terabyte_is_a_million_megabytes(tmp_path):
    videos = [Video("1.mp4", "a", "train")]
    found = audit_release(videos, find_sources([], {"1.mp4"}, tmp_path), {"1.mp4": 10**12})
    assert found.short_form().splitlines()[0] == "1 videos, 1000000.0 MB"


def test_labels_are_escaped_only_where_they_look_the_same(tmp_path):
    (error,) = audit(tmp_path / "1", [("1.mp4", "plänk", "train"), ("2.mp4", "Plänk", "val")]).errors(False)
    assert error.startswith('"Plänk" and "plänk" differ only')
    (error,) = audit(tmp_path / "2", [("1.mp4", "pl\u00e4nk", "train"), ("2.mp4", "pla\u0308nk", "val")]).errors(False)
    assert error.startswith(r'"pla\u0308nk" and "pl\xe4nk" differ only')
