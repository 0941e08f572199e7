import json
from dataclasses import replace

import av
import numpy as np
import pytest

from synthetic import videos
from synthetic.exercises import EXERCISES, SEGMENTS, STANDING, mirrored
from synthetic.scenes import draw_person_and_room, draw_take
from synthetic.videos import film, generate_release, release_entries, render_exercise, write_video

PHASES = np.linspace(0, 1, 33)
MIRROR_PAIRS = [(name, name.replace("left", "right")) for name in EXERCISES if name.startswith("left ")]


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def scene(seed=3):
    rng = np.random.default_rng(seed)
    return *draw_person_and_room(rng), draw_take(rng)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A small release with both faults."""
    dest = tmp_path_factory.mktemp("release")
    generate_release(dest, ["squats", "kicks"], {"train": 3, "val": 2}, (32, 48), 1, 8, seed=5, with_faults=True)
    return dest


# -- Exercises


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise_starts_and_ends_in_the_pose_that_all_share_and_moves_between(name):
    poses = EXERCISES[name](PHASES)
    assert poses.shape == (33, len(SEGMENTS), 2)
    np.testing.assert_allclose(poses[[0, -1]], [STANDING, STANDING])
    assert np.abs(poses - STANDING).max() > 30
    assert np.abs(np.diff(poses, axis=0)).max() < 60, "jumps"
    np.testing.assert_allclose(EXERCISES[name](PHASES + 7), poses, atol=1e-9)


def test_no_two_exercises_move_alike():
    movements = {name: pose_at(PHASES) for name, pose_at in EXERCISES.items()}
    for name, movement in movements.items():
        alike = [other for other in movements if np.abs(movements[other] - movement).max() < 20]
        assert alike == [name]


@pytest.mark.parametrize("left, right", MIRROR_PAIRS)
def test_mirror_pair_is_mirrored_in_poses_and_pixels(left, right):
    np.testing.assert_array_equal(mirrored(EXERCISES[left](PHASES)), EXERCISES[right](PHASES))
    person, room, take = scene()
    as_filmed = film(EXERCISES[left], person, room, take, 6, (48, 64), 6)
    other_way_round = replace(take, is_flipped=not take.is_flipped)
    np.testing.assert_array_equal(
        as_filmed[:, :, ::-1], film(EXERCISES[right], person, room, other_way_round, 6, (48, 64), 6)
    )


def test_there_are_mirror_pairs_among_many_exercises():
    assert len(EXERCISES) >= 8
    assert len(MIRROR_PAIRS) >= 2
    assert {right for _, right in MIRROR_PAIRS} <= set(EXERCISES)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("limb", ["arm", "leg"])
@pytest.mark.parametrize("seed", range(6))  # takes that are flipped and takes that are not
def test_named_side_is_the_side_of_the_screen(side, limb, seed):
    frames = render_exercise(f"{side} {limb} raise", seed, num_frames=16, size=(64, 64), furniture=False).astype(int)
    changes = np.abs(np.diff(frames, axis=0)).max((0, 1, 3))  # (W,): the raised limb sweeps its side's columns
    still = changes < 60
    free_left, free_right = still.argmin(), still[::-1].argmin()
    assert (free_left < free_right) == (side == "left")


# -- Filming


def test_rendering_follows_from_the_seeds():
    first = render_exercise("squats", 1, 5, (32, 48))
    assert first.shape == (5, 32, 48, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, render_exercise("squats", 1, 5, (32, 48)))
    assert (first != render_exercise("squats", 2, 5, (32, 48))).any()
    assert (first != render_exercise("squats", 1, 5, (32, 48), take_seed=1)).any()


def test_one_seed_is_one_person_in_one_room():
    person, room = draw_person_and_room(np.random.default_rng((0, 1)))
    same_person, same_room = draw_person_and_room(np.random.default_rng((0, 1)))
    assert str(person) == str(same_person)
    assert str(room) == str(same_room)


def test_motion_shows_in_the_pixels():
    for name in EXERCISES:
        frames = render_exercise(name, 0, num_frames=16, size=(64, 64), fps=8).astype(int)
        assert (np.abs(frames - frames[:1]).max(-1) > 40).mean((1, 2)).max() > 0.01, name


def test_clothes_stand_out_from_the_wall():
    for seed in range(200):
        person, room = draw_person_and_room(np.random.default_rng(seed))
        assert min(abs(clothes.mean() - room.wall.mean()) for clothes in (person.shirt, person.trousers)) > 0.2


def test_written_video_has_the_frames_in_order(tmp_path):
    frames = render_exercise("jumping jacks", 0, 9, (48, 64))
    decoded = decode(write_video(tmp_path / "video.mp4", frames, fps=12))
    assert decoded.shape == frames.shape
    errors = np.abs(decoded[:, None].astype(int) - frames[None]).mean((2, 3, 4))  # (decoded, written)
    assert (errors.argmin(1) == np.arange(9)).all()
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


# -- Releases


def test_release_has_the_shape_of_qevd(release):
    entries = json.loads((release / "fine_grained_labels_release.json").read_text())
    assert all(set(entry) == {"video_path", "label", "split"} for entry in entries)
    assert [entry["video_path"] for entry in entries] == [f"./{number:08}.mp4" for number in range(12)]
    counts = {(label, split): 0 for label in ("squats", "kicks") for split in ("train", "val")}
    for entry in entries:
        counts[entry["label"], entry["split"]] += 1
    assert counts == {("squats", "train"): 4, ("kicks", "train"): 4, ("squats", "val"): 2, ("kicks", "val"): 2}
    assert sorted(path.name for path in release.iterdir() if path.is_dir()) == [
        f"QEVD-FIT-300k-Part-{n}" for n in range(1, 5)
    ]
    assert all(any(part.iterdir()) for part in release.glob("QEVD*"))


def test_release_has_one_broken_and_one_absent_file(release):
    broken, readable = [], []
    for path in sorted(release.glob("*/*.mp4")):
        try:
            readable.append(decode(path).shape)
        except av.error.InvalidDataError:
            broken.append(path)
    assert readable == [(8, 32, 48, 3)] * 10
    assert len(broken) == 1
    assert broken[0].stat().st_size > 500
    listed = {entry["video_path"][2:] for entry in json.loads((release / videos.LABELS_NAME).read_text())}
    assert len(listed - {path.name for path in release.glob("*/*")}) == 1


def test_release_is_the_same_with_and_without_workers_and_kept_by_a_second_run(tmp_path):
    arguments = (["squats", "kicks"], {"train": 8, "val": 4}, (32, 32), 0.5, 8)
    generate_release(tmp_path / "b", *arguments, workers=2)
    generate_release(tmp_path / "a", *arguments, workers=1)
    contents = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")}
        for root in (tmp_path / "a", tmp_path / "b")
    ]
    assert len(contents[0]) == 24 + 2
    assert contents[0] == contents[1]

    videos = sorted((tmp_path / "a").glob("*/*.mp4"))
    videos[0].unlink()
    before = [path.stat().st_mtime_ns for path in videos[1:]]
    generate_release(tmp_path / "a", *arguments, workers=1)
    assert [path.stat().st_mtime_ns for path in videos[1:]] == before
    assert videos[0].read_bytes() == contents[0][videos[0].relative_to(tmp_path / "a")]


def test_people_and_rooms_of_val_are_never_in_train(tmp_path):
    entries = release_entries(tmp_path, ["squats", "kicks"], {"train": 40, "val": 20}, with_faults=True)
    seen = {"train": set(), "val": set()}
    for entry in entries:
        person, room = draw_person_and_room(np.random.default_rng(videos.person_seed(0, entry)))
        seen[entry.split] |= {str(person.shirt), str(person.leg), str(room.wall), str(room.floor)}
    assert len(seen["train"]) == 4 * 42
    assert len(seen["val"]) == 4 * 20
    assert not seen["train"] & seen["val"]


def test_other_settings_do_not_mix_into_a_release(release):
    with pytest.raises(ValueError, match="other settings"):
        generate_release(release, ["squats", "kicks"], {"train": 3, "val": 2}, (32, 48), 1, 8, seed=6, with_faults=True)


def test_unknown_exercise_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="cartwheels"):
        generate_release(tmp_path / "release", ["cartwheels"], {"train": 1})
    assert not (tmp_path / "release").exists()
