import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visionsam_hf.training.losses import (
    bernoulli_kl,
    critique_loss,
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


GENERATOR = torch.Generator().manual_seed(0)
Z = torch.randn(2, 3, 3, dtype=torch.float64, generator=GENERATOR)
CHOSEN, REJECTED, THIRD = (torch.rand(3, 2, 3, 3, generator=GENERATOR) > 0.5).double()
VALID = torch.rand(2, 3, 3, generator=GENERATOR) > 0.2
REFERENCE = torch.randn(2, 3, 3, dtype=torch.float64, generator=GENERATOR)
RANKED = torch.stack([CHOSEN, REJECTED, THIRD], 1)


@pytest.mark.parametrize("against", [None, REFERENCE])
@pytest.mark.parametrize("normalize", ["image", "region", "none"])
@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge", "robust"])
def test_gradients_of_preferences_are_the_numerical_ones(against, normalize, loss_type):
    def loss(z):
        margin = preference_margin(
            z, CHOSEN, REJECTED, reference_logits=against, valid=VALID, normalize=normalize, exponent=0.5
        )
        smoothing = 0.2 if loss_type in ("sigmoid", "robust") else 0.0
        return preference_loss(margin, loss_type=loss_type, beta=0.7, label_smoothing=smoothing)

    assert torch.autograd.gradcheck(loss, Z.clone().requires_grad_(True))


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: mask_bce(z, CHOSEN, VALID),
        lambda z: dice_loss(z, CHOSEN, VALID),
        lambda z: plackett_luce_loss(z, RANKED, reference_logits=REFERENCE, valid=VALID, beta=2.0),
        lambda z: plackett_luce_loss(z, RANKED, ranks=torch.tensor([[1.0, 1, 3], [1, 2, 3]])),
        lambda z: bernoulli_kl(z, REFERENCE, VALID),
        lambda z: ranking_loss(z[:, 0]),
    ],
)
def test_gradients_are_the_numerical_ones(loss):
    assert torch.autograd.gradcheck(loss, Z.clone().requires_grad_(True))


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.full((1, 128, 128), 0.1, dtype=torch.float16)
    chosen, rejected = torch.ones(1, 128, 128), torch.zeros(1, 128, 128)
    margin = preference_margin(logits, chosen, rejected, normalize="none")
    assert margin.dtype == torch.float32 and margin.item() == pytest.approx(
        128 * 128 * float(logits[0, 0, 0]), rel=1e-5
    )


def test_tied_ranks_ask_for_no_order():
    values = torch.tensor([[2.0, 1.0, -1.0]])
    plain = ranking_loss(values)
    torch.testing.assert_close(ranking_loss(values, torch.tensor([[1.0, 2.0, 3.0]])), plain)
    # The two above are each chosen from all three, the last is what remains.
    everything = math.log(math.exp(2) + math.exp(1) + math.exp(-1))
    tied = ranking_loss(values, torch.tensor([[1.5, 1.5, 3.0]]))
    assert tied.tolist() == pytest.approx([2 * everything - 2 - 1])
    torch.testing.assert_close(tied, ranking_loss(values[:, [1, 0, 2]], torch.tensor([[1.5, 1.5, 3.0]])))
    assert ranking_loss(values, torch.tensor([[2.0, 2.0, 2.0]])).tolist() == [0.0]


@pytest.mark.parametrize("smoothing", [-0.1, 0.5])
def test_refuses_a_smoothing_that_inverts_preferences(smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        preference_loss(torch.zeros(1), label_smoothing=smoothing)


def test_critique_by_hand():
    logits = torch.tensor([[[2.0, -1.0, 0.5], [-3.0, 4.0, 7.0]]], requires_grad=True)
    signs = torch.tensor([[[-1.0, 1.0, 0.5], [-1.0, 0.0, -1.0]]])
    valid = torch.tensor([[[True, True, True], [True, True, False]]])
    loss = critique_loss(logits, signs, valid)
    # Contradicted: 2 should go, -1 should come. Agreed: 0.5 and -3. Unspoken: 4. Padding: 7.
    assert loss.tolist() == pytest.approx([(2 + 1) / 3.5])
    loss.sum().backward()
    assert logits.grad.flatten().tolist() == pytest.approx([1 / 3.5, -1 / 3.5, 0, 0, 0, 0])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_critique_properties(seed, scale):
    logits, chosen, rejected, signs, valid = random_case(seed)
    signs = signs.clamp(-1, 1) * (chosen != rejected)
    logits.requires_grad_()
    loss = critique_loss(logits, signs, valid)
    loss.sum().backward()
    pulled = logits.grad != 0
    assert not pulled[(signs == 0) | ~valid].any(), "only inside a loop"
    assert not pulled[signs * logits > 0].any(), "only where the mask contradicts"
    assert (logits.grad[pulled].sign() == -signs[pulled].sign()).all(), "towards what was said"
    torch.testing.assert_close(critique_loss(scale * logits, signs, valid), scale * loss)
    agreeing = torch.where(signs != 0, signs.sign() * logits.abs(), logits)
    assert not critique_loss(agreeing, signs, valid).any(), "an agreeing policy costs nothing"
    assert not critique_loss(logits, torch.zeros_like(signs), valid).any(), "nor does silence"
