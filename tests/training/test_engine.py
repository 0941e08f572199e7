import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._python_dispatch import TorchDispatchMode

from clips import presets
from clips.dataset import Batch
from clips.preprocessing import Preprocessing
from network.precision import LAYOUTS, Precision
from training import engine
from training.engine import NonFiniteLoss, StepLosses, StepOptions, Trainer, in_groups
from training.losses import TrainingLoss
from training.mixing import Mixing
from training.targets import TargetMaker
from training.weight_averaging import WeightAverage

CPU = torch.device("cpu")


def make_batches(sizes):
    generator = torch.Generator().manual_seed(0)
    total = sum(sizes)
    clips = torch.randn(total, 3, 2, 4, 4, generator=generator)
    targets = torch.randint(3, (total,), generator=generator)
    batches = []
    for rows in torch.arange(total).split(sizes):
        batches.append(Batch(clips[rows], targets[rows], rows, torch.zeros(len(rows), dtype=torch.bool)))
    return batches


def make_trainer(model=None, precision=None, lr=0.1, parallel=None, average=None, **options):
    if model is None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(96, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return Trainer(
        model=model,
        network=model,
        frozen=[],
        precision=precision or Precision.of("off", CPU),
        optimizer=optimizer,
        scheduler=LambdaLR(optimizer, lambda step: 1.0),
        criterion=TrainingLoss(),
        targets=TargetMaker(3),
        options=StepOptions(print_freq=100, **options),
        parallel=parallel,
        average=average,
    )


def train(batches, *args, **options):
    """An epoch of a small network: (model, summary)."""
    trainer = make_trainer(*args, **options)
    num_steps = -(-len(batches) // trainer.options.batches_per_step)
    summary = trainer.train_epoch(batches, lambda clips, flips, seeds: clips, epoch=0, num_steps=num_steps)
    return trainer.model, summary


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_accumulated_batches_are_one_large_batch():
    # The last group is short, and its last batch smaller: their clips must count as much as all others.
    small, summary = train(make_batches([4, 4, 4, 4, 4, 2]), batches_per_step=4)
    large, expected = train(make_batches([16, 6]))
    torch.testing.assert_close(weights(small), weights(large), rtol=0, atol=1e-6)
    assert summary.loss == pytest.approx(expected.loss, rel=1e-6) and summary.clip_acc1 == expected.clip_acc1
    plain, _ = train(make_batches([4, 4, 4, 4, 4, 2]))
    assert (weights(plain) - weights(large)).abs().max() > 1e-3


def test_batches_are_grouped_in_order():
    assert [len(group) for group in in_groups(make_batches([1] * 7), 3)] == [3, 3, 1]
    assert list(in_groups([], 3)) == []


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_gradients_are_shortened_to_the_norm(amp):
    def step_length(**options):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(96, 3))
        before = weights(model)
        train(make_batches([8]), model, Precision.of(amp, CPU), lr=1.0, **options)
        return (weights(model) - before).norm().item()

    free = step_length()
    # Without unscaling first, fp16's scaled gradient would be cut to next to nothing.
    assert step_length(max_grad_norm=free / 4) == pytest.approx(free / 4, rel=1e-3)
    assert step_length(max_grad_norm=free * 4) == pytest.approx(free, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_before_the_step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(96, 3))
    batches = make_batches([2, 2])
    batches[1].clips[1, 0, 0, 0, 0] = float("inf")
    before = weights(model)
    with pytest.raises(NonFiniteLoss, match=r"the loss is \S+ at step 0 of epoch 0") as stop:
        train(batches, model, batches_per_step=2)
    assert stop.value.videos == [0, 1, 2, 3]
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("print_freq, found_at", [(3, 3), (None, 6)])
def test_where_losses_are_looked_at_late_the_first_that_is_not_finite_is_named(print_freq, found_at, monkeypatch):
    """As on a GPU, where a look waits: the last step of the epoch is looked at too."""
    monkeypatch.setattr(Trainer, "_steps_between_looks", lambda trainer: print_freq or engine.LOOK_EVERY)
    batches, steps = make_batches([2] * 7), []
    batches[1].clips[0, 0, 0, 0, 0] = float("nan")
    trainer = make_trainer()
    inputs = lambda clips, flips, seeds: clips  # noqa: E731
    with pytest.raises(NonFiniteLoss, match="the loss is nan at step 1 of epoch 0") as stop:
        trainer.train_epoch(
            batches, inputs, epoch=0, num_steps=7, after_step=lambda clips, totals: steps.append(totals)
        )
    assert stop.value.videos == [2, 3] and len(steps) == found_at


def test_what_is_to_be_saved_is_looked_at_before(monkeypatch):
    monkeypatch.setattr(Trainer, "_steps_between_looks", lambda trainer: 100)
    batches, saved = make_batches([2] * 5), []
    batches[3].clips[0, 0, 0, 0, 0] = float("inf")
    trainer = make_trainer()
    inputs = lambda clips, flips, seeds: clips  # noqa: E731
    with pytest.raises(NonFiniteLoss, match="at step 3") as stop:
        trainer.train_epoch(
            batches, inputs, epoch=0, num_steps=9, after_step=lambda clips, totals: saved.append(totals())
        )
    assert stop.value.videos == [6, 7] and [clips for *_, clips in saved] == [2, 4, 6]


def losses_of(*steps):
    """Steps of an epoch, each of the losses of its one clip."""
    losses = StepLosses(4, [10.0, 1.0, 5.0])
    for step, loss in enumerate(steps, 7):
        losses.add(step, 0.5, [torch.tensor([20 + step])], [torch.tensor([loss, 1.0])])
    return losses


def test_losses_are_added_up_when_they_are_looked_at():
    losses = losses_of(2.0, 4.0)
    losses.add(9, 0.5, [torch.arange(3), torch.arange(1)], [torch.tensor([1.0, 2.0]), torch.tensor([5.0, 0.0])])
    assert losses.totals() == [22.0, 5.0, 11.0] == losses.totals() and losses.latest == 6.0 / 4


@pytest.mark.parametrize("first_elsewhere, is_told", [(engine.NEVER, True), (8, True), (7, False)])
def test_the_process_whose_loss_was_not_finite_first_tells_it(first_elsewhere, is_told, monkeypatch):
    """By the exchange of gradients, all have such a loss one step later."""
    monkeypatch.setattr(engine, "maximum_over_processes", lambda values: [max(*values, -first_elsewhere)])
    losses = losses_of(2.0, float("nan"), float("nan"))
    if not is_told:
        return losses.look()
    with pytest.raises(NonFiniteLoss) as stop:
        losses.look()
    assert (stop.value.epoch, stop.value.step, stop.value.videos) == (4, 8, [28])


class Calls(TorchDispatchMode):
    """Notes torch's operations, with their arguments."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append((function._opname, args, kwargs or {}))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout, copies", [("channels last", 0), ("contiguous", 1)])
def test_a_step_never_waits_for_the_device(layout, copies, monkeypatch, capsys):
    """On the meta device, whose tensors have no values: whoever asks for one raises."""
    monkeypatch.setattr(StepLosses, "look", lambda losses: None)
    model = nn.Sequential(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.Dropout(), nn.Flatten(), nn.Linear(1600, 3))
    precision = Precision.of("off", torch.device("meta"))
    precision.layout = layout
    model.to("meta", memory_format=precision.memory_format)
    trainer = make_trainer(model, precision, max_grad_norm=1.0, average=WeightAverage(model, 0.9, every=1))
    trainer.targets = TargetMaker(3, torch.tensor([1, 0, 2]), teacher=torch.rand(9, 3))
    pixels, flips = torch.zeros(2, 4, 12, 12, 3, dtype=torch.uint8), torch.tensor([True, False])
    batch = Batch(pixels, torch.tensor([0, 1]), torch.tensor([3, 4]), flips)
    calls, starts = Calls(), []

    def to_inputs(clips, flips, seeds):
        starts.append(len(calls.seen))
        return presets.normalize(presets.flip(clips, flips), Preprocessing())

    with calls, pytest.raises(ZeroDivisionError):  # since no step was looked at
        trainer.train_epoch([batch] * 4, to_inputs, epoch=0, num_steps=4)
    assert len(starts) == 4
    later = calls.seen[starts[1] :]  # the first step moves to the device what stays there
    copies_made = [(value, kwargs) for name, (value, *_), kwargs in later if name == "_to_copy"]
    uploads = [kwargs for value, kwargs in copies_made if value.device.type == "cpu" and "device" in kwargs]
    assert len(uploads) >= 3 * 4 and all(kwargs["non_blocking"] for kwargs in uploads)
    size = (2, 3, 4, 12, 12)
    clones = [value.shape for name, (value, *_), _ in later if name == "clone" and value.shape == size]
    assert len(clones) == 3 * copies


def test_mixed_clips_come_in_the_layout_too():
    precision = Precision.of("off", CPU)
    precision.layout = "channels last"
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(96, 3))
    model.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last_3d))
    )
    trainer = make_trainer(model, precision)
    trainer.targets = TargetMaker(3, mixing=Mixing(0.5, 0.5))
    trainer.train_epoch(make_batches([4] * 6), lambda clips, flips, seeds: clips, epoch=0, num_steps=6)
    assert seen == [True] * 6


class ScalerThatSkips:
    """Leaves out the given steps, as GradScaler does where a gradient is not finite: its scale then drops."""

    def __init__(self, skipped):
        self._skipped, self._step, self._scale = skipped, -1, 8.0

    def scale(self, loss):
        return loss

    def get_scale(self):
        return self._scale

    def step(self, optimizer):
        self._step += 1
        if self._step not in self._skipped:
            optimizer.step()

    def update(self):
        self._scale *= 0.5 if self._step in self._skipped else 1.0

    def state_dict(self):
        return {}


def test_a_step_that_the_scaler_skips_does_not_count(capsys):
    class Average:
        steps = []

        def after_step(self, step):
            self.steps.append(step)

        def added_to(self, state):
            return state

    precision = Precision(CPU, None, ScalerThatSkips({0, 2}))
    trainer = make_trainer(precision=precision, average=Average())
    saved = []

    def after_step(*_):
        saved.append((trainer.scheduler.last_epoch, trainer.state().skipped_steps))

    inputs = lambda clips, flips, seeds: clips  # noqa: E731
    trainer.train_epoch(make_batches([2] * 4), inputs, epoch=0, num_steps=4, after_step=after_step)
    assert saved == [(0, 1), (1, 1), (1, 2), (2, 2)] and Average.steps == [1, 2]
    # An epoch that goes on keeps the count, the next one begins anew.
    trainer.train_epoch(make_batches([2]), inputs, epoch=0, num_steps=5, first_step=4, after_step=after_step)
    trainer.train_epoch(make_batches([2]), inputs, epoch=1, num_steps=1, after_step=after_step)
    assert [count for _, count in saved[4:]] == [2, 0]


def test_processes_exchange_gradients_once_a_step():
    class Wrapped(nn.Module):
        """Counts the batches that a DistributedDataParallel would keep to itself."""

        def __init__(self):
            super().__init__()
            self.module = nn.Sequential(nn.Flatten(), nn.Linear(96, 3))
            self.kept = 0

        def forward(self, clips):
            return self.module(clips)

        def no_sync(self):
            self.kept += 1
            return torch.enable_grad()

    parallel = Wrapped()
    train(make_batches([2] * 5), parallel.module, parallel=parallel, batches_per_step=2)
    assert parallel.kept == 2  # of 5 batches in 3 steps


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_network_gets_its_clips_in_the_layout(layout):
    seen = []

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, clips):
            seen.append(clips.is_contiguous(memory_format=LAYOUTS[layout]))
            return self.fc(clips.mean((2, 3, 4)))

    precision = Precision.of("off", CPU)
    precision.layout = layout
    train(make_batches([2, 2]), Looking(), precision)
    assert seen == [True, True]
