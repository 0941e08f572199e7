"""The movements of generated videos: what each joint of a figure does in each exercise.

Every repetition of every exercise starts and ends in the same standing pose, so most single frames do not tell the
class: the motion does. A side in a name is a side of the screen: `left arm raise` raises the arm drawn on the left.
"""

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


class Repetitions:
    """An exercise: from standing through the `key_poses` and back, at equal times, slowing down at each.

    The duration of a repetition is proportional to `num_moves`, the number of moves between key poses.
    """

    def __init__(self, *key_poses: np.ndarray) -> None:
        self._cycle = np.stack([key_pose(), *key_poses, key_pose()])
        self.num_moves = len(self._cycle) - 1

    def __call__(self, phase: np.ndarray) -> np.ndarray:
        """Poses (T, segments, 2) at phases (T,), in repetitions."""
        position = (phase % 1) * self.num_moves
        start = position.astype(int)
        progress = (1 - np.cos(np.pi * (position - start)))[:, None, None] / 2
        return self._cycle[start] * (1 - progress) + self._cycle[start + 1] * progress


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

EXERCISES = {
    "squats": Repetitions(key_pose(**SQUATTING, **ARMS_IN_FRONT)),
    "jumping jacks": Repetitions(key_pose(**ARMS_OUT, thigh=(28, 0), shin=(28, 0), hips=(0, 3))),
    "arm raises": Repetitions(key_pose(**ARMS_OUT)),
    "toe touches": Repetitions(key_pose(torso=(0, 125), upper_arm=(4, 15), forearm=(0, 15))),
    "biceps curls": Repetitions(key_pose(forearm=(12, 150))),
    "overhead presses": Repetitions(
        elbows := key_pose(upper_arm=(25, 10), forearm=(160, 20)),
        key_pose(upper_arm=(160, 0), forearm=(172, 0)),
        elbows,
    ),
    "squat jumps": Repetitions(key_pose(**SQUATTING), key_pose(**ARMS_OUT, hips=(0, 18))),
    "high knees": Repetitions(LEFT_KNEE_UP, STANDING, mirrored(LEFT_KNEE_UP)),
    "lunges": Repetitions(LEFT_LUNGE, STANDING, mirrored(LEFT_LUNGE)),
    "side lunges": Repetitions(LEFT_SIDE_LUNGE, STANDING, mirrored(LEFT_SIDE_LUNGE)),
    "punches": Repetitions(LEFT_PUNCH, mirrored(LEFT_PUNCH)),
    "kicks": Repetitions(LEFT_KICK, STANDING, mirrored(LEFT_KICK)),
    "torso twists": Repetitions(LEFT_TWIST, mirrored(LEFT_TWIST)),
    "left arm raise": Repetitions(LEFT_ARM_RAISE),
    "right arm raise": Repetitions(mirrored(LEFT_ARM_RAISE)),
    "left leg raise": Repetitions(LEFT_LEG_RAISE),
    "right leg raise": Repetitions(mirrored(LEFT_LEG_RAISE)),
    "left side bend": Repetitions(LEFT_SIDE_BEND),
    "right side bend": Repetitions(mirrored(LEFT_SIDE_BEND)),
}
