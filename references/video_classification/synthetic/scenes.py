"""The people, rooms and takes of generated videos: how they are drawn at random, and how they are painted.

Lengths are in body heights, colours are (3,) RGB in [0, 1], angles are in degrees.
"""

import colorsys
from dataclasses import dataclass

import numpy as np

from synthetic.exercises import SEGMENTS


@dataclass(frozen=True)
class Person:
    """Proportions and colours of a figure; each of `segment_colours` is one of skin, shirt or trousers."""

    leg: float
    torso: float
    arm: float
    shoulder_width: float
    hip_width: float
    head_radius: float
    limb_radius: float
    hair: np.ndarray
    shoes: np.ndarray
    skin: np.ndarray
    shirt: np.ndarray
    trousers: np.ndarray
    long_sleeves: bool
    shorts: bool


@dataclass(frozen=True)
class Room:
    """A wall above a floor, with boxes (centre x, centre y, half width, half height, colour) before the wall."""

    wall: np.ndarray
    floor: np.ndarray
    floor_line: float
    boxes: tuple[tuple[float, float, float, float, np.ndarray], ...]


@dataclass(frozen=True)
class Take:
    """What changes between two videos of one person: camera, pace, range of motion, and which way round it is."""

    scale: float  # body height / frame height
    offset: tuple[float, float]
    tilt: float
    yaw: float
    pitch: float
    shake: np.ndarray  # (2 axes, 2 waves, 3): amplitude, Hz, phase
    seconds_per_move: float
    phase: float
    amplitude: float
    is_flipped: bool


def draw_person_and_room(rng: np.random.Generator, furniture: bool = True) -> tuple[Person, Room]:
    """Somebody and their home; clothes that the wall would swallow are drawn again."""

    def colour(saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
        return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)))

    def clothes() -> np.ndarray:
        while True:
            drawn = colour((0.3, 1.0), (0.1, 0.7))
            if abs(drawn.mean() - wall.mean()) > 0.25:
                return drawn

    wall, floor = colour((0.0, 0.25), (0.7, 1.0)), colour((0.1, 0.5), (0.25, 0.7))
    boxes = [
        (rng.uniform(-0.9, 0.9), rng.uniform(0.4, 1.2), *rng.uniform(0.06, 0.25, 2), colour((0, 0.5), (0.3, 0.9)))
        for _ in range(rng.integers(1, 4) if furniture else 0)
    ]
    torso = rng.uniform(0.27, 0.32)
    person = Person(
        leg=0.81 - torso,
        torso=torso,
        arm=rng.uniform(0.35, 0.42),
        shoulder_width=rng.uniform(0.17, 0.24),
        hip_width=rng.uniform(0.10, 0.15),
        head_radius=rng.uniform(0.065, 0.08),
        limb_radius=rng.uniform(0.027, 0.042),
        hair=colour((0.2, 0.7), (0.05, 0.5)),
        shoes=colour((0.0, 0.8), (0.05, 0.3)),
        skin=np.array([0.95, 0.76, 0.65]) + rng.random() * (np.array([0.35, 0.22, 0.15]) - [0.95, 0.76, 0.65]),
        shirt=clothes(),
        trousers=clothes(),
        long_sleeves=rng.random() < 0.5,
        shorts=rng.random() < 0.4,
    )
    return person, Room(wall, floor, rng.uniform(0.03, 0.2), tuple(boxes))


def draw_take(rng: np.random.Generator) -> Take:
    """A camera and a performance. Flipping half of them makes left and right exact mirror images in distribution."""
    waves = np.stack([rng.uniform(0, 0.008, (2, 2)), rng.uniform(0.3, 1.5, (2, 2)), rng.uniform(0, 1, (2, 2))], axis=-1)
    return Take(
        scale=rng.uniform(0.6, 0.72),
        offset=(rng.uniform(-0.1, 0.1), rng.uniform(0.08, 0.16)),
        tilt=rng.uniform(-4, 4),
        yaw=rng.uniform(-25, 25),
        pitch=rng.uniform(0, 12),
        shake=waves,
        seconds_per_move=rng.uniform(0.5, 0.8),
        phase=rng.random(),
        amplitude=rng.uniform(0.85, 1),
        is_flipped=rng.random() < 0.5,
    )


def joints_of(pose: np.ndarray, person: Person) -> dict[str, np.ndarray]:
    """Poses (T, segments, 2) to joints (T, 3): right, up, towards the camera; the lowest ankle stands on the floor."""

    def direction(segment: str, outwards: int) -> np.ndarray:
        side, forward = np.radians(pose[:, SEGMENTS.index(segment)]).T
        down = -np.cos(side) * np.cos(forward)
        return np.stack([outwards * np.sin(side) * np.cos(forward), down, np.sin(forward)], -1)

    spine = direction("torso", 1) * (1, -1, 1)  # counted from upright
    twist = np.radians(pose[:, SEGMENTS.index("chest"), 0])
    across = np.stack([spine[:, 1] * np.cos(twist), -spine[:, 0] * np.cos(twist), np.sin(twist)], -1)
    hips = np.zeros((len(pose), 3))
    neck = hips + person.torso * spine
    joints = {"hips": hips, "neck": neck, "head": neck + (0.03 + person.head_radius) * spine}
    joints["face"] = joints["head"] - 0.15 * person.head_radius * spine
    for side, outwards in (("left", -1), ("right", 1)):
        shoulder = neck + outwards * person.shoulder_width / 2 * across
        elbow = shoulder + person.arm / 2 * turned(direction(f"{side}_upper_arm", outwards), twist)
        hand = elbow + person.arm / 2 * turned(direction(f"{side}_forearm", outwards), twist)
        hip = hips + (outwards * person.hip_width / 2, 0, 0)
        knee = hip + person.leg / 2 * direction(f"{side}_thigh", outwards)
        ankle = knee + person.leg / 2 * direction(f"{side}_shin", outwards)
        toes = ankle + (outwards * 0.02, -0.01, 0.07)
        arm, leg = {"shoulder": shoulder, "elbow": elbow, "hand": hand}, {"hip": hip, "knee": knee, "ankle": ankle}
        joints |= {f"{side}_{name}": at for name, at in {**arm, **leg, "toes": toes}.items()}
    lowest = np.minimum(joints["left_ankle"][:, 1], joints["right_ankle"][:, 1])
    shift = np.zeros((len(pose), 3))
    shift[:, :2] = pose[:, SEGMENTS.index("hips")] / 100
    shift[:, 1] += person.limb_radius - lowest
    return {name: at + shift for name, at in joints.items()}


def turned(points: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """(T, 3) turned about the upright axis by radians."""
    x, y, z = points.T
    return np.stack([x * np.cos(angle) + z * np.sin(angle), y, z * np.cos(angle) - x * np.sin(angle)], axis=-1)


class Canvas:
    """Frames (3, T, H, W) in [0, 1], to paint shapes on that are given in body heights; edges are anti-aliased."""

    def __init__(self, num_frames: int, size: tuple[int, int], fps: float, take: Take) -> None:
        height, width = size
        seconds = np.arange(num_frames)[:, None] / fps
        amplitude, hertz, phase = np.moveaxis(take.shake[:, None], -1, 0)  # each (2 axes, 1, 2 waves)
        shake = (amplitude * np.sin(2 * np.pi * (hertz * seconds + phase))).sum(-1)  # (2 axes, T)
        cos, sin = np.cos(np.radians(take.tilt)), np.sin(np.radians(take.tilt))
        self.scale = take.scale * height  # pixels per body height
        self.to_pixels = self.scale * np.array([[cos, sin], [sin, -cos]])  # its own inverse, but for the scale
        self.origin = (shake.T + take.offset) * (self.scale, -self.scale) + (width / 2, height)  # (T, 2) pixels
        self.frames = np.zeros((3, num_frames, height, width), np.float32)

    def positions(self) -> np.ndarray:
        """Where each pixel looks, (2, T, H, W) body heights: right, up."""
        height, width = self.frames.shape[2:]
        x, y = self.origin.T[..., None, None]
        x, y = np.arange(width) + 0.5 - x, np.arange(height)[:, None] + 0.5 - y  # (T, 1, W), (T, H, 1)
        rows = self.to_pixels / self.scale**2
        return np.stack([across * x + down * y for across, down in rows]).astype(np.float32)

    def paint(self, distance: np.ndarray, colour: np.ndarray, window: tuple[slice, slice] = (slice(None),) * 2) -> None:
        """Colours the inside of a shape, given the pixels (T, h, w) to its edge, negative inside, in a window."""
        coverage = np.clip(0.5 - distance, 0, 1)
        for plane, value in zip(self.frames[:, :, window[0], window[1]], colour.astype(np.float32), strict=True):
            plane += coverage * (value - plane)

    def paint_limb(self, points: np.ndarray, radius: float, colour: np.ndarray) -> None:
        """A thick line with round ends and corners through two or more `points` (points, T, 2)."""
        pixels, radius = points @ self.to_pixels + self.origin, radius * self.scale
        corners = np.stack([pixels.min((0, 1)) - radius - 1, pixels.max((0, 1)) + radius + 2])
        (left, top), (right, bottom) = np.clip(corners, 0, self.frames.shape[:1:-1]).astype(int)
        x, y = np.arange(left, right, dtype=np.float32) + 0.5, np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5
        ends = pixels.astype(np.float32).swapaxes(1, 2)[..., None, None]  # (points, 2, T, 1, 1)
        squared = np.float32(np.inf)
        for (x0, y0), (dx, dy) in zip(ends, ends[1:] - ends[:-1], strict=False):
            along = ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy + np.float32(1e-6))
            along = np.clip(along, 0, 1)
            squared = np.minimum(squared, (x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2)
        self.paint(np.sqrt(squared) - np.float32(radius), colour, (slice(top, bottom), slice(left, right)))


def paint_room(canvas: Canvas, room: Room) -> None:
    """The wall, what stands before it, the floor and the skirting board between them."""
    canvas.frames += room.wall[:, None, None, None]
    x, y = canvas.positions()
    scale = np.float32(canvas.scale)
    for centre_x, centre_y, half_width, half_height, colour in room.boxes:
        outside = np.maximum(
            np.abs(x - np.float32(centre_x)) - half_width, np.abs(y - np.float32(centre_y)) - half_height
        )
        canvas.paint(outside * scale, colour)
    above_floor = y - np.float32(room.floor_line)
    canvas.paint(above_floor * scale, room.floor)
    canvas.paint((np.abs(above_floor) - np.float32(0.008)) * scale, room.floor * 0.6)


def paint_person(canvas: Canvas, person: Person, at: dict[str, np.ndarray]) -> None:
    """`at`: joints (T, 2) as the camera sees them. Painted from the feet to the hands, which come before the body."""

    def paint(colour: np.ndarray, radius: float, *joints: str) -> None:
        canvas.paint_limb(np.stack([at[joint] for joint in joints]), radius, colour)

    thick, head = person.limb_radius, person.head_radius
    for side in ("left", "right"):
        paint(person.shoes, thick, f"{side}_ankle", f"{side}_toes")
        paint(person.skin if person.shorts else person.trousers, thick, f"{side}_knee", f"{side}_ankle")
        paint(person.trousers, 1.3 * thick, f"{side}_hip", f"{side}_knee")
    paint(person.skin, thick, "neck", "head")
    upper, lower = ("left_shoulder", "neck", "right_shoulder"), ("right_hip", "left_hip", "neck", "right_hip")
    paint(person.shirt, 1.5 * thick, "left_hip", *upper, *lower)
    paint(person.hair, 1.12 * head, "head", "head")
    paint(person.skin, 0.9 * head, "face", "face")
    for side in ("left", "right"):
        paint(person.shirt, 1.1 * thick, f"{side}_shoulder", f"{side}_elbow")
        paint(person.shirt if person.long_sleeves else person.skin, thick, f"{side}_elbow", f"{side}_hand")
        paint(person.skin, 1.2 * thick, f"{side}_hand", f"{side}_hand")
