"""What a run prints."""

import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from caching.splits import Clips
from evaluation.intervals import wilson_interval
from evaluation.metrics import VideoResults
from network.models import parameter_counts
from network.precision import Precision
from runtime.distributed import print_main, world_size

SCREEN_WIDTH = 100
LABEL_WIDTH = 10
BASELINE = "official"  # what other frame selections are compared with
NO_BREAK = "\0"  # stands for a space at which no line is broken


def print_entries(entries: Mapping[str, str]) -> None:
    """Prints each text after its label, wrapped."""
    for label, text in entries.items():
        for line in wrapped(label, text):
            print_main(line)


def wrapped(label: str, text: str) -> list[str]:
    """The lines of a text after its label, no wider than the screen where words allow it."""
    first, others = f"{label:<{LABEL_WIDTH}}", " " * LABEL_WIDTH
    wrapper = textwrap.TextWrapper(SCREEN_WIDTH, first, others, break_long_words=False, break_on_hyphens=False)
    return [line.replace(NO_BREAK, " ") for line in wrapper.wrap(text)]


def data_words(data_path: Path, classes: int, train: Clips | None, val: Clips, val_name: str) -> str:
    """How many classes and videos there are, and what is to be known of them.

    Args:
        data_path, classes: of both splits, and how many there are.
        train, val: the splits; without the first where nothing is trained.
        val_name: what the videos of the second are called.
    """
    counts = [f"{classes} classes"]
    counts += [f"{len(train.videos)} training videos"] if train is not None else []
    counts.append(f"{len(val.videos)} {val_name} videos")
    words = f"{data_path}: {', '.join(counts)}"
    if skipped := val.skipped + (train.skipped if train is not None else 0):
        words += f"; {skipped} more that cannot be read are left out"
    if val.turned:
        words += f"; {val.turned} {val_name} videos are turned for display, which the challenge's evaluator ignores"
    return words


def clips_words(train: Clips | None, val: Clips, augment: str) -> str:
    """Which frames and pixels clips are made of, and whether they had to be decoded for the cache."""
    preprocessing = val.options.preprocessing
    height, width = preprocessing.crop_size
    words = f"{preprocessing.rule}, {height}x{width}; pixels: {val.pixels}"
    if val.options.cached:
        built = val.built + (train.built if train is not None else 0)
        words += f", {built} videos decoded into it now" if built else ", found complete"
    if train is None:
        return words
    drawn = train.options.preprocessing
    rule = f" of {drawn.rule}" if drawn.rule != preprocessing.rule else ""
    return f"{words}; augmentation in training: {augment}{rule}"


def model_words(name: str, model: nn.Module, origin: str, trainable: str | None) -> str:
    """The network, where its weights come from, and how much of it is trained, if it is."""
    trained, total = parameter_counts(model)
    if trainable is None:
        return f"{name}, {origin}; {total:,} parameters"
    return f"{name}, {origin}; {trained:,} of {total:,} parameters trained ({trainable})"


def device_words(precision: Precision, workers: int) -> str:
    """What computes, in which types."""
    device, amp = precision.device, precision.amp
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    types = "float32" if amp is None else f"mixed precision with {str(amp).removeprefix('torch.')}"
    processes = "" if world_size() == 1 else f"; {world_size()} processes"
    return f"{device} ({name}), {types}{processes}; {workers} workers"


def schedule_words(clips: Clips, epochs: range, rate: str) -> str:
    """How long the training on these clips is, with the epochs that are left, and the optimizer and rate in words."""
    options, steps = clips.options, clips.steps_per_epoch()
    repeated = -len(clips.videos) * options.clips_per_video % world_size()
    factors = [(options.batch_size, "clips"), (options.batches_per_step, "batches"), (world_size(), "processes")]
    product = " x ".join(f"{count} {what}" for count, what in factors)
    product = f" ({product})" if clips.clips_per_step() > options.batch_size else ""
    return (
        f"epochs {epochs.start} to {epochs.stop - 1}, {steps} steps each, {steps * len(epochs)} in all; "
        f"effective batch {clips.clips_per_step()} clips{product}; {rate}"
        + (f"; {repeated} clips an epoch come twice, for every process to take the same steps" if repeated else "")
    )


def settings_words(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The settings that differ from their defaults, as flags; each will stay on one line with its values."""
    changed = {name: value for name, value in settings.items() if name not in defaults or value != defaults[name]}
    flags = []
    for name, value in sorted(changed.items()):
        values = [] if value is True else value if isinstance(value, list) else [value]
        flags.append(NO_BREAK.join([f"--{name.replace('_', '-')}", *(shlex.quote(str(value)) for value in values)]))
    return " ".join(flags) or "all at their defaults"


def epoch_line(entry: Mapping[str, Any], best: float | None, eta: str) -> str:
    """An epoch in one line, from its entry in the log; times of training and validation are added up.

    `best` is the best video accuracy so far, in percent, None where no epoch is to be the best; `eta` that of the run.
    """
    seconds, waited = (entry[name] + entry[f"val_{name}"] for name in ("seconds", "data_seconds"))
    so_far = "" if best is None else f" best {best:.1f}"
    return (
        f"Epoch: [{entry['epoch']}] loss {entry['train_loss']:.3f}, Acc@1 train {entry['train_clip_acc1']:.1f} "
        f"val {entry['val_video_acc1']:.1f}{so_far}, lr {entry['lr']:.2g}, "
        f"{seconds:.{0 if seconds >= 10 else 1}f} s, {100 * waited / max(seconds, 1e-9):.0f} % wait, eta {eta}"
    )


def print_results(
    results: VideoResults,
    rule: str,
    pixels: str,
    skipped: int,
    turned: int = 0,
    in_full: bool = True,
    seen: bool = False,
) -> None:
    """Prints the two lines of torchvision's reference script, and what was measured.

    Args:
        results: of the validation.
        rule, pixels: how clips are made, in words.
        skipped, turned: how many videos could not be read, and how many were turned for display.
        in_full: also print how it was measured, which a training has said at its start.
        seen: whether the network was trained on these videos.
    """
    for name, accuracy in (("Clip", results.clip), ("Video", results.video)):
        print_main(f" * {name} Acc@1 {accuracy.top1:.3f} {name} Acc@5 {accuracy.top5:.3f}")
    not_scored = f", {skipped} unreadable videos not scored" if skipped else ""
    how = f"; {rule}; pixels: {pixels}" if in_full else ""
    counts = f"{len(results.videos)} videos, {results.clip.count} clips{not_scored}"
    text = f"{counts}{how}; loss {results.loss:.4f}"
    print_main(textwrap.fill(text, SCREEN_WIDTH, initial_indent="   ", subsequent_indent="   "))
    if seen:
        print_main("   of videos seen in training (--train-on-val): it does not tell the accuracy on others")
    if turned and in_full:
        print_main(f"   {turned} of them turned or mirrored for display, which the challenge's evaluator would not do")


def selection_table(results: dict[str, VideoResults]) -> str:
    """A table with a row for each selection: accuracies in percent with their 95 % Wilson intervals, gains and losses.

    *Gained* counts the videos that this selection predicts right and BASELINE, which is among them, wrong; *lost* the
    reverse. All results are over the same videos.
    """
    rows = [["frames", "Clip Acc@1", "Clip Acc@5", "Video Acc@1", "Video Acc@5", "gained", "lost"]]
    baseline = results[BASELINE].ranks < 1
    for name, result in results.items():
        right = result.ranks < 1
        changes = [str(int((right & ~baseline).sum())), str(int((baseline & ~right).sum()))]
        scored = (result.clip, result.video)
        shares = [_with_interval(share, part.count) for part in scored for share in (part.top1, part.top5)]
        rows.append([name, *shares, *changes])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(map(str.rstrip, lines))


def _with_interval(share: float, count: int) -> str:
    _, low, high = wilson_interval(round(share * count / 100), count).percent
    return f"{share:.3f} [{low:.1f}, {high:.1f}]"
