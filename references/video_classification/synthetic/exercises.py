"""The movements of `synthetic_videos`: what each joint of a figure does in each exercise. A room of its own because the
table of exercises grows by itself, without a word about drawing or files.

Every repetition of every exercise starts and ends in the same standing pose, so most single frames do not tell the
class: the motion does. A side in a name is a side of the screen: `left arm raise` raises the arm drawn on the left.
"""

from collections.abc import Callable

import numpy as np

# Exercises are cycles of key poses. A key pose is (segments, 2): for torso and limbs the degrees turned (outwards,
# towards the camera), limbs from hanging down, the torso from upright and towards the right of the screen; for the
# hips their shift in % of the body's height (to the right, upwards), for the chest its twist in degrees (and nothing).
LIMBS = ("upper_arm", "forearm", "thigh", "shin")
SEGMENTS = ("hips", "torso", "chest", *(f"{side}_{limb}" for side in ("left", "right") for limb in LIMBS))


def key_pose(**angles: tuple[float, float]) -> np.ndarray:
    """(segments, 2): standing, but for the `angles`, given for a segment or for a limb of both sides."""
    standing = {"arm": (12, 0), "thigh": (4, 0), "shin": (4, 0)}
    pose = np.array([next((at for limb, at in standing.items() if limb in name), (0, 0)) for name in SEGMENTS], float)
    for name, angle in angles.items():
        for segment in [name] if name in SEGMENTS else [f"left_{name}", f"right_{name}"]:
            pose[SEGMENTS.index(segment)] = angle
    return pose


def mirrored(pose: np.ndarray) -> np.ndarray:
    """A pose (..., segments, 2) as a mirror shows it."""
    pose = np.concatenate([pose[..., :3, :], pose[..., 7:, :], pose[..., 3:7, :]], axis=-2)
    pose[..., :3, 0] *= -1
    return pose


def repetitions_of(*key_poses: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The pose function that goes from standing through the `key_poses` and back, at equal times, resting at each.

    It takes phases (T,), in repetitions, to poses (T, segments, 2). Its attribute `num_moves` says how long a
    repetition is: the number of ways between key poses.
    """
    cycle = np.stack([key_pose(), *key_poses, key_pose()])

    def pose_at(phase: np.ndarray) -> np.ndarray:
        position = (phase % 1) * (len(cycle) - 1)
        start = position.astype(int)
        progress = (1 - np.cos(np.pi * (position - start)))[:, None, None] / 2
        return cycle[start] * (1 - progress) + cycle[start + 1] * progress

    pose_at.num_moves = len(cycle) - 1
    return pose_at


STANDING = key_pose()
ARMS_OUT = {"upper_arm": (165, 0), "forearm": (165, 0)}
ARMS_IN_FRONT = {"upper_arm": (12, 90), "forearm": (8, 90)}
SQUATTING = {"thigh": (20, 85), "shin": (4, -35), "torso": (0, 30)}
LEFT_KNEE_UP = key_pose(left_thigh=(10, 100), left_shin=(4, -5), right_forearm=(12, 110))
LEFT_LUNGE = key_pose(left_thigh=(4, 80), left_shin=(4, -5), right_thigh=(4, -15), right_shin=(4, -80))
LEFT_SIDE_LUNGE = key_pose(
    **{"hips": (-13, 0), "torso": (14, 15), "left_thigh": (42, 40), "left_shin": (-8, -20)},
    **{"right_thigh": (40, 0), "right_shin": (40, 0), "upper_arm": (12, 60), "forearm": (-30, 60)},
)
LEFT_PUNCH = key_pose(left_upper_arm=(75, 30), left_forearm=(85, 30), right_upper_arm=(25, 20), right_forearm=(0, 140))
LEFT_KICK = key_pose(left_thigh=(6, 75), left_shin=(6, 70), torso=(0, -8))
LEFT_ARM_RAISE = key_pose(left_upper_arm=(160, 0), left_forearm=(165, 0))
LEFT_LEG_RAISE = key_pose(left_thigh=(58, 0), left_shin=(58, 0), torso=(6, 0))
LEFT_SIDE_BEND = key_pose(torso=(-38, 0), right_upper_arm=(150, 0), right_forearm=(195, 0), hips=(4, 0))
LEFT_TWIST = key_pose(chest=(-65, 0), upper_arm=(85, 0), forearm=(85, 0))

EXERCISES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "squats": repetitions_of(key_pose(**SQUATTING, **ARMS_IN_FRONT)),
    "jumping jacks": repetitions_of(key_pose(**ARMS_OUT, thigh=(28, 0), shin=(28, 0), hips=(0, 3))),
    "arm raises": repetitions_of(key_pose(**ARMS_OUT)),
    "toe touches": repetitions_of(key_pose(torso=(0, 125), upper_arm=(4, 15), forearm=(0, 15))),
    "biceps curls": repetitions_of(key_pose(forearm=(12, 150))),
    "overhead presses": repetitions_of(
        elbows := key_pose(upper_arm=(25, 10), forearm=(160, 20)),
        key_pose(upper_arm=(160, 0), forearm=(172, 0)),
        elbows,
    ),
    "squat jumps": repetitions_of(key_pose(**SQUATTING), key_pose(**ARMS_OUT, hips=(0, 18))),
    "high knees": repetitions_of(LEFT_KNEE_UP, STANDING, mirrored(LEFT_KNEE_UP)),
    "lunges": repetitions_of(LEFT_LUNGE, STANDING, mirrored(LEFT_LUNGE)),
    "side lunges": repetitions_of(LEFT_SIDE_LUNGE, STANDING, mirrored(LEFT_SIDE_LUNGE)),
    "punches": repetitions_of(LEFT_PUNCH, mirrored(LEFT_PUNCH)),
    "kicks": repetitions_of(LEFT_KICK, STANDING, mirrored(LEFT_KICK)),
    "torso twists": repetitions_of(LEFT_TWIST, mirrored(LEFT_TWIST)),
    "left arm raise": repetitions_of(LEFT_ARM_RAISE),
    "right arm raise": repetitions_of(mirrored(LEFT_ARM_RAISE)),
    "left leg raise": repetitions_of(LEFT_LEG_RAISE),
    "right leg raise": repetitions_of(mirrored(LEFT_LEG_RAISE)),
    "left side bend": repetitions_of(LEFT_SIDE_BEND),
    "right side bend": repetitions_of(mirrored(LEFT_SIDE_BEND)),
}
