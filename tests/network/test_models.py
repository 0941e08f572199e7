import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from network.models import (
    MODELS,
    ModelError,
    build_model,
    check_deterministic,
    check_fits,
    freeze,
    load_state,
    parameter_counts,
    pretrained_state,
    set_train_mode,
)
from network.trunk_and_head import check_split, split, trunk_blocks
from training.starting import start_from_weights

STEM_TO_LAYER3 = ["stem", "layer1", "layer2", "layer3"]


def clips(count=2, frames=8, size=28):
    return torch.randn(count, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name, trainable, blocks, channels",
    [
        ("r2plus1d_18", ["layer4", "fc"], STEM_TO_LAYER3, 256),
        ("r3d_18", ["layer3", "layer4", "fc"], ["stem", "layer1", "layer2"], 128),
        ("r2plus1d_34", ["layer4", "fc"], STEM_TO_LAYER3, 256),
        ("mc3_18", ["fc"], [*STEM_TO_LAYER3, "layer4", "avgpool"], 512),
        ("mc3_18", ["layer4.1", "fc"], [*STEM_TO_LAYER3, "layer4.0"], 512),
        ("mc3_18", ["layer4.1.conv2"], [*STEM_TO_LAYER3, "layer4.0"], 512),
        ("mc3_18", ["fc", "layer2"], ["stem", "layer1"], 64),
    ],
)
def test_trunk_and_head_are_the_whole(name, trainable, blocks, channels):
    torch.manual_seed(0)
    model = build_model(name, 5)
    assert trunk_blocks(model, trainable) == blocks
    trunk, head = split(model, blocks)
    check_split(model, trunk, head, clips(1))
    with torch.inference_mode():
        features = trunk(clips())
        assert features.shape[1] == channels
        assert torch.equal(head(features), model(clips()))


def test_training_the_head_trains_the_network_and_nothing_else():
    torch.manual_seed(0)
    model = build_model("mc3_18", 5)
    frozen = freeze(model, ["layer4.1", "fc"])
    trunk, head = split(model, trunk_blocks(model, ["layer4.1", "fc"]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        features = trunk.eval()(clips())
    set_train_mode(head, [name for name in frozen if name in dict(head.named_modules())])
    optimizer = torch.optim.SGD([parameter for parameter in head.parameters() if parameter.requires_grad], lr=0.1)
    head(features).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(("layer4.1.", "fc.")) for name in changed)
    assert "layer4.1.conv1.1.running_mean" in changed  # BatchNorm of what is trained learns


@pytest.mark.parametrize("trainable", [["layer4", "fc"], ["layer3.1", "fc"], ["fc"]])
def test_frozen_state_is_bit_identical_after_a_step(trainable):
    torch.manual_seed(0)
    model = build_model("r3d_18", 3)
    frozen = freeze(model, trainable)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    set_train_mode(model, frozen)
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1, weight_decay=0.1
    )
    nn.functional.cross_entropy(model(clips()), torch.tensor([0, 1])).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(any(name.startswith(f"{block}.") for block in trainable) for name in changed)
    trained, total = parameter_counts(model)
    assert 0 < trained < total == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("trainable", [["all"], ["stem"], ["stem.0", "fc"], ["layer4", "all"]])
def test_a_trained_first_block_leaves_no_trunk(trainable):
    with pytest.raises(ModelError, match=r"first block on, .* \(its blocks are stem, layer1, .*, fc\)"):
        trunk_blocks(build_model("r2plus1d_18", 2), trainable)


def test_a_forward_that_is_no_chain_of_blocks_is_refused():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.fc = nn.Conv3d(3, 3, 1), nn.Conv3d(3, 3, 1), nn.Linear(3, 2)

        def forward(self, x):
            x = self.first(x)
            return self.fc((x + self.second(x)).mean((2, 3, 4)))

    torch.manual_seed(0)
    model = Skipping()
    with pytest.raises(ModelError, match="not a chain of its blocks"):
        check_split(model, *split(model, ["first", "second"]), clips(1))
    check_split(model, *split(model, ["first"]), clips(1))


def test_torchvisions_transformer_is_refused_with_the_reason():
    torch.manual_seed(0)
    model = build_model("swin3d_t", 2)
    blocks = trunk_blocks(model, ["head"])
    with pytest.raises(ModelError, match="SwinTransformer3d cannot be split .* not a chain"):
        check_split(model, *split(model, blocks), torch.randn(1, 3, 8, 32, 32))


def test_errors_list_blocks_and_sizes():
    with pytest.raises(
        ModelError, match=r"'layer9', but r3d_18 has no such block with weights: its blocks are stem, .*fc .*4x28x28"
    ):
        check_fits("r3d_18", 3, 4, (28, 28), ["layer9", "fc"])
    for block in ("avgpool", "", "layer4.0.relu"):  # nothing in them could be trained
        with pytest.raises(ModelError, match="no such block with weights"):
            check_fits("r3d_18", 3, 4, (28, 28), [block])
    with pytest.raises(ModelError, match=r"does not accept clips of 4x28x28 .*Its blocks.*conv_proj"):
        check_fits("mvit_v1_b", 3, 4, (28, 28), ["head"])
    with pytest.raises(ModelError, match="no video model 'resnet50'; there are .*r2plus1d_18, r2plus1d_34"):
        build_model("resnet50", 3)
    check_fits("r3d_18", 3, 4, (28, 28), ["layer4.0", "fc"])


def test_weights_are_loaded_with_or_without_their_head():
    torch.manual_seed(0)
    source, target = build_model("mc3_18", 4), build_model("mc3_18", 3)
    own_head = target.fc.weight.clone()
    load_state(target, source.state_dict(), keep_head=False)
    assert torch.equal(target.fc.weight, own_head) and torch.equal(target.stem[0].weight, source.stem[0].weight)
    with pytest.raises(ModelError, match="in other shapes fc.weight 4x512 instead of 3x512, fc.bias 4 instead of 3"):
        load_state(target, source.state_dict(), keep_head=True)
    with pytest.raises(ModelError, match="another network's"):
        load_state(target, build_model("r3d_18", 3).state_dict(), keep_head=False)


@pytest.mark.parametrize("name", ["s3d", "mvit_v2_s"])
def test_a_network_without_a_deterministic_gradient_on_cuda_is_refused(name):
    size = (16, (224, 224))
    with pytest.raises(ModelError, match=f"--use-deterministic-algorithms: {name} has MaxPool3d"):
        check_deterministic(name, 2, *size, ["all"])
    head = {"s3d": "classifier", "mvit_v2_s": "head"}[name]
    check_deterministic(name, 2, *size, [head])  # no gradient passes through the pooling


@pytest.mark.parametrize("name", MODELS)
def test_the_tested_networks_have_deterministic_gradients(name):
    check_deterministic(name, 2, 16, (112, 112), ["all"])


def test_the_34_is_the_published_ports():
    """Counted by the authors of the port: 63.7 million parameters with 400 classes; 76.2 GMAC at 16x112x112."""
    with torch.device("meta"):
        model = build_model("r2plus1d_34", 400).eval()
        clip = torch.empty(1, 3, 16, 112, 112)
    assert parameter_counts(model) == (63_697_175, 63_697_175)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(clip)
    assert counter.get_total_flops() / 2e9 == pytest.approx(76.2, abs=0.05)
    state = model.state_dict()
    middles = {stage: state[f"layer{stage}.0.conv2.0.0.weight"].shape[0] for stage in (2, 3, 4)}
    assert middles == {2: 288, 3: 576, 4: 1152}
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    assert {norm.eps for norm in norms} == {1e-3} and {norm.momentum for norm in norms} == {0.1}
    assert sum(name.startswith("layer3.") and name.endswith("conv1.0.0.weight") for name in state) == 6


@pytest.mark.parametrize("classes, data", [(359, "IG-65M"), (400, "Kinetics-400"), (487, "IG-65M")])
def test_the_34s_published_heads_are_recognized(classes, data, tmp_path, capsys):
    with torch.device("meta"):
        shapes = build_model("r2plus1d_34", classes).state_dict()
    # One number, seen as a tensor of each shape: the file stays small.
    state = {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in shapes.items()}
    torch.save(state, tmp_path / "ig65m.pth")
    start = start_from_weights("r2plus1d_34", str(tmp_path / "ig65m.pth"), ["a", "b"])
    assert f"its head is replaced: it has {classes} outputs ({data}) and no class names" in capsys.readouterr().out
    assert start.classes == ["a", "b"] and not start.keep_head


def test_the_34_has_no_weights_by_name():
    with pytest.raises(ModelError, match="torchvision has no weights of r2plus1d_34: give a file, .*ig65m-pytorch"):
        pretrained_state("r2plus1d_34", "KINETICS400_V1")


def test_random_weights_of_the_34_keep_the_size_of_what_flows_through():
    torch.manual_seed(0)
    model = build_model("r2plus1d_34", 3)
    with torch.no_grad():
        middle = model.layer4[0].conv2[0]
        spread = middle[0].weight.std().item() / (2 / (1152 * 9)) ** 0.5
    assert spread == pytest.approx(1, abs=0.02)
