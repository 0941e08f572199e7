"""What a training will take, said before it begins: `train.py --plan`.

Nothing is written. The videos are counted, a few are tried, a few steps are timed; the rest is multiplication.
"""

import argparse
import datetime
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from caching.building import gigabytes
from caching.clip_cache import CacheSettings, ClipCache
from clips import presets
from network.precision import Precision
from runtime.distributed import print_main
from runtime.errors import UserError, listed
from runtime.files import check_writable
from runtime.signals import ResumeCommand
from training import estimating
from training.estimating import Need, Rates, StepSeconds, TriedVideo, Work
from training.recipe import val_preprocessing
from training.running import checked_start
from training.screen import device_words, print_entries
from videos.folder import VideoFolder

SAMPLE_SECONDS = 20.0
IMBALANCE = 10  # times as many training videos, from which a remedy is named
NAMED = 6  # classes or files in a message


@dataclass(frozen=True)
class Tree:
    """The videos of both splits."""

    train: VideoFolder
    val: VideoFolder

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Training and validation videos of each class, those of empty folders too."""
        train, val = (Counter(split.classes[at] for at in split.labels.tolist()) for split in (self.train, self.val))
        return {name: (train[name], val[name]) for name in sorted({*self.train.classes, *self.val.classes})}

    def sample(self) -> list[str]:
        """The paths of all videos, in an order that is random and always the same."""
        paths = [folder.path(video) for folder in (self.train, self.val) for video in range(len(folder))]
        return [paths[place] for place in np.random.default_rng(0).permutation(len(paths))]


def print_plan(args: argparse.Namespace, device: torch.device, command: ResumeCommand) -> None:
    """Says what the training will take. Raises UserError if it could not succeed, or if there are no videos."""
    tree = Tree(VideoFolder(args.data_path / "train"), VideoFolder(args.data_path / "val"))
    precision = Precision.of(args.amp, device)
    problems = class_problems(tree.counts)
    # Weights, checkpoint, sizes of clips, the folder for its output.
    problems += _refusal_of(lambda: checked_start(args, command))
    warnings = class_warnings(tree.counts, args.balanced_sampling)
    _print_tree(args, tree, warnings)

    settings = CacheSettings(val_preprocessing(args), args.cache_format)
    folders = [(split, settings.folder(args.cache_dir, split.root)) for split in (tree.train, tree.val)]
    uncached = sum(len(ClipCache(split, settings, folder).missing) for split, folder in folders)
    if (args.cache_dataset and uncached) or args.cache_features:
        problems += _refusal_of(lambda: check_writable("--cache-dir", args.cache_dir / "new"))
    for problem in problems:  # said again at the end, but better known before half a minute of trying
        print_entries({"PROBLEM": problem})
    print_main(f"Trying videos for at most {SAMPLE_SECONDS:.0f} seconds, then a few steps")
    tried = estimating.try_videos(tree.sample(), settings, args.workers, SAMPLE_SECONDS)
    if bad := unreadable_words(tried, len(tree.train) + len(tree.val), args.data_path):
        (warnings if args.skip_unreadable else problems).append(bad)
    steps = _time_steps(args, len(tree.train.classes), precision, problems)
    work = Work.of(args, len(tree.train), len(tree.val), uncached)
    needs = work.bytes(args, tried)
    problems += estimating.space_problems({name: need for name, need in needs.items() if need.is_wanted})

    device_text = device_words(precision, args.workers)
    entries = {"Sample": sample_words(tried), "Disk": disk_words(needs), "Device": device_text}
    if steps is not None:
        times = work.seconds(Rates.of(tried, steps, args.workers), is_shared=device.type == "cpu")
        entries["Time"] = time_words(times, args.epochs, args.cache_dataset)
        warnings += time_warnings(times)
    if args.teacher:
        warnings.append("the teacher's forward passes, one for each clip, are not in these times")
    print_entries(entries)
    for warning in warnings:
        print_entries({"WARNING": warning})
    if problems:
        raise UserError("\n  ".join(["this training could not succeed:", *problems]))
    print_main("Nothing that was tried would stop this training. All times are estimates.")


def _time_steps(
    args: argparse.Namespace, num_classes: int, precision: Precision, problems: list[str]
) -> StepSeconds | None:
    """Seconds of the steps, None where there are none; adds to the problems a batch that is too large."""
    shape = (args.batch_size, 3, args.clip_len, *args.train_crop_size)
    try:
        return estimating.time_steps(
            args.model, num_classes, args.trainable, shape, precision, bool(args.cache_features)
        )
    except torch.OutOfMemoryError:
        problems.append(
            f"a step of {args.batch_size} clips does not fit into the GPU's memory: take a smaller --batch-size, with "
            "--gradient-accumulation for the same effective batch, or --amp"
        )
    except (UserError, RuntimeError):
        if not problems:  # which tell already why the network does not take these clips
            raise
    return None


def _refusal_of(check: Callable[[], object]) -> list[str]:
    """Why the check fails; nothing where it does not."""
    try:
        check()
    except UserError as error:
        return [str(error)]
    return []


# The classes.


def class_problems(counts: Mapping[str, tuple[int, int]]) -> list[str]:
    """What training refuses about classes; `counts` are their training and validation videos."""
    only_val = [name for name, (train, val) in counts.items() if val and not train]
    text = f"classes without a training video, but with validation videos: {listed(only_val, NAMED)}"
    return [f"{text}: place training videos too, or remove these folders from val/"] if only_val else []


def class_warnings(counts: Mapping[str, tuple[int, int]], balanced: bool) -> list[str]:
    """What training accepts about classes, but should be known, from their training and validation videos.

    `balanced`: an epoch will show all classes equally often.
    """
    warnings = []
    if only_train := [name for name, (train, val) in counts.items() if train and not val]:
        text = f"classes without a validation video: {listed(only_train, NAMED)}"
        warnings.append(f"{text}: how well they are learnt cannot be told; move some of their videos to val/")
    if empty := [name for name, both in counts.items() if not any(both)]:
        warnings.append(
            f"classes without any video: {listed(empty, NAMED)}: remove the folders, or they become outputs"
        )
    sizes = {name: train for name, (train, _) in counts.items() if train}
    if sizes and not balanced and max(sizes.values()) >= IMBALANCE * min(sizes.values()):
        small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        warnings.append(
            f"{large} has {sizes[large] / sizes[small]:.0f} times the training videos of {small}: consider "
            "--balanced-sampling, and look at the macro accuracy"
        )
    return warnings


def mirror_names(classes: Sequence[str]) -> dict[str, str | None]:
    """Each class with a side, and the class of the other side, None where there is none."""
    sided = [name for name, alike in zip(classes, presets.flippable(classes).tolist(), strict=True) if not alike]
    return {name: other if (other := _other_side(name)) in classes else None for name in sided}


def _other_side(name: str) -> str:
    sides = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}
    return re.sub("|".join(sides), lambda side: sides[side[0]], name)


def flip_words(classes: Sequence[str], mirrors: Sequence[int] | None, augment: str) -> dict[str, str]:
    """What training does about mirror images of each class, whose labels `mirrors` has where there is a flip map."""
    sided = mirror_names(classes)

    def word(label: int, name: str) -> str:
        if augment == "none":
            return "no"
        if mirrors is not None and mirrors[label] != label:
            return f"as {classes[mirrors[label]]}"
        return "no, it has a side" if name in sided else "yes"

    return {name: word(label, name) for label, name in enumerate(classes)}


def flip_map_words(classes: Sequence[str]) -> str | None:
    """That classes which mirror each other could be flipped into each other; None where there are no such two."""
    pairs = {name: other for name, other in mirror_names(classes).items() if other and name < other}
    if not pairs:
        return None
    shown = ", ".join([f'"{name}": "{other}"' for name, other in pairs.items()][:NAMED])
    more = ", ..." if len(pairs) > NAMED else ""
    how = f"with {{{shown}{more}}} in a --flip-map FILE they are, and their labels with them"
    return f"left and right are not flipped into each other; {how}"


def _print_tree(args: argparse.Namespace, tree: Tree, warnings: list[str]) -> None:
    """Prints the videos by class and split; adds to the warnings what is to be said of sides."""
    counts, classes = tree.counts, tree.train.classes
    mirrors = presets.read_flip_map(args.flip_map, classes).tolist() if args.flip_map else None
    words = flip_words(classes, mirrors, args.augment)
    sizes = [train for train, _ in counts.values() if train]
    kinds = [("training", tree.train), ("validation", tree.val)]
    videos = ", ".join(f"{len(split)} {kind} videos ({gigabytes(split.sizes.sum())})" for kind, split in kinds)
    least, most = min(sizes), max(sizes)
    spread = f"{least} training videos a class" if least == most else f"{least} to {most} training videos a class"
    print_entries({"Data": f"{args.data_path}: {len(classes)} classes, {videos}; {spread}"})
    width = max(len("class"), *map(len, counts))
    print_main(f"\n  {'class':<{width}}  {'train':>7}  {'val':>7}  mirrored in training")
    for name, (in_train, in_val) in counts.items():
        print_main(f"  {name:<{width}}  {in_train:>7}  {in_val:>7}  {words.get(name, 'not trained')}")
    print_main()
    if mirrors is None and args.augment != "none" and (advice := flip_map_words(classes)):
        warnings.append(advice)


# What is printed.


def unreadable_words(tried: Sequence[TriedVideo], total: int, data_path: Path) -> str | None:
    """The videos of the sample that cannot be read; None where all can."""
    bad = [video for video in tried if video.reason is not None]
    if not bad:
        return None
    listed = "; ".join(f"{video.path}: {video.reason}" for video in bad[:NAMED])
    return (
        f"{len(bad)} of the {len(tried)} videos tried cannot be read ({total} in all): {listed}. Run check_videos.py "
        f"--root {data_path} --quarantine DIR, or go on without them by --skip-unreadable"
    )


def sample_words(tried: Sequence[TriedVideo]) -> str:
    """How many videos were tried, and what they took."""
    good = [video for video in tried if video.reason is None]
    count = f"{len(tried)} videos tried, {len(tried) - len(good)} of them unreadable"
    if not good:
        return count
    means = (1000 * sum(getattr(video, f"{name}_seconds") for video in good) / len(good) for name in ("scan", "strip"))
    scan, strip = means
    return f"{count}; a worker takes {scan:.0f} ms to scan a video and {strip:.0f} ms to decode all of it"


def disk_words(needs: Mapping[str, Need]) -> str:
    """What is written where."""
    parts = []
    for name, need in needs.items():
        free = gigabytes(shutil.disk_usage(estimating.existing(need.folder)).free)
        optional = "" if need.is_wanted else " if asked for"
        parts.append(f"{name} {gigabytes(need.bytes)}{optional} in {need.folder} ({free} free)")
    return "; ".join(parts)


def time_words(seconds: Mapping[str, float], epochs: int, cached: bool) -> str:
    """The seconds of the stages in words; where no clip cache is built, its time is only told."""
    shown = {name: _clock(value) for name, value in seconds.items()}
    scan, build = f"scan {shown['scan']}", f"clip cache {shown['clip cache']}"
    first = build if cached else f"{scan} ({build} if asked for)"
    features = f", features {shown['features']}" if "features" in shown else ""
    return f"{first}{features}, an epoch {shown['epoch']}; with {epochs} epochs {shown['all']} in all"


def time_warnings(seconds: Mapping[str, float]) -> list[str]:
    """Remedies where decoding takes most of an epoch."""
    decoding = seconds["decoding in an epoch"]
    text = f"decoding takes {_clock(decoding)} in each epoch: --cache-dataset decodes every video once"
    return [text] if decoding > seconds["epoch"] / 2 else []


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
