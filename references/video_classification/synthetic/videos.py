"""Generated exercise videos: jointed figures filmed in rooms, for the quickstart, the tests and the comparisons.

In a release each person does every exercise in the same room, so nothing but the motion (`synthetic_exercises`) tells
the class. Everything follows from the seeds.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from synthetic.exercises import EXERCISES, STANDING, mirrored
from synthetic.scenes import (
    Canvas,
    Person,
    Room,
    Take,
    draw_person_and_room,
    draw_take,
    joints_of,
    paint_person,
    paint_room,
    turned,
)

NUM_PARTS = 4
SPLITS = ("train", "val")
LABELS_NAME = "fine_grained_labels_release.json"
SETTINGS_NAME = "generated_with.json"


def film(
    pose_at: Callable[[np.ndarray], np.ndarray],
    person: Person,
    room: Room,
    take: Take,
    num_frames: int,
    size: tuple[int, int],
    fps: float,
) -> np.ndarray:
    """One video, (T, H, W, 3) uint8. A flipped take shows the mirrored movement in a mirror: the same movement."""
    phase = take.phase + np.arange(num_frames) / fps / (take.seconds_per_move * pose_at.num_moves)
    pose = STANDING + take.amplitude * (pose_at(phase) - STANDING)
    if take.is_flipped:
        pose = mirrored(pose)
    pitch, at = np.radians(take.pitch), {}
    for name, joint in joints_of(pose, person).items():
        x, y, z = turned(joint, np.radians(take.yaw)).T
        at[name] = np.stack([x, y * np.cos(pitch) - z * np.sin(pitch)], axis=-1)
    canvas = Canvas(num_frames, size, fps, take)
    paint_room(canvas, room)
    paint_person(canvas, person, at)
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
    """A video of the exercise `name`, (T, H, W, 3) uint8 RGB, of `size` (height, width).

    `seed` names the person and the room, `take_seed` and `name` what else changes: camera, pace, range of motion.
    """
    person, room = draw_person_and_room(np.random.default_rng(seed), furniture)
    seeds = [seed] if isinstance(seed, int) else seed
    take = draw_take(np.random.default_rng([*seeds, zlib.crc32(name.encode()), take_seed]))
    return film(EXERCISES[name], person, room, take, num_frames, size, fps)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int, qp: int = 22) -> Path:
    """Encodes RGB frames (H, W, 3) uint8, of even height and width, as H.264; the file appears when it is complete."""
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
    """One video of a release. `index` numbers the people of a split."""

    path: Path
    label: str
    split: str
    index: int
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
    """Writes a release in the shape of QEVD's under `dest` and returns the path of its JSON, which is written last.

    `videos_per_class` is by split, `size` (height, width). Person `i` of a split does every exercise once; nobody is in
    two splits. `with_faults` adds two train entries: a video whose file is cut off, and one that is listed but absent.
    What is there already is kept, so a second run is quick. Raises ValueError for an unknown exercise or split, and
    where `dest` holds a release with other settings: a release must not mix two.
    """
    if unknown := (set(exercises) - set(EXERCISES)) | (set(videos_per_class) - set(SPLITS)):
        raise ValueError(f"no such exercise or split: {', '.join(sorted(unknown))}; there are {', '.join(EXERCISES)}")
    settings = {"exercises": list(exercises), "videos_per_class": videos_per_class, "size": list(size)}
    settings |= {"seconds": seconds, "fps": fps, "seed": seed, "furniture": furniture, "with_faults": with_faults}
    dest.mkdir(parents=True, exist_ok=True)
    if (dest / SETTINGS_NAME).exists() and json.loads((dest / SETTINGS_NAME).read_text()) != settings:
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
    """The videos of a release in order of their numbers; each part holds a range of them, as QEVD's do."""
    videos = [
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
    """Renders and writes the entries' files, in this process where more would not pay."""
    if min(workers, len(entries) // 8) < 2:
        for entry in entries:
            generate_video(entry, settings)
        return
    with ProcessPoolExecutor(min(workers, len(entries) // 8), get_context("spawn")) as pool:
        list(pool.map(generate_video, entries, [settings] * len(entries), chunksize=8))


def person_seed(seed: int, entry: Entry) -> tuple[int, int, int]:
    """The seed of an entry's person and room: by split, so that no person of one is in the other."""
    return seed, SPLITS.index(entry.split), entry.index


def generate_video(entry: Entry, settings: dict) -> None:
    """Renders and writes one file; a truncated one lacks its second half, and so the index at the end of an mp4."""
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
    unfinished.write_text(json.dumps(content, indent=4))
    os.replace(unfinished, path)
