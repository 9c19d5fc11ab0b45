import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visionsam_hf.losses import (
    bernoulli_kl,
    dice_loss,
    mask_bce,
    mask_iou,
    plackett_luce_loss,
    preference_loss,
    preference_margin,
    ranking_loss,
)


def softplus(z):
    return math.log1p(math.exp(-abs(z))) + max(z, 0)


def random_case(seed, batch=2, side=5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, side, side, generator=generator) * 3
    chosen, rejected = (torch.rand(2, batch, side, side, generator=generator) > 0.5).float()
    reference = torch.randn(batch, side, side, generator=generator)
    valid = torch.rand(batch, side, side, generator=generator) > 0.3
    return logits, chosen, rejected, reference, valid


def test_bce_by_hand():
    logits = torch.tensor([[[0.0, 2.0], [-1.0, 100.0]]])
    target = torch.tensor([[[1.0, 0.25], [0.0, 0.0]]])
    valid = torch.tensor([[[True, True], [True, False]]])
    expected = (softplus(0) - 0 + softplus(2) - 0.5 + softplus(-1)) / 3
    assert mask_bce(logits, target, valid).tolist() == pytest.approx([expected])


def test_dice_by_hand():
    logits = torch.tensor([[[50.0, -50.0], [50.0, 50.0]]])
    target = torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])
    valid = torch.tensor([[[True, True], [True, False]]])
    # One pixel overlaps; two are predicted and two are true.
    assert dice_loss(logits, target, valid).tolist() == pytest.approx([1 - (2 * 1 + 0.05) / (2 + 2 + 0.05)])
    empty = torch.full((1, 2, 2), -50.0)
    assert dice_loss(empty, torch.zeros(1, 2, 2)).tolist() == pytest.approx([0.0])


def test_dice_does_not_reward_predicting_nothing():
    target = torch.zeros(1, 8, 8)
    target[0, 0, :2] = 1
    assert dice_loss(torch.full((1, 8, 8), -50.0), target).item() > 0.97


def test_iou_by_hand():
    logits = torch.tensor([[[1.0, 1.0], [-1.0, 1.0]]])
    target = torch.tensor([[[1.0, 0.5], [1.0, 0.0]]])
    assert mask_iou(logits, target).tolist() == pytest.approx([1.5 / 4])
    assert mask_iou(-torch.ones(1, 2, 2), torch.zeros(1, 2, 2)).tolist() == [1.0]


def test_paper_loss_equals_its_closed_form():
    logits, chosen, rejected, _, valid = random_case(0)
    reward_chosen, reward_rejected = -mask_bce(logits, chosen, valid), -mask_bce(logits, rejected, valid)
    expected = -torch.log(torch.sigmoid(1.0 * (reward_chosen - reward_rejected)))
    margin = preference_margin(logits, chosen, rejected, valid=valid, normalize="image")
    torch.testing.assert_close(preference_loss(margin, beta=1.0), expected)


def test_paper_loss_by_hand():
    logits = torch.tensor([[[2.0, -1.0], [3.0, 5.0]]])
    chosen = torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])
    rejected = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    margin = preference_margin(logits, chosen, rejected)
    assert margin.tolist() == pytest.approx([(-1.0 - 3.0) / 4])
    assert preference_loss(margin).tolist() == pytest.approx([softplus(1.0)])


@pytest.mark.parametrize("normalize", ["image", "region", "none"])
def test_no_gradient_where_the_masks_agree(normalize):
    logits, chosen, rejected, reference, valid = random_case(1)
    logits.requires_grad_(True)
    margin = preference_margin(logits, chosen, rejected, reference_logits=reference, valid=valid, normalize=normalize)
    preference_loss(margin).sum().backward()
    differs = (chosen != rejected) & valid
    assert (logits.grad[~differs] == 0).all()
    assert (logits.grad[differs] != 0).all()


def test_equal_masks_have_margin_zero():
    logits, chosen, _, reference, _ = random_case(2)
    for normalize in ("image", "region", "none"):
        margin = preference_margin(logits, chosen, chosen, reference_logits=reference, normalize=normalize)
        assert margin.tolist() == [0.0, 0.0]


def test_the_reference_makes_dpo():
    logits, chosen, rejected, reference, valid = random_case(3)

    def logp(z, mask):
        return -(mask_bce(z, mask, valid) * valid.sum((-2, -1)))

    expected = (logp(logits, chosen) - logp(reference, chosen)) - (logp(logits, rejected) - logp(reference, rejected))
    margin = preference_margin(logits, chosen, rejected, reference_logits=reference, valid=valid, normalize="none")
    torch.testing.assert_close(margin, expected, rtol=1e-4, atol=1e-4)


def test_region_exponent_runs_from_dpo_to_the_mean():
    logits, chosen, rejected, _, valid = random_case(4)
    region = dict(valid=valid, normalize="region")
    total = preference_margin(logits, chosen, rejected, valid=valid, normalize="none")
    size = ((chosen != rejected) & valid).sum((-2, -1))
    torch.testing.assert_close(preference_margin(logits, chosen, rejected, exponent=0.0, **region), total)
    torch.testing.assert_close(preference_margin(logits, chosen, rejected, exponent=1.0, **region), total / size)


def test_other_losses_by_hand():
    margin = torch.tensor([0.5, -2.0])
    assert preference_loss(margin, loss_type="ipo", beta=0.5).tolist() == pytest.approx([0.25, 9.0])
    assert preference_loss(margin, loss_type="hinge", beta=2.0).tolist() == pytest.approx([0.0, 5.0])
    smooth = preference_loss(margin, beta=2.0, label_smoothing=0.1).tolist()
    assert smooth == pytest.approx([0.9 * softplus(-1) + 0.1 * softplus(1), 0.9 * softplus(4) + 0.1 * softplus(-4)])
    robust = preference_loss(margin, loss_type="robust", beta=2.0, label_smoothing=0.1).tolist()
    expected = [(0.9 * softplus(-1) - 0.1 * softplus(1)) / 0.8, (0.9 * softplus(4) - 0.1 * softplus(-4)) / 0.8]
    assert robust == pytest.approx(expected)


def test_robust_loss_is_unbiased_under_flips():
    margin, flips = torch.tensor([0.7]), 0.3
    kept = preference_loss(margin, loss_type="robust", label_smoothing=flips)
    flipped = preference_loss(-margin, loss_type="robust", label_smoothing=flips)
    torch.testing.assert_close((1 - flips) * kept + flips * flipped, preference_loss(margin))


def test_plackett_luce_of_two_is_bradley_terry():
    logits, chosen, rejected, reference, valid = random_case(5)
    ranked = torch.stack([chosen, rejected], 1)
    loss = plackett_luce_loss(logits, ranked, reference_logits=reference, valid=valid, beta=0.7)
    margin = preference_margin(
        logits, chosen, rejected, reference_logits=reference, valid=valid, normalize="region"
    )
    torch.testing.assert_close(loss, preference_loss(margin, beta=0.7))


def test_plackett_luce_by_hand():
    values = torch.tensor([[2.0, 1.0, -1.0]])
    expected = math.log(math.exp(2) + math.exp(1) + math.exp(-1)) - 2 + math.log(math.exp(1) + math.exp(-1)) - 1
    assert ranking_loss(values).tolist() == pytest.approx([expected])
    same = torch.ones(1, 3, 4, 4)
    assert plackett_luce_loss(torch.randn(1, 4, 4), same).tolist() == pytest.approx([math.log(6)])


def test_kl_by_hand():
    logits, reference = torch.tensor([[[2.0, 7.0]]]), torch.tensor([[[0.5, -3.0]]])
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-0.5))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    where = torch.tensor([[[True, False]]])
    assert bernoulli_kl(logits, reference, where).tolist() == pytest.approx([expected], rel=1e-5)
    assert bernoulli_kl(logits, logits, where).tolist() == [0.0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-5, 5))
def test_margin_properties(seed, shift):
    logits, chosen, rejected, reference, valid = random_case(seed, batch=1)
    one = preference_margin(logits, chosen, rejected, reference_logits=reference, valid=valid, normalize="none")
    # Antisymmetric in the masks, and a shift of policy and reference together changes nothing.
    other = preference_margin(logits, rejected, chosen, reference_logits=reference, valid=valid, normalize="none")
    torch.testing.assert_close(one, -other)
    moved = preference_margin(
        logits + shift, chosen, rejected, reference_logits=reference + shift, valid=valid, normalize="none"
    )
    torch.testing.assert_close(one, moved, rtol=1e-3, atol=1e-3)


def test_gradients_agree_with_numerical_ones():
    """In float64 the formulas' gradients match finite differences (the functions themselves compute in float32)."""
    logits = torch.randn(1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = (torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    other = 1 - target
    for function in (
        lambda z: mask_bce(z, target),
        lambda z: dice_loss(z, target),
        lambda z: preference_loss(preference_margin(z, target, other, normalize="region")),
        lambda z: plackett_luce_loss(z, torch.stack([target, other, torch.ones_like(target)], 1)),
        lambda z: bernoulli_kl(z, torch.zeros_like(z), torch.ones_like(target, dtype=torch.bool)),
    ):
        assert torch.autograd.gradcheck(function, logits.clone().requires_grad_(True), eps=1e-2, atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5])
def test_refuses_a_smoothing_that_inverts_preferences(smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        preference_loss(torch.zeros(1), label_smoothing=smoothing)
