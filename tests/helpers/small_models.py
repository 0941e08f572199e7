"""Checkpoints of untrained networks that tell clips apart, and data for them: small, made in a second."""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clips.preprocessing import Preprocessing
from helpers.numbered_videos import write_video
from network.models import build_model

SMALLEST = "mc3_18"  # a third of the parameters of r2plus1d_18, and half the layers
CLASSES = ["dips", "jumping jacks", "left lunge"]


def small_checkpoint(path: Path, name: str = SMALLEST, **changes) -> Path:
    """A checkpoint for clips of 8 frames of 28x28 pixels; `changes` replace entries."""
    checkpoint = {
        "model": random_network(name, len(CLASSES)).state_dict(),
        "epoch": 0,
        "classes": CLASSES,
        "preprocessing": small_preprocessing(),
        "args": {"model": name},
        **changes,
    }
    torch.save(checkpoint, path)
    return path


def legacy_checkpoint(path: Path) -> Path:
    """The same network in the public sample solution's form."""
    args = argparse.Namespace(
        model=SMALLEST, clip_len=8, frame_rate=4, val_resize_size=(32, 42), val_crop_size=(28, 28)
    )
    torch.save({"model": random_network(SMALLEST, len(CLASSES)).state_dict(), "epoch": 3, "args": args}, path)
    return path


def small_preprocessing(**changes) -> dict:
    """Of clips of 8 frames of 28x28 pixels."""
    settings = {"clip_len": 8, "resize_size": (32, 42), "crop_size": (28, 28), **changes}
    return Preprocessing(**settings).plain()


def random_network(name: str, num_classes: int) -> nn.Module:
    """A network whose BatchNorm has statistics of its own, and whose logits differ from clip to clip."""
    torch.manual_seed(0)
    network = build_model(name, num_classes)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.8, 1.2)
                module.bias.uniform_(-0.2, 0.2)
        network.fc.weight.mul_(5)
    return network.eval()


def write_coloured_videos(root: Path, splits: dict[str, int], classes=CLASSES) -> Path:
    """`root/<split>/<class>/<n>.mp4`: blocks of colour that move, other ones in every video."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for name in classes:
            for number in range(count):
                blocks = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
                frames = (np.roll(blocks, 2 * step, axis=1) for step in range(24))
                write_video(root / split / name.replace(" ", "_") / f"{number}.mp4", frames, fps=12)
    return root


def fit_head(network: nn.Module, clips: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """Trains the last layer on normalised clips (B, C, T, H, W), as far as it goes."""
    head = network.fc
    network.fc = nn.Identity()
    with torch.no_grad():
        features = torch.cat([network(clip) for clip in clips.split(8)])
    network.fc = head
    optimizer = torch.optim.LBFGS(head.parameters(), lr=0.1, max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(head(features), labels) + 1e-3 * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return network.eval()
