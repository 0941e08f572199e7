"""Made-up validations: what a network might say of videos that nobody filmed."""

import numpy as np
import torch

from evaluation.metrics import Accuracies, VideoResults
from reporting.mistakes import Mistake
from reporting.result_files import Evaluation

MOTIONS = ("squat", "lunge", "plank", "push-up", "sit-up", "jumping jack", "high knee", "butt kick", "arm circle")
MANNERS = ("left", "right", "slow", "fast", "deep", "shallow", "with hands on hips", "off tempo", "facing sideways")


def class_names(count: int) -> list[str]:
    """Names as the release has them, some of them long."""
    names = [f"{motion}_{manner}".replace(" ", "_") for motion in MOTIONS for manner in MANNERS]
    return sorted([*names, *(f"exercise_{number:03d}" for number in range(max(count - len(names), 0)))][:count])


def wilson(right: int, count: int) -> list[float]:
    """Both ends of Wilson's 95 % interval in percent, by its formula."""
    z, share = 1.959963984540054, right / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * (share * (1 - share) / count + (z / (2 * count)) ** 2) ** 0.5
    return [100 * (centre - reach), 100 * (centre + reach)]


def results_of(scores: torch.Tensor, targets: torch.Tensor, clips_per_video: int = 1) -> VideoResults:
    """Results with these scores (V, num_classes); the clips are as good as the videos."""
    videos = torch.arange(len(targets))
    video = VideoResults(videos, scores, targets, Accuracies(0, 0, 0), 0.0, clips_per_video).video
    clip = Accuracies(video.top1, video.top5, len(targets) * clips_per_video)
    return VideoResults(videos, scores, targets, clip, 0.75, clips_per_video, 12.5, 1.25)


def made_up_evaluation(num_classes: int = 4, videos_per_class: int = 6, seed: int = 0, **fields) -> Evaluation:
    """An evaluation in which a class is now and then taken for the next; class 1 of four or more has no videos."""
    generator = torch.Generator().manual_seed(seed)
    classes = fields.pop("classes", class_names(num_classes))
    targets = torch.arange(num_classes).repeat_interleave(videos_per_class)
    if num_classes > 3:
        targets = targets[targets != 1]
    logits = torch.randn(len(targets), num_classes, generator=generator, dtype=torch.float64)
    rows = torch.arange(len(targets))
    logits[rows, targets] += 4
    logits[rows, (targets + 1) % num_classes] += 2.5
    paths = [f"{classes[target]}/{row:08d}.mp4" for row, target in enumerate(targets.tolist())]
    defaults = {"rule": "official frames, 16 at 4 a second", "pixels": "decoded, float"}
    results = results_of(logits.softmax(1), targets)
    return Evaluation(results, fields.pop("paths", paths), classes, **{**defaults, **fields})


def made_up_mistakes(evaluation: Evaluation, count: int, num_frames: int = 16) -> list[Mistake]:
    """Mistakes of an evaluation with frames of colours."""
    wrong = (evaluation.predictions != evaluation.results.targets).nonzero()[:count, 0].tolist()
    across = np.linspace(0, 255, 112, dtype=np.uint8)
    frames = np.stack(
        [np.stack(np.broadcast_arrays(across, across[:, None], np.uint8(15 * t)), -1) for t in range(num_frames)]
    )
    return [
        Mistake(
            evaluation.paths[row],
            evaluation.classes[evaluation.results.targets[row]],
            evaluation.classes[evaluation.predictions[row]],
            float(evaluation.probabilities[row]),
            0.1,
            list(range(0, 8 * num_frames, 8)),
            frames,
        )
        for row in wrong
    ]


def made_up_log(epochs: int) -> list[dict[str, float]]:
    """The log of a run that learns."""
    return [
        {
            "epoch": epoch,
            "train_loss": 2.0 / (epoch + 1),
            "train_clip_acc1": 100 - 70 / (epoch + 1),
            "val_loss": 1.9 / (epoch + 1) + 0.02 * epoch,
            "val_clip_acc1": 90 - 60 / (epoch + 1),
            "val_clip_acc5": 98.0,
            "val_video_acc1": 91 - 60 / (epoch + 1),
            "val_video_acc5": 99.0,
            "lr": 0.01 * (1 - epoch / epochs),
            "seconds": 60.0,
            "data_seconds": 6.0,
            "val_seconds": 10.0,
            "val_data_seconds": 2.0,
        }
        for epoch in range(epochs)
    ]
