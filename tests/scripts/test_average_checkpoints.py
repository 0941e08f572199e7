from types import SimpleNamespace

import pytest
import torch

import average_checkpoints
import train
from helpers.small_datasets import SMALL
from training.weight_averaging import average, choose_greedily


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A folder with model_0.pth and model_1.pth, and the options of its training."""
    folder = tmp_path_factory.mktemp("run")
    options = [*SMALL, "--data-path", str(dataset), "--cache-dir", str(folder / "cache"), "--trainable", "fc"]
    assert train.main([*options, "--epochs", "2", "--lr", "0.1", "--output-dir", str(folder)]) == 0
    return folder, options


def load(path):
    return torch.load(path, weights_only=True)


def test_the_average_is_the_mean_in_the_weights_own_type():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "h": torch.tensor([1.0], dtype=torch.bfloat16), "n": torch.tensor(number)}
        for number in (7, 9, 9)
    ]
    states[2]["w"] = torch.tensor([4.0, 2.0])
    found = average(states)
    assert found["w"].tolist() == [2.0, 2.0] and found["h"].dtype == torch.bfloat16 and found["n"] == 7


def test_uniform_on_the_files_of_a_run(run, dataset, tmp_path, capsys):
    folder, options = run
    files = [str(folder / f"model_{epoch}.pth") for epoch in (0, 1)]
    assert average_checkpoints.main([*files, "--output", str(tmp_path / "soup.pth")]) == 0
    soup, first, second = load(tmp_path / "soup.pth"), load(files[0]), load(files[1])
    expected = (first["model"]["fc.weight"] + second["model"]["fc.weight"]) / 2
    torch.testing.assert_close(soup["model"]["fc.weight"], expected)
    assert soup["averaged_from"] == files and soup["classes"] == first["classes"] and "optimizer" not in soup
    test = ["--test-only", "--resume", str(tmp_path / "soup.pth"), "--output-dir", str(tmp_path)]
    assert train.main([*options, *test]) == 0
    weights = ["--weights", str(tmp_path / "soup.pth"), "--epochs", "1", "--output-dir", str(tmp_path / "tuned")]
    assert train.main([*options, *weights]) == 0
    assert "its head is kept" in capsys.readouterr().out


def test_greedy_validates_as_training_did(run, dataset, tmp_path, capsys):
    folder, _ = run
    files = [str(folder / f"model_{epoch}.pth") for epoch in (0, 1)]
    greedy = ["--greedy", "--data-path", str(dataset), "--device", "cpu", "--workers", "0"]
    greedy += ["--cache-dir", str(folder / "cache")]
    assert average_checkpoints.main([*files, "--output", str(tmp_path / "soup.pth"), *greedy]) == 0
    out = capsys.readouterr().out
    best = load(folder / "model_best.pth")["best_video_acc1"]
    assert f"video Acc@1 {best:.3f}" in out and load(tmp_path / "soup.pth")["averaged_from"][0] in files


def test_greedy_leaves_out_what_makes_it_worse():
    states = [{"w": torch.tensor([value])} for value in (3.0, 0.0, 5.0, 100.0)]

    def validate(state):  # the nearer to 4 the better
        return SimpleNamespace(video=SimpleNamespace(top1=100 - abs(state["w"].item() - 4)))

    assert choose_greedily(list("abcd"), states, validate) == [0, 2]


def test_what_does_not_go_together_is_refused(run, tmp_path, capsys):
    folder, _ = run
    first = load(folder / "model_0.pth")
    changes = {
        "classes": {"classes": ["pushups", "left_raise", "squats"]},
        "preprocessing": {"preprocessing": {**first["preprocessing"], "clip_len": 8}},
        "different networks": {"model": {"fc.weight": torch.ones(3, 2)}},
    }
    output = ["--output", str(tmp_path / "soup.pth")]
    for words, change in changes.items():
        torch.save({**first, **change}, tmp_path / "other.pth")
        assert average_checkpoints.main([str(folder / "model_0.pth"), str(tmp_path / "other.pth"), *output]) == 1
        error = capsys.readouterr().err
        assert words in error and "other.pth" in error and not (tmp_path / "soup.pth").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["a.pth", "--output", "c.pth"], "two checkpoints or more"),
        (["a.pth", "b.pth", "--greedy", "--output", "c.pth"], "--data-path"),
        (["a.pth", "b.pth", "sub/../a.pth", "--output", "c.pth"], "a.pth and sub/../a.pth are the same file"),
        (["a.pth", "link.pth", "--output", "c.pth"], "a.pth and link.pth are the same file"),
        (["absent.pth", "absent.pth", "--output", "c.pth"], "are the same file"),
        (["a.pth", "b.pth", "--output", "./b.pth"], "--output b.pth is one of the files to read"),
        (["a.pth", "b.pth", "--output", "sub"], "--output sub is a folder"),
    ],
)
def test_wrong_usage(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "link.pth").hardlink_to("a.pth")
    with pytest.raises(SystemExit) as stop:
        average_checkpoints.main(arguments)
    assert stop.value.code == 2 and words in capsys.readouterr().err
    assert (tmp_path / "b.pth").read_bytes() == b"b.pth" and not (tmp_path / "c.pth").exists()


def test_an_average_that_cannot_be_written_says_so_alone(run, tmp_path, capsys):
    files = [str(run[0] / f"model_{epoch}.pth") for epoch in (0, 1)]
    (tmp_path / "file").write_bytes(b"")
    assert average_checkpoints.main([*files, "--output", str(tmp_path / "file" / "soup.pth")]) == 1
    error = capsys.readouterr().err
    assert "soup.pth cannot be written: " in error and "--resume" not in error
