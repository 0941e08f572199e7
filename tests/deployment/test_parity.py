import pytest
import torch

from deployment.parity import check_parity, measure_latency
from runtime.errors import UserError


def test_parity_wants_small_differences_and_the_same_class():
    logits = torch.tensor([[1.0, 0.0], [0.5, 0.50001]])
    assert check_parity(logits, logits + 2e-5) == pytest.approx(2e-5, rel=0.1)
    for other in (logits + 2e-4, logits.flip(1), logits * torch.nan, logits + torch.tensor([2e-5, 0])):
        with pytest.raises(UserError):
            check_parity(logits, other)


def test_latency_leaves_the_first_calls_out():
    calls = []
    latency = measure_latency(lambda: calls.append(len(calls)), repeats=5, warmup=2)
    assert len(calls) == 7 and 0 <= latency.median_ms <= latency.p95_ms
    assert str(latency).startswith(f"{latency.median_ms:.1f} ms (95th percentile ")
