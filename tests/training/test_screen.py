from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train
from caching import splits
from clips.preprocessing import Preprocessing
from network.checkpoint import plain
from training import screen
from training.option_checks import check_args, check_with_torch, default_settings

OPTIONS = splits.ClipOptions(Preprocessing(4), cache_dir=Path("cache"), batch_size=4, num_workers=0)
TRAIN = splits.Clips(None, torch.arange(7), 0, "decoded, float", OPTIONS)
VAL = replace(TRAIN, videos=torch.arange(3))
ENTRY = {"epoch": 12, "train_loss": 0.56789, "train_clip_acc1": 81.25, "val_video_acc1": 79.06, "lr": 0.0081}
ENTRY |= {"seconds": 100.0, "data_seconds": 5.0, "val_seconds": 20.0, "val_data_seconds": 1.0}


@pytest.mark.parametrize("processes, words", [(1, None), (3, "2 clips an epoch come twice")])
def test_the_schedule_tells_of_clips_that_come_twice(processes, words, monkeypatch):
    monkeypatch.setattr(screen, "world_size", lambda: processes)
    monkeypatch.setattr(splits, "world_size", lambda: processes)
    told = screen.schedule_words(TRAIN, range(1), "sgd")
    assert words in told if words else "twice" not in told
    product = " (4 clips x 1 batches x 3 processes)" if processes == 3 else ""
    assert f"effective batch {4 * processes} clips{product}; sgd" in told


def test_the_data_are_counted_with_what_is_left_out_or_turned():
    assert screen.data_words(Path("d"), 2, TRAIN, VAL, "validation") == (
        "d: 2 classes, 7 training videos, 3 validation videos"
    )
    odd = screen.data_words(Path("d"), 2, replace(TRAIN, skipped=1), replace(VAL, skipped=2, turned=3), "validation")
    assert "; 3 more that cannot be read are left out; 3 validation videos are turned for display" in odd
    assert "training" not in screen.data_words(Path("d"), 2, None, VAL, "validation")


def test_the_clips_line_says_whether_the_cache_was_there():
    cached = replace(VAL, options=replace(OPTIONS, cached=True))
    assert screen.clips_words(None, cached, "basic").endswith("pixels: decoded, float, found complete")
    built = screen.clips_words(replace(TRAIN, built=5), replace(cached, built=2), "basic")
    assert "7 videos decoded into it now; augmentation in training: basic" in built
    assert "complete" not in screen.clips_words(TRAIN, VAL, "basic")


def test_an_epochs_line_has_its_figures():
    assert screen.epoch_line(ENTRY, 80.2, "0:12:34") == (
        "Epoch: [12] loss 0.568, Acc@1 train 81.2 val 79.1 best 80.2, lr 0.0081, 120 s, 5 % wait, eta 0:12:34"
    )


def settings_of(*flags):
    """Plain values of the arguments and of their defaults, as a run resolves them."""
    parser = train.get_args_parser()
    args = parser.parse_args(["--data-path", "somewhere", *flags])
    check_args(parser, args)
    check_with_torch(parser, args)
    return plain(vars(args)), plain(default_settings(args.data_path, args.epochs, args.model))


def test_settings_that_follow_from_others_are_no_changes():
    settings, defaults = settings_of()
    assert {name for name, value in settings.items() if value != defaults[name]} == {"data_path"}
    settings, defaults = settings_of("--epochs", "30", "--cache-dir", "c", "--lr-milestones", "3", "--amp", "bf16")
    changed = {name for name, value in settings.items() if value != defaults[name]}
    assert changed == {"data_path", "epochs", "cache_dir", "lr_milestones", "amp"}


def test_changed_settings_are_flags_that_are_not_broken():
    settings, defaults = settings_of("--cache-dataset", "--val-crop-size", "100", "101", "--output-dir", "a b")
    text = screen.settings_words(settings, defaults)
    lines = screen.wrapped("Settings", " ".join([text] * 4))
    assert all(len(line) <= 100 for line in lines) and len(lines) > 3
    assert sum(line.count("--val-crop-size 100 101") for line in lines) == 4
    words = "--cache-dataset --data-path somewhere --output-dir 'a b' --val-crop-size 100 101"
    assert text.replace(screen.NO_BREAK, " ") == words
    assert screen.settings_words(defaults, defaults) == "all at their defaults"
