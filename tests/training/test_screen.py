import pytest
import torch

from caching import splits
from clips.preprocessing import Preprocessing
from training import screen


@pytest.mark.parametrize("processes, words", [(1, None), (3, "2 clips an epoch come twice")])
def test_the_plan_tells_of_clips_that_come_twice(processes, words, monkeypatch, capsys):
    monkeypatch.setattr(screen, "world_size", lambda: processes)
    monkeypatch.setattr(splits, "world_size", lambda: processes)
    options = splits.ClipOptions(Preprocessing(4), cache_dir=None, batch_size=4, num_workers=0)
    clips = splits.Clips(None, torch.arange(7), 0, "decoded, float", options)
    screen.print_plan(torch.nn.Linear(2, 2), "a_network", clips, 2, range(1))
    told = capsys.readouterr().out
    assert "7 training videos" in told and (words in told if words else "twice" not in told)
