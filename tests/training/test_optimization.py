import copy

import pytest
import torch
from torch import nn

from training.optimization import OPTIMIZERS, build_schedule, jump_to_step, parameter_groups


def schedule(epochs, steps_per_epoch, **options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    return optimizer, build_schedule(optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch, **options)


def rates(epochs, steps_per_epoch, **options):
    optimizer, scheduler = schedule(epochs, steps_per_epoch, **options)
    found = []
    for _ in range(epochs * steps_per_epoch):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("epochs, steps", [(1, 12), (2, 10), (15, 7), (100, 3)])
def test_cosine_warms_up_and_ends_near_zero(epochs, steps):
    found = rates(epochs, steps)
    warmup = min(steps, epochs * steps // 3)
    assert found[warmup] == pytest.approx(0.01) and max(found) == pytest.approx(0.01)
    assert found[:warmup] == sorted(found[:warmup]) and found[0] < 0.01
    assert found[warmup:] == sorted(found[warmup:], reverse=True)
    assert found[-1] < 0.0006


def test_warmup_is_cut_to_a_third_of_the_run():
    found = rates(3, 10, warmup_epochs=50)
    assert found.index(max(found)) == 10


def test_multistep_falls_at_60_and_85_percent():
    found = rates(20, 5, decay="multistep", warmup_epochs=0)
    assert found[:60] == [0.01] * 60
    assert found[60:85] == pytest.approx([0.001] * 25) and found[85:] == pytest.approx([0.0001] * 15)
    found = rates(4, 5, decay="multistep", warmup_epochs=1, milestones=[2, 3], gamma=0.5)
    assert found[5:10] == [0.01] * 5 and found[10:15] == [0.005] * 5 and found[15:] == [0.0025] * 5


def test_constant_warmup():
    found = rates(3, 10, warmup_method="constant", warmup_decay=0.1, warmup_epochs=0.5)
    assert found[:5] == pytest.approx([0.001] * 5) and found[5] == pytest.approx(0.01)


def test_a_jump_gives_the_rates_of_that_step():
    every = rates(4, 6)
    optimizer, scheduler = schedule(4, 6)
    jump_to_step(scheduler, 13)
    for expected in every[13:]:
        assert optimizer.param_groups[0]["lr"] == scheduler.get_last_lr()[0] == expected
        optimizer.step()
        scheduler.step()
    _, walked = schedule(4, 6)
    for _ in range(24):
        walked.optimizer.step()
        walked.step()
    assert walked.state_dict() == scheduler.state_dict()


def test_norms_and_biases_are_not_decayed_and_frozen_parameters_not_moved():
    model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    assert [p is model[2].weight for p in groups[0]["params"]] == [True] and groups[0]["weight_decay"] == 0.1
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in (model[1].weight, model[1].bias, model[2].bias)}
    assert groups[1]["weight_decay"] == 0
    before = copy.deepcopy(model.state_dict())
    for name in OPTIMIZERS:
        optimizer = OPTIMIZERS[name](parameter_groups(model, 0.1), 0.1, 0.9)
        model(torch.ones(2, 3, 1, 1, 4)).sum().backward()
        optimizer.step()
    assert torch.equal(model.state_dict()["0.weight"], before["0.weight"])
    assert not torch.equal(model.state_dict()["2.weight"], before["2.weight"])


def test_the_head_has_a_rate_of_its_own_in_the_same_schedule():
    model = nn.Sequential()
    model.trunk, model.fc = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2)
    groups = parameter_groups(model, 0.1, head="fc", head_lr=0.05)
    optimizer = OPTIMIZERS["sgd"](groups, 0.01, 0.9)
    rate_of = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert len(rate_of) == len(list(model.parameters()))
    assert rate_of[id(model.fc.weight)] == (0.05, 0.1) and rate_of[id(model.fc.bias)] == (0.05, 0.0)
    assert rate_of[id(model.trunk[0].weight)] == (0.01, 0.1) and rate_of[id(model.trunk[1].weight)] == (0.01, 0.0)
    scheduler = build_schedule(optimizer, epochs=2, steps_per_epoch=10)
    for step in (0, 9, 19):
        jump_to_step(scheduler, step)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert (
            rates[2] == rates[3] == pytest.approx(5 * rates[0]) and rates[0] == rates[1] == scheduler.get_last_lr()[0]
        )
