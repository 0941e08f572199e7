import os

import pytest

from helpers.small_datasets import write_moving_bar
from references.dataset_tools import walking
from videos.folder import VIDEO_ENDINGS, DatasetError, JoinedFolders, VideoFolder, class_folders, ignored_folders


def test_every_file_that_the_dataset_tools_take_for_a_video_is_trained_on():
    assert {ending.removeprefix(".") for ending in VIDEO_ENDINGS} == set(walking.VIDEO_ENDINGS)


def test_a_folder_lists_videos_by_class_and_name(tmp_path):
    for name in ("b/2.mp4", "b/10.MP4", "a/x.MOV", "a/-dash.webm", "c/.hidden.mp4", "c/notes.txt", ".clip_cache/d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * len(name))
    folder = VideoFolder(tmp_path)
    assert folder.classes == ["a", "b"]  # c holds no video
    assert folder.names.strings() == ["a/-dash.webm", "a/x.MOV", "b/10.MP4", "b/2.mp4"]
    assert folder.labels.tolist() == [0, 0, 1, 1] and folder.sizes.tolist() == [12, 7, 8, 7]
    assert folder.path(2) == str(tmp_path / "b/10.MP4")
    assert VideoFolder(tmp_path, ["c", "b", "z", "a"]).labels.tolist() == [3, 3, 1, 1]


def test_a_folder_that_is_not_what_training_needs(tmp_path):
    with pytest.raises(DatasetError, match="not a folder"):
        VideoFolder(tmp_path / "absent")
    (tmp_path / "a").mkdir()
    with pytest.raises(DatasetError, match="no videos"):
        VideoFolder(tmp_path)
    (tmp_path / "a" / "1.mp4").write_bytes(b"x")
    with pytest.raises(DatasetError, match="does not know: a"):
        VideoFolder(tmp_path, ["b"])


def test_joined_folders_are_listed_one_after_the_other(tmp_path):
    files = ["train/a/1.mp4", "train/b/2.mp4", "train/b/3.mp4", "val/b/4.mp4"]
    for number, name in enumerate(files, 1):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * number)
        os.utime(tmp_path / name, ns=(0, 10 * number))
    parts = [VideoFolder(tmp_path / part, ["a", "b"]) for part in ("train", "val")]
    for folder, number in ((JoinedFolders(parts), 4), (JoinedFolders(parts[:1]), 3)):
        assert len(folder) == number and folder.names.strings() == files[:number]
        assert (
            folder.root == tmp_path and folder.classes == ["a", "b"] and folder.labels.tolist() == [0, 1, 1, 1][:number]
        )
        assert folder.sizes.tolist() == [1, 2, 3, 4][:number]
        assert folder.mtimes_ns.tolist() == [10, 20, 30, 40][:number]
        assert [folder.path(video) for video in range(number)] == [str(tmp_path / name) for name in files[:number]]


def test_a_dangling_link_is_listed_for_the_scan_to_report(tmp_path):
    write_moving_bar(tmp_path / "a" / "v.mp4", seed=0)
    (tmp_path / "a" / "gone.mp4").symlink_to(tmp_path / "nowhere")
    assert len(VideoFolder(tmp_path)) == 2


def test_folders_that_are_no_class_have_their_reason(tmp_path):
    for name in (".ipynb_checkpoints/1.mp4", "@eaDir/2.mp4", "__MACOSX/3.mp4", "empty", "notes/a.txt", "squats/4.mp4"):
        path = tmp_path / name
        (path.parent if path.suffix else path).mkdir(exist_ok=True)
        if path.suffix:
            path.write_bytes(b"x")
    (tmp_path / "README.md").write_text("beside the folders")
    assert class_folders(tmp_path) == ["squats"] and VideoFolder(tmp_path).classes == ["squats"]
    hidden, system, empty = "hidden", "a system's", "without a video"
    reasons = [(".ipynb_checkpoints", hidden), ("@eaDir", system), ("__MACOSX", system), ("empty", empty)]
    assert ignored_folders(tmp_path) == [*reasons, ("notes", empty)]
    VideoFolder(tmp_path, ["squats"])  # which no unknown class is in
