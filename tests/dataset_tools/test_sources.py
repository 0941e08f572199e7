import os

import pytest

from helpers.release_files import make_release
from references.dataset_tools.sources import find_sources


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
