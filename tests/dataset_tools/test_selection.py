import pytest

from references.dataset_tools.release import ReleaseError, Video
from references.dataset_tools.selection import keep_at_most, keep_classes, read_classes, rename_splits, split_off_val


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
