"""Generated exercise videos: jointed figures filmed in rooms, for the quickstart, the tests and the comparisons.

In a release each person does every exercise in the same room, so only the motion tells the class. The seeds determine
everything.
"""

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from synthetic import scenes
from synthetic.exercises import EXERCISES, STANDING, Repetitions, mirrored

NUM_PARTS = 4
SPLITS = ("train", "val")
LABELS_NAME = "fine_grained_labels_release.json"
SETTINGS_NAME = "generated_with.json"


def film(
    exercise: Repetitions,
    person: scenes.Person,
    room: scenes.Room,
    take: scenes.Take,
    num_frames: int,
    size: tuple[int, int],
    fps: float,
) -> np.ndarray:
    """Renders one video, (T, H, W, 3) uint8.

    A flipped take shows the mirrored movement in a mirror, which is the same movement.

    Args:
        exercise, person, room: the movement, who does it, and where.
        take: camera, pace and range of motion.
        num_frames, size, fps: T, (H, W), and frames per second.
    """
    phase = take.phase + np.arange(num_frames) / fps / (take.seconds_per_move * exercise.num_moves)
    pose = STANDING + take.amplitude * (exercise(phase) - STANDING)
    if take.is_flipped:
        pose = mirrored(pose)
    pitch, at = np.radians(take.pitch), {}
    for name, joint in scenes.joints_of(pose, person).items():
        x, y, z = scenes.turned(joint, np.radians(take.yaw)).T
        at[name] = np.stack([x, y * np.cos(pitch) - z * np.sin(pitch)], axis=-1)
    canvas = scenes.Canvas(num_frames, size, fps, take)
    scenes.paint_room(canvas, room)
    scenes.paint_person(canvas, person, at)
    frames = np.round(canvas.frames * 255).astype(np.uint8).transpose(1, 2, 3, 0)
    return np.ascontiguousarray(frames[:, :, ::-1] if take.is_flipped else frames)


def render_exercise(
    name: str,
    seed: int | Sequence[int],
    num_frames: int = 36,
    size: tuple[int, int] = (64, 64),
    fps: float = 12,
    take_seed: int = 0,
    furniture: bool = True,
) -> np.ndarray:
    """Renders a video of an exercise, (T, H, W, 3) uint8 RGB.

    Args:
        name: a key of EXERCISES.
        seed: of the person and the room.
        num_frames, size, fps: T, (H, W), and frames per second.
        take_seed: with `name`, of camera, pace and range of motion.
        furniture: whether there is furniture.
    """
    person, room = scenes.draw_person_and_room(np.random.default_rng(seed), furniture)
    seeds = [seed] if isinstance(seed, int) else seed
    take = scenes.draw_take(np.random.default_rng([*seeds, zlib.crc32(name.encode()), take_seed]))
    return film(EXERCISES[name], person, room, take, num_frames, size, fps)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int, qp: int = 22) -> Path:
    """Encodes RGB frames (H, W, 3) uint8 of even height and width as H.264; the file appears when it is complete."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with av.open(str(unfinished), "w", format="mp4") as container:
        # One thread and a constant quantiser, so that a seed gives the same bytes: with the rate control of crf, which
        # looks ahead, some of a thousand encodings of the same frames came out differently, even on one thread.
        stream = container.add_stream("libx264", rate=fps, options={"qp": str(qp), "preset": "veryfast"})
        stream.thread_count = 1
        stream.pix_fmt = "yuv420p"
        for index, array in enumerate(frames):
            if index == 0:
                stream.height, stream.width = array.shape[:2]
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    os.replace(unfinished, path)
    return path


class Entry(NamedTuple):
    """One video of a release."""

    path: Path
    label: str
    split: str
    person: int  # its number among the people of the split
    fault: str = ""  # "", "truncated" or "absent"


def generate_release(
    dest: Path,
    exercises: Sequence[str],
    videos_per_class: dict[str, int],
    size: tuple[int, int] = (64, 64),
    seconds: float = 3,
    fps: int = 12,
    seed: int = 0,
    furniture: bool = True,
    with_faults: bool = False,
    workers: int | None = None,
) -> Path:
    """Writes a release in the form of QEVD's; files that are already there are kept. Returns the path of its JSON.

    Person `i` of a split does every exercise once, and nobody is in two splits. The JSON is written last. Raises
    ValueError where an exercise or split is unknown, or `dest` holds a release with other settings.

    Args:
        dest: the folder to write to.
        exercises: keys of EXERCISES, which are the classes.
        videos_per_class: by split.
        size, seconds, fps: of a video: height and width, length, and frames per second.
        seed: of everything.
        furniture: whether there is furniture in the rooms.
        with_faults: add two training videos, one truncated and one listed but absent.
        workers: processes, by default one per core.
    """
    if unknown := (set(exercises) - set(EXERCISES)) | (set(videos_per_class) - set(SPLITS)):
        raise ValueError(f"no such exercise or split: {', '.join(sorted(unknown))}; there are {', '.join(EXERCISES)}")
    settings: dict[str, Any] = {"exercises": list(exercises), "videos_per_class": videos_per_class, "size": list(size)}
    settings |= {"seconds": seconds, "fps": fps, "seed": seed, "furniture": furniture, "with_faults": with_faults}
    dest.mkdir(parents=True, exist_ok=True)
    if (dest / SETTINGS_NAME).exists() and json.loads((dest / SETTINGS_NAME).read_text(encoding="utf-8")) != settings:
        raise ValueError(f"{dest} holds a release generated with other settings: delete it or choose another folder")
    write_json(dest / SETTINGS_NAME, settings)
    entries = release_entries(dest, exercises, videos_per_class, with_faults)
    for entry in entries:
        entry.path.parent.mkdir(exist_ok=True)
    missing = [entry for entry in entries if entry.fault != "absent" and not entry.path.exists()]
    generate_videos(missing, settings, workers or os.cpu_count() or 1)
    listed = [{"video_path": f"./{entry.path.name}", "label": entry.label, "split": entry.split} for entry in entries]
    write_json(dest / LABELS_NAME, listed)
    return dest / LABELS_NAME


def release_entries(
    dest: Path, exercises: Sequence[str], videos_per_class: dict[str, int], with_faults: bool
) -> list[Entry]:
    """The videos of a release in order of their numbers; each part holds a range of numbers, as in QEVD."""
    videos: list[tuple] = [
        (label, split, index)
        for split in videos_per_class
        for index in range(videos_per_class[split])
        for label in exercises
    ]
    if with_faults:
        videos += [
            (exercises[i % len(exercises)], "train", videos_per_class["train"] + i, fault)
            for i, fault in enumerate(("truncated", "absent"))
        ]
    parts = [dest / f"QEVD-FIT-300k-Part-{1 + number * NUM_PARTS // len(videos)}" for number in range(len(videos))]
    return [Entry(parts[number] / f"{number:08}.mp4", *video) for number, video in enumerate(videos)]


def generate_videos(entries: list[Entry], settings: dict, workers: int) -> None:
    """Renders and writes the files, in this process if there are too few for several."""
    if min(workers, len(entries) // 8) < 2:
        for entry in entries:
            generate_video(entry, settings)
        return
    with ProcessPoolExecutor(min(workers, len(entries) // 8), get_context("spawn")) as pool:
        list(pool.map(generate_video, entries, [settings] * len(entries), chunksize=8))


def person_seed(seed: int, entry: Entry) -> tuple[int, int, int]:
    """The seed of an entry's person and room, which depends on the split, so that nobody is in two."""
    return seed, SPLITS.index(entry.split), entry.person


def generate_video(entry: Entry, settings: dict) -> None:
    """Renders and writes one file; a truncated one lacks its second half, which holds the index of an MP4."""
    frames = render_exercise(
        entry.label,
        person_seed(settings["seed"], entry),
        num_frames=round(settings["seconds"] * settings["fps"]),
        size=tuple(settings["size"]),
        fps=settings["fps"],
        furniture=settings["furniture"],
    )
    if entry.fault != "truncated":
        write_video(entry.path, frames, settings["fps"])
        return
    whole = write_video(entry.path.with_suffix(".whole"), frames, settings["fps"])
    os.truncate(whole, whole.stat().st_size // 2)
    os.replace(whole, entry.path)


def write_json(path: Path, content: object) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(json.dumps(content, indent=4), encoding="utf-8")
    os.replace(unfinished, path)
