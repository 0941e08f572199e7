"""The comparison of recipes: its mistakes are made, and end with their block; its table counts right."""

import numpy as np
import pytest
from scipy import stats
from torch import nn

from clips import presets
from compare_recipes import EXERCISES, PRETRAINING, SETTINGS, drifting_batch_norm, table, unguarded_flips
from synthetic.exercises import EXERCISES as KNOWN
from training import engine


def test_exercises_are_new_to_the_network_and_two_pairs_mirror_each_other():
    assert set(EXERCISES) | set(PRETRAINING) <= set(KNOWN) and not set(EXERCISES) & set(PRETRAINING)
    assert (~presets.flippable(EXERCISES)).sum() == 4 and len(SETTINGS) <= 8


def test_mistakes_are_made_inside_their_block_alone():
    network = nn.Sequential(nn.BatchNorm3d(2), nn.BatchNorm3d(2))
    with drifting_batch_norm(), unguarded_flips():
        engine.set_train_mode(network, ["0"])
        assert network[0].training and presets.flippable(["left lunge"]).all()
    engine.set_train_mode(network, ["0"])
    assert not network[0].training and network[1].training and not presets.flippable(["left lunge"]).any()


def test_the_table_pairs_videos_over_the_seeds():
    rng = np.random.default_rng(0)
    labels = np.repeat(["left arm raise", "squats"], 50)
    before, after = rng.random((3, 100)) < 0.5, rng.random((3, 100)) < 0.8
    header, first, second = table(labels, {"a": before, "b": after}).splitlines()
    gains = 100 * (after.mean(0) - before.mean(0))
    low, high = stats.t.interval(0.95, 99, gains.mean(), gains.std(ddof=1) / 10)
    assert f"{gains.mean():+5.1f} ({low:+5.1f} .. {high:+5.1f})" in second
    sided = stats.ttest_ind(gains[:50], gains[50:], equal_var=False).confidence_interval()
    assert f"{gains[:50].mean() - gains[50:].mean():+5.1f} ({sided.low:+5.1f} .. {sided.high:+5.1f})" in second
    assert f"{100 * before.mean():5.1f}" in first and f"{100 * after[:, :50].mean():.1f}" in second
    assert header.startswith("setting") and " - " in first  # nothing is gained over itself


def test_settings_are_flags_of_the_training_script():
    import train

    for flags, _ in SETTINGS.values():
        train.get_args_parser().parse_args(["--data-path", "x", *flags.split()])
    with pytest.raises(SystemExit):
        train.get_args_parser().parse_args(["--data-path", "x", "--no-such-flag"])
