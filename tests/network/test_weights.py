"""Weights in the forms that people have them in; what is refused says what was found."""

import sys
from collections import OrderedDict

import pytest
import torch

from helpers.extras import require_extra
from network.checkpoint import Checkpoint, CheckpointError
from network.models import ModelError, build_model
from network.weights import read_weights
from runtime.errors import MissingExtra
from training.options import is_file_name
from training.starting import load_model, start_from_weights

NAME = "mc3_18"
FOLDERS = ["lunges", "planks", "squats"]


@pytest.fixture(scope="module")
def state():
    """A network with the 400 outputs of Kinetics."""
    torch.manual_seed(0)
    return build_model(NAME, 400).state_dict()


def renamed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


FORMS = {
    "a bare state dict": lambda state: state,
    "another class of dict": OrderedDict,
    "torchvision's reference script": lambda state: {"model": state, "epoch": 3, "model_ema": {"n": torch.ones(1)}},
    "Lightning": lambda state: {"state_dict": renamed(state, "model."), "epoch": 1.5, "hyper_parameters": {"a": 1}},
    "SlowFast": lambda state: {"model_state": state, "cfg": "text"},
    "wrappers in wrappers": lambda state: {"state_dict": renamed(state, "module._orig_mod.model.module.")},
    "counts of BatchNorm missing": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    "half precision": lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
    "parameters": lambda state: {
        k: torch.nn.Parameter(v, requires_grad=v.is_floating_point()) for k, v in state.items()
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_every_form_are_loaded_and_the_head_is_new(state, form, tmp_path, capsys):
    torch.save(FORMS[form](state), tmp_path / "weights.pth")
    start = start_from_weights(NAME, str(tmp_path / "weights.pth"), FOLDERS)
    assert start.classes == FOLDERS and start.path is None and not start.keep_head
    assert "its head is replaced: it has 400 outputs (Kinetics-400) and no class names" in capsys.readouterr().out
    model, _ = load_model(NAME, start, ["all"])
    loaded = model.state_dict()
    assert loaded.pop("fc.weight").shape == (3, 512) and loaded.pop("fc.bias").shape == (3,)
    tolerance = 1e-3 if form == "half precision" else 0
    for name, value in loaded.items():
        torch.testing.assert_close(value, state[name], rtol=tolerance, atol=tolerance)


def test_torchs_old_file_format_is_read(state, tmp_path):
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path / "old.pth", NAME).model["stem.0.weight"], state["stem.0.weight"])


def test_safetensors_are_read_in_the_order_of_the_layers(state, tmp_path):
    save_file = require_extra("safetensors.torch").save_file
    save_file(renamed(state, "module."), tmp_path / "weights.safetensors")
    found = read_weights(tmp_path / "weights.safetensors", NAME)
    assert list(found.model) == list(state) and found.num_outputs == 400
    assert all(torch.equal(found.model[name], state[name]) for name in state)
    (tmp_path / "bad.safetensors").write_bytes(b"not that")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors cannot be read as safetensors"):
        read_weights(tmp_path / "bad.safetensors", NAME)
    with pytest.raises(CheckpointError, match=r"absent\.safetensors cannot be read"):
        read_weights(tmp_path / "absent.safetensors", NAME)


def test_safetensors_without_the_package_say_how_to_get_it(tmp_path, monkeypatch):
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"a\.safetensors: safetensors.* pip install -r .*requirements-extras"):
        read_weights(tmp_path / "a.safetensors", NAME)


def test_entries_in_another_order_are_put_into_that_of_the_layers(state, tmp_path):
    torch.save(dict(sorted(state.items(), reverse=True)), tmp_path / "a.pth")
    assert list(read_weights(tmp_path / "a.pth", NAME).model) == list(state)


def test_the_head_is_kept_where_the_names_of_the_classes_are_equal(tmp_path, capsys):
    state = build_model(NAME, 3).state_dict()
    classes = ["squats", "lunges", "planks"]
    torch.save({"state_dict": state, "classes": classes}, tmp_path / "own.pth")
    start = start_from_weights(NAME, str(tmp_path / "own.pth"), FOLDERS)
    assert start.keep_head and start.classes == classes and "its head is kept" in capsys.readouterr().out
    model, _ = load_model(NAME, start, ["all"])
    assert torch.equal(model.fc.weight, state["fc.weight"])
    start = start_from_weights(NAME, str(tmp_path / "own.pth"), ["a", "b", "c"])
    assert not start.keep_head and start.classes == ["a", "b", "c"]
    assert "its head is replaced: it has 3 outputs, and its classes are not the data's 3" in capsys.readouterr().out


def test_a_checkpoint_is_read_whole_whatever_wrapped_its_network(tmp_path):
    from clips.preprocessing import Preprocessing

    state = build_model(NAME, 3).state_dict()
    wrapped = renamed(state, "_orig_mod.")
    Checkpoint(wrapped, FOLDERS, Preprocessing(), {"model": NAME}, temperature=2.0).write(tmp_path / "c.pth")
    found = read_weights(tmp_path / "c.pth", NAME)
    assert (found.classes, found.temperature, list(found.model)) == (FOLDERS, 2.0, list(state))


class Pickled:
    """Stands for a whole network in a file."""


@pytest.mark.parametrize(
    "content, words",
    [
        ({"epoch": 3, "arch": "x"}, "found a dict with the keys epoch, arch; expected a state dict"),
        ([torch.ones(2)], "found a list"),
        (torch.ones(2, 3), "found a single tensor of 2x3"),
        ({}, "found an empty dict"),
        ({"state_dict": {"a": torch.ones(1), "step": 3}}, "its `state_dict` holds step, not tensors"),
        ({"model": {}}, "its `model` is empty"),
        ({"model.a": torch.ones(1), "a": torch.ones(1)}, "holds a twice"),
        ({"model": Pickled()}, r"holds more than plain values, a \S*Pickled: save the state dict alone"),
    ],
)
def test_what_is_refused_says_what_was_found(content, words, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=words) as error:
        read_weights(tmp_path / "x.pth", NAME)
    assert str(tmp_path / "x.pth") in str(error.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # which is deprecated; its archives are about
def test_a_torchscript_archive_is_named_as_such(tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "x.pt"))
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        read_weights(tmp_path / "x.pt", NAME)


def test_what_does_not_fit_is_listed_by_name_and_shape_and_nothing_is_loaded(state, tmp_path):
    changed = dict(state)
    del changed["layer1.0.conv1.0.weight"]
    changed["stem.0.weight"] = torch.zeros(8, 3, 3, 7, 7)
    changed["neck.weight"] = torch.zeros(5, 2)
    torch.save(changed, tmp_path / "x.pth")
    with pytest.raises(ModelError) as error:
        start_from_weights(NAME, str(tmp_path / "x.pth"), FOLDERS)
    told = str(error.value)
    assert f"{tmp_path / 'x.pth'} does not fit --model {NAME}" in told
    assert "lacks layer1.0.conv1.0.weight 64x64x3x3x3; it has also neck.weight 5x2" in told
    assert "has in other shapes stem.0.weight 8x3x3x7x7 instead of 64x3x3x7x7" in told


def test_the_lists_of_a_wholly_different_network_end(state, tmp_path):
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"lacks .* and \d+ more; it has also .* and \d+ more") as error:
        start_from_weights("s3d", str(tmp_path / "x.pth"), FOLDERS)
    assert len(str(error.value)) < 2000 and "lacks features.0.0.0.weight 64x3x1x7x7, " in str(error.value)


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.safetensors", "a.ckpt", "a.pth.tar", "folder/a"])
def test_a_name_that_looks_like_a_files_is_one(name):
    assert is_file_name(name) and not is_file_name("KINETICS400_V1")
