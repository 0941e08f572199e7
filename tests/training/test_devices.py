"""Training in each type and on each device, compiled and shared by processes: on the CPU, and on a card with -m gpu."""

import json
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

import train
from clips import presets
from clips.dataset import Batch
from clips.preprocessing import Preprocessing
from helpers.small_datasets import SMALL, make_dataset
from helpers.template_process import SCRIPTS
from helpers.training_processes import run, torchrun
from network.models import build_model, freeze
from network.precision import Precision
from training.engine import StepLosses, StepOptions, Trainer
from training.losses import TrainingLoss
from training.mixing import Mixing
from training.optimization import OPTIMIZERS, parameter_groups
from training.targets import TargetMaker
from training.weight_averaging import WeightAverage

# How far from float32 on the CPU a loss and a gradient may be, relative: a GPU multiplies float32 as TF32, which rounds
# as float16 does. On a CPU, gradients in bfloat16 were 0.07 away, and in float16 0.009.
LOSS_TOLERANCES = {"off": 0.005, "bf16": 0.02, "fp16": 0.005}
GRADIENT_TOLERANCES = {"off": 0.04, "bf16": 0.2, "fp16": 0.04}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return "cpu" if request.param == "cpu" else str(request.getfixturevalue("card"))


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Flags of two short epochs from a clip cache."""
    folder = tmp_path_factory.mktemp("devices")
    make_dataset(folder / "data", ["left_raise", "pushups", "squats"], num_train=4, num_val=1)
    own = ["--data-path", str(folder / "data"), "--cache-dir", str(folder / "cache"), "--cache-dataset"]
    return [*SMALL, "--epochs", "2", "--trainable", "layer4", "fc", *own]


@pytest.fixture(scope="module")
def on_the_cpu(options, tmp_path_factory):
    """The folder of a run in float32 on the CPU."""
    folder = tmp_path_factory.mktemp("cpu")
    assert train.main([*options, "--output-dir", str(folder)]) == 0
    return folder


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder):
    return [entry[name] for entry in log_of(folder) for name in ("train_loss", "val_loss")]


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pth", weights_only=True)


def assert_same_state(folder, other):
    """Bit by bit, but for what tells the runs apart."""
    one, two = checkpoint(folder), checkpoint(other)
    for name in ("model", "training_model", "model_ema", "optimizer", "scaler", "lr_scheduler"):
        assert (name in one) == (name in two)
        torch.testing.assert_close(one.get(name), two.get(name), rtol=0, atol=0)
    assert losses(folder) == losses(other)


def interrupted(options, monkeypatch):
    """A run that ends as by ctrl-c after two steps of its second epoch, of which both are saved."""
    real = Trainer.train_epoch

    def train_epoch(*args, after_step, **kwargs):
        steps = []

        def after(*values):
            after_step(*values)
            steps.append(values)
            if kwargs["epoch"] == 1 and len(steps) == 2:
                raise KeyboardInterrupt

        return real(*args, after_step=after, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", train_epoch)
        assert train.main([*options, "--checkpoint-minutes", "1e-9"]) == 130


def first_step(device, amp):
    """(loss, gradient) of the first step."""
    torch.manual_seed(0)
    trainer = small_trainer(torch.device(device), amp, ["layer4", "fc"])
    if trainer.precision.scaler:
        trainer.precision.scaler = torch.amp.GradScaler(device, init_scale=256.0)  # so that the step is not skipped
    clips = torch.randint(256, (4, 4, 28, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = Batch(clips, torch.tensor([0, 1, 2, 0]), torch.arange(4), torch.zeros(4, dtype=torch.bool))
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    summary = trainer.train_epoch([batch], to_inputs, epoch=0, num_steps=1)
    changes = zip(before, trainer.model.parameters(), strict=True)
    return summary.loss, torch.cat([(old - new.detach()).flatten().cpu() for old, new in changes])


@pytest.mark.parametrize("amp", LOSS_TOLERANCES)
def test_each_type_finds_the_gradient_of_float32_on_the_cpu(device, amp):
    (loss, gradient), (expected_loss, expected) = first_step(device, amp), first_step("cpu", "off")
    assert loss == pytest.approx(expected_loss, rel=LOSS_TOLERANCES[amp])
    assert (gradient - expected).norm() <= GRADIENT_TOLERANCES[amp] * expected.norm()


@pytest.fixture
def deterministic():
    """Sets back what --use-deterministic-algorithms sets for the whole process."""
    benchmark = torch.backends.cudnn.benchmark
    yield ["--use-deterministic-algorithms"]
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize("amp", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_a_deterministic_run_resumes_exactly(device, amp, deterministic, options, tmp_path, monkeypatch):
    common = [*options, *deterministic, "--device", device, "--amp", amp, "--model-ema", "--model-ema-decay", "0.8"]
    assert train.main([*common, "--output-dir", str(tmp_path / "whole")]) == 0
    cut = [*common, "--output-dir", str(tmp_path / "cut")]
    interrupted(cut, monkeypatch)
    assert checkpoint(tmp_path / "cut")["clips_seen"] == 8
    assert train.main([*cut, "--resume", "auto"]) == 0
    assert_same_state(tmp_path / "cut", tmp_path / "whole")


# Whenever it compiles, torch 2.11 imports a module of its own that it has deprecated, and others advise against 3.13.0.
own_deprecation = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
slow_guards = pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")


@pytest.fixture(params=["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def compiler(request, monkeypatch):
    """The first one needs no C++ compiler and takes seconds."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=request.param))
    yield
    torch._dynamo.reset()


@own_deprecation
@slow_guards
def test_a_compiled_run_saves_averages_and_resumes_as_another(
    device, compiler, options, on_the_cpu, tmp_path, monkeypatch
):
    common = [*options, "--device", device, "--model-ema", "--model-ema-decay", "0.8"]
    for name, flags in (("plain", []), ("whole", ["--compile"])):
        assert train.main([*common, *flags, "--output-dir", str(tmp_path / name)]) == 0
    plain, whole = (checkpoint(tmp_path / name) for name in ("plain", "whole"))
    assert list(whole["model"]) == list(plain["model"]) == list(checkpoint(on_the_cpu)["model"])
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "plain"), rel=0.05)
    cut = [*common, "--compile", "--output-dir", str(tmp_path / "cut")]
    interrupted(cut, monkeypatch)
    assert train.main([*cut, "--resume", "auto"]) == 0
    if device == "cpu":  # on a GPU, cuDNN may choose another algorithm each time
        assert_same_state(tmp_path / "cut", tmp_path / "whole")
    # The file fits a network that is not compiled, and the other way round.
    assert train.main([*common, "--test-only", "--resume", str(tmp_path / "cut" / "checkpoint.pth")]) == 0
    again = [*common, "--compile", "--epochs", "3", "--output-dir", str(tmp_path / "again")]
    assert train.main([*again, "--resume", str(tmp_path / "plain" / "checkpoint.pth")]) == 0


@pytest.mark.slow
def test_two_processes_train_a_compiled_network(options, tmp_path):
    own = ["--compile", "--epochs", "1", "--batch-size", "2", "--trainable", "fc", "--output-dir", str(tmp_path)]
    code, output = torchrun([*options, *own], processes=2, timeout=900)
    assert code == 0, output
    assert not [name for name in checkpoint(tmp_path)["model"] if "_orig_mod" in name or "module." in name]


SHARED = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from runtime import distributed
place = sys.argv[2], torch.device(sys.argv[3])
distributed.backend_and_device = lambda device: place
import train
sys.exit(train.main(sys.argv[4:]))
"""


def test_two_processes_share_a_device_by_gloo(device, options, tmp_path):
    """All is frozen but the last layer, so that no BatchNorm depends on how a batch is dealt out."""
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    common = [*options, "--device", device, "--trainable", "fc", "--workers", "0"]
    assert train.main([*common, "--output-dir", str(tmp_path / "one")]) == 0
    place = [str(SCRIPTS), "gloo", "cuda:0" if device != "cpu" else "cpu"]
    two = [*place, *common, "--batch-size", "2", "--output-dir", str(tmp_path / "two")]
    code, output = run(two, processes=2, script=script)
    assert code == 0, output
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.01)
    one, two = (checkpoint(tmp_path / name)["model"] for name in ("one", "two"))
    torch.testing.assert_close(two["fc.weight"], one["fc.weight"], rtol=0, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
def test_no_step_waits_for_the_card(card, monkeypatch):
    """Torch raises where the host waits, between one look at the losses and the next."""
    look, starts = StepLosses.look, []
    trainer = small_trainer(card, "bf16", ["layer4", "fc"], max_grad_norm=1.0, print_freq=4)
    trainer.targets = TargetMaker(3, torch.tensor([1, 0, 2]), Mixing(0.2, 1.0), torch.rand(9, 3))
    trainer.average = WeightAverage(trainer.model, 0.9, every=1)
    pixels = torch.zeros(2, 4, 28, 28, 3, dtype=torch.uint8, pin_memory=True)
    batch = Batch(pixels, torch.tensor([0, 1]), torch.tensor([3, 4]), torch.tensor([True, False]))

    def looking(losses):
        torch.cuda.set_sync_debug_mode("default")
        look(losses)
        torch.cuda.set_sync_debug_mode("error")  # from the end of the first step on

    def counting(clips, flips, seeds):
        starts.append(clips.device)
        return to_inputs(clips, flips, seeds)

    monkeypatch.setattr(StepLosses, "look", looking)
    try:
        trainer.train_epoch([batch] * 9, counting, epoch=0, num_steps=9)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(starts) == 9


def to_inputs(clips, flips, seeds):
    return presets.normalize(presets.flip(clips, flips), Preprocessing())


def small_trainer(device, amp, trainable, **options):
    model = build_model("mc3_18", 3)
    frozen = freeze(model, trainable)
    optimizer = OPTIMIZERS["sgd"](parameter_groups(model.to(device), 0.0), 1.0, 0.0)
    return Trainer(
        model=model,
        network=model,
        frozen=frozen,
        precision=Precision.of(amp, device),
        optimizer=optimizer,
        scheduler=LambdaLR(optimizer, lambda step: 1.0),
        criterion=TrainingLoss(),
        targets=TargetMaker(3),
        options=StepOptions(**options),
    )
