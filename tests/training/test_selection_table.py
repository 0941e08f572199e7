import torch

from evaluation.metrics import Accuracies, VideoResults
from helpers.evaluations import wilson
from training.screen import selection_table


def results(predictions, targets):
    scores = torch.nn.functional.one_hot(torch.tensor(predictions), 6).double()
    targets = torch.tensor(targets)
    return VideoResults(torch.arange(len(targets)), scores, targets, Accuracies(25.0, 75.0, 8), 0.0, 1)


def test_gained_and_lost_are_paired_with_the_official_rule():
    targets = [0, 1, 2, 3]
    table = selection_table(
        {"official": results([0, 1, 5, 5], targets), "uniform": results([0, 5, 2, 3], targets)}
    ).splitlines()
    assert table[1].split()[0] == "official" and table[1].split()[-2:] == ["0", "0"]
    assert table[2].split()[-2:] == ["2", "1"]
    for text, (low, high) in (("75.000", wilson(3, 4)), ("25.000", wilson(2, 8))):
        assert f"{text} [{low:.1f}, {high:.1f}]" in table[2]
