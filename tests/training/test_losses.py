import pytest
import torch
from torch.nn import functional as F

from training.losses import Targets, TrainingLoss, distillation_loss


def one_hot(labels, num_classes):
    return F.one_hot(labels, num_classes).float()


@pytest.fixture
def batch():
    """(logits, labels) of seven clips and five classes."""
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(7, 5, generator=generator), torch.randint(5, (7,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_with_labels_it_is_torchs_cross_entropy(batch, smoothing):
    logits, labels = batch
    expected = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    found = TrainingLoss(smoothing)(logits, Targets(one_hot(labels, 5)))
    assert found.shape == (7,)
    torch.testing.assert_close(found, expected)


def test_shares_of_two_classes_are_the_two_losses_in_those_shares(batch):
    logits, labels = batch
    others = (labels + 1) % 5
    shares = 0.3 * one_hot(labels, 5) + 0.7 * one_hot(others, 5)
    expected = 0.3 * F.cross_entropy(logits, labels, reduction="none")
    expected += 0.7 * F.cross_entropy(logits, others, reduction="none")
    torch.testing.assert_close(TrainingLoss()(logits, Targets(shares)), expected)


def test_smoothed_shares_are_weighed_as_written_out(batch):
    logits, labels = batch
    shares = 0.3 * one_hot(labels, 5) + 0.7 * one_hot((labels + 1) % 5, 5)
    expected = -((0.9 * shares + 0.1 / 5) * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(TrainingLoss(0.1)(logits, Targets(shares)), expected, rtol=0, atol=0)


def test_a_student_like_its_teacher_has_no_loss_and_any_other_has(batch):
    logits, _ = batch
    for temperature in (1.0, 4.0):
        teacher = (logits / temperature).softmax(1)
        assert distillation_loss(logits, teacher, temperature).abs().max() < 1e-5
        assert (distillation_loss(logits.roll(1, 0), teacher, temperature) > 1e-3).all()


def test_distillation_is_the_divergence_by_its_definition(batch):
    logits, _ = batch
    teacher_logits = logits.flip(0)
    p, q = ((values / 2.0).softmax(1) for values in (teacher_logits, logits))
    expected = 4.0 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(distillation_loss(logits, p, 2.0), expected)
    certain = one_hot(torch.tensor([1] * 7), 5)  # a probability of 0 must not become nan
    torch.testing.assert_close(
        distillation_loss(logits, certain, 1.0), F.cross_entropy(logits, certain.argmax(1), reduction="none")
    )


def test_its_gradient_does_not_fade_with_the_temperature(batch):
    def gradient(temperature):
        logits = batch[0].clone().requires_grad_()
        distillation_loss(logits, (batch[0].flip(0) / temperature).softmax(1), temperature).sum().backward()
        return logits.grad.norm().item()

    assert gradient(100.0) == pytest.approx(gradient(50.0), rel=0.05) and gradient(100.0) > 0.1


def test_alpha_weighs_the_teacher_against_the_labels(batch):
    logits, labels = batch
    targets = Targets(one_hot(labels, 5), logits.flip(0).softmax(1))
    labels_only, teacher_only = (TrainingLoss(0.0, alpha, 1.0)(logits, targets) for alpha in (0.0, 1.0))
    torch.testing.assert_close(labels_only, F.cross_entropy(logits, labels, reduction="none"))
    torch.testing.assert_close(TrainingLoss(0.0, 0.25, 1.0)(logits, targets), 0.75 * labels_only + 0.25 * teacher_only)


def test_half_precision_logits_give_a_float32_loss(batch):
    loss = TrainingLoss(0.1)(batch[0].bfloat16(), Targets(one_hot(batch[1], 5)))
    assert loss.dtype == torch.float32
