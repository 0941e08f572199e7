from types import SimpleNamespace

import pytest
import torch
from torch import nn

from network.checkpoint import Checkpoint
from training.weight_averaging import WeightAverage, warm_decay


def network(value=0.0):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def step_to(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
        model[1].running_mean.fill_(value)
        model[1].num_batches_tracked.add_(1)


def saved(average, model):
    """What a checkpoint of the network would hold."""
    return average.added_to(Checkpoint(model.state_dict()))


def averaged(average, model):
    return {name: value.clone() for name, value in saved(average, model).model_ema.model.items()}


def test_the_average_is_the_formulas_and_counts_are_copied():
    model = network()
    average = WeightAverage(model, 0.5, every=1)
    expected = None
    for step, value in enumerate([4.0, 8.0, -2.0, 6.0, 3.0], 1):
        step_to(model, value)
        average.after_step(step)
        decay = min(0.5, step / (9 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    state = averaged(average, model)
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean"):
        torch.testing.assert_close(state[name], torch.full_like(state[name], expected))
    assert state["1.num_batches_tracked"] == 5
    assert model[0].weight[0, 0] == 3.0  # the weights themselves go their own way


def test_every_n_steps_of_the_run():
    model = network()
    average = WeightAverage(model, 0.9, every=3)
    for step in range(1, 8):
        step_to(model, float(step))
        average.after_step(step)
    assert saved(average, model).model_ema.updates == 2


def test_the_decay_rises_to_what_was_asked_for():
    decays = [warm_decay(0.999, updates) for updates in (0, 10, 100, 10**6)]
    assert decays == sorted(decays) and decays[0] == pytest.approx(0.1) and decays[-1] == 0.999
    assert warm_decay(0.05, 0) == 0.05


def test_frozen_values_stay_bit_identical():
    model = nn.Linear(7, 5)
    average = WeightAverage(model, 0.999, every=1)
    for step in range(50):
        average.after_step(step)
    assert torch.equal(averaged(average, model)["weight"], model.weight)


def test_inside_the_network_is_its_average_and_changes_stay_with_that():
    model = network(1.0)
    average = WeightAverage(model, 0.5, every=1)
    average.after_step(1)
    step_to(model, 5.0)
    with average.in_place():
        assert (model[0].weight == 1.0).all()
        model[1].running_var.fill_(7.0)
    assert (model[0].weight == 5.0).all() and (model[1].running_var == 1.0).all()
    assert (averaged(average, model)["1.running_var"] == 7.0).all()


def results(acc1, loss):
    return SimpleNamespace(video=SimpleNamespace(top1=acc1), loss=loss)


@pytest.mark.parametrize(
    "weights, averages, is_used",
    [
        ((60, 1.0), (70, 2.0), True),
        ((60, 1.0), (50, 0.5), False),
        ((60, 1.0), (60, 0.9), True),
        ((60, 1.0), (60, 1.1), False),
    ],
)
def test_the_better_one_is_used_and_saved_as_the_model(weights, averages, is_used):
    model = network(1.0)
    average = WeightAverage(model, 0.5, every=1)
    average.after_step(1)
    step_to(model, 5.0)
    outcomes = iter([results(*weights), results(*averages)])
    seen = []

    def validate():
        seen.append(model[0].weight[0, 0].item())
        return next(outcomes)

    chosen, further = average.validate(validate)
    assert seen == [5.0, 1.0] and average.is_used == is_used
    assert chosen.loss == (averages if is_used else weights)[1]
    assert further == {"val_video_acc1_weights": weights[0], "val_video_acc1_average": averages[0]}
    state = saved(average, model)
    assert state.model["0.weight"][0, 0] == (1.0 if is_used else 5.0)
    assert (state.training_model is not None) == is_used

    other = network()
    again = WeightAverage(other, 0.5, every=1)
    again.load(state)
    assert again.is_used == is_used
    state = saved(again, other)
    ema = state.model if is_used else state.model_ema.model
    assert (ema["0.weight"] == 1.0).all() and state.model_ema.updates == 1


def test_a_checkpoint_without_an_average_is_said(capsys):
    WeightAverage(network(), 0.5, every=1).load(Checkpoint({}))
    assert "no average" in capsys.readouterr().out
