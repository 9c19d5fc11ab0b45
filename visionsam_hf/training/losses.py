"""The objectives as pure functions of mask logits: no model, no trainer, one value per prompt.

Shapes: logits, target, chosen, rejected, valid are (B, H, W); results are (B,). Whatever the logits' dtype, sums are
taken in float32; only float64 logits stay float64, which is what numerical checks of the gradients need.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Cells of the logits' grid. A tiny defect covers two or three of them: the usual 1 would reward predicting nothing.
_SMOOTH = 0.05


def _full(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _pixels(valid: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones_like(like, dtype=torch.float32) if valid is None else valid.float()


def mask_bce(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, mean over the valid pixels.

    Args:
        logits: (B, H, W) mask logits.
        target: (B, H, W) in [0, 1]; fractions are what area resizing leaves of thin defects.
        valid: (B, H, W) bool, False on padding. None means everything is valid.

    Returns:
        (B,) float32.
    """
    weight = _pixels(valid, logits)
    logits = _full(logits)
    loss = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    return (loss * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - soft Dice over the valid pixels, with 0.05 added above and below so that two empty masks cost nothing.

    Measured with 1 instead, which is usual: fine-tuning on defects of two or three cells drifts to smaller masks and
    loses 0.02 IoU. The V-Net form without squares (Milletari et al., 2016; Sudre et al., 2017).

    Returns:
        (B,) float32 in [0, 1].
    """
    weight = _pixels(valid, logits)
    probability, target = _full(logits).sigmoid() * weight, target.float() * weight
    overlap = (probability * target).sum((-2, -1))
    return 1 - (2 * overlap + _SMOOTH) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + _SMOOTH)


@torch.no_grad()
def mask_iou(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """IoU of the thresholded mask with a target that may be fractional, without gradient.

    The generalised (Ruzicka) form sum(min)/sum(max), which is IoU itself for a binary target. Two empty masks score 1.

    Returns:
        (B,) float32 in [0, 1].
    """
    weight = _pixels(valid, logits)
    mask, target = (logits > 0).float() * weight, target.float() * weight
    union = torch.maximum(mask, target).sum((-2, -1))
    return torch.where(union > 0, torch.minimum(mask, target).sum((-2, -1)) / union.clamp(min=1e-6), 1.0)


def preference_margin(
    logits: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    *,
    reference_logits: Tensor | None = None,
    valid: Tensor | None = None,
    normalize: str = "image",
    exponent: float = 1.0,
) -> Tensor:
    """How much more the model favours the chosen mask than the rejected one.

    The log-likelihood of a binary mask y under per-pixel Bernoulli logits z is sum(y z - softplus(z)). The softplus
    terms of two masks of one prompt cancel, so only the pixels D where the masks differ count: sum over D of
    (chosen - rejected) (z - z_reference), the log-ratio difference of DPO (Rafailov et al., 2023).

    Args:
        logits: (B, H, W) mask logits of the policy.
        chosen, rejected: (B, H, W) binary masks on the same grid.
        reference_logits: (B, H, W) logits of the frozen reference, or None for a reference-free margin.
        valid: (B, H, W) bool, False on padding. None means everything is valid.
        normalize: divide by the number of valid pixels ("image", as the paper does), by |D|**exponent ("region"), or
            not at all ("none").
        exponent: between 0 (as "none") and 1 (a mean over D), for "region".

    Returns:
        (B,) float32 margins, 0 where the masks do not differ.
    """
    weight = _pixels(valid, logits)
    sign = (chosen.float() - rejected.float()) * weight
    score = _full(logits) if reference_logits is None else _full(logits) - _full(reference_logits)
    margin = (sign * score).sum((-2, -1))
    if normalize == "image":
        return margin / weight.sum((-2, -1)).clamp(min=1)
    if normalize == "region":
        return margin / sign.abs().sum((-2, -1)).clamp(min=1) ** exponent
    if normalize == "none":
        return margin
    raise ValueError(f"normalize must be 'image', 'region' or 'none', not {normalize!r}")


def preference_loss(
    margin: Tensor, *, loss_type: str = "sigmoid", beta: float = 1.0, label_smoothing: float = 0.0
) -> Tensor:
    """The loss of a preference margin.

    Args:
        margin: (B,) from `preference_margin`, without beta.
        loss_type: "sigmoid", -log sigmoid(beta m), with label smoothing the conservative form (Bradley-Terry; DPO, cDPO);
            "ipo", (m - 1/(2 beta))^2 (Azar et al., 2023); "hinge", max(0, 1 - beta m) (SLiC, Zhao et al., 2023);
            "robust", the sigmoid loss made unbiased under a known flip rate (Chowdhury et al., 2024).
        beta: inverse temperature.
        label_smoothing: the assumed share of flipped preferences, in [0, 0.5), for "sigmoid" and "robust".

    Returns:
        (B,) float32.
    """
    margin = _full(margin)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), not {label_smoothing}")
    agree, flipped = -F.logsigmoid(beta * margin), -F.logsigmoid(-beta * margin)
    if loss_type == "sigmoid":
        return (1 - label_smoothing) * agree + label_smoothing * flipped
    if loss_type == "robust":
        return ((1 - label_smoothing) * agree - label_smoothing * flipped) / (1 - 2 * label_smoothing)
    if loss_type == "ipo":
        return (margin - 1 / (2 * beta)) ** 2
    if loss_type == "hinge":
        return (1 - beta * margin).clamp(min=0)
    raise ValueError(f"loss_type must be 'sigmoid', 'ipo', 'hinge' or 'robust', not {loss_type!r}")


def critique_loss(logits: Tensor, signs: Tensor, valid: Tensor | None = None) -> Tensor:
    """How far the mask is from what people circled: the mean of max(0, -sign z) over what their loops would change.

    The perceptron criterion (Rosenblatt, 1958) on single pixels, divided by the loops' content so that a small mistake
    counts as much as a large one. It pulls inside the loops alone, and there only where the mask still contradicts; as
    soon as the policy agrees it is 0, so nothing is pushed beyond what was said.

    Args:
        logits: (B, H, W) mask logits of the policy.
        signs: (B, H, W) in [-1, 1]: above 0 where the mask should come, below 0 where it should go, 0 where nobody spoke.
        valid: (B, H, W) bool, False on padding. None means everything is valid.

    Returns:
        (B,) float32, 0 without a loop.
    """
    signs = signs.float() * _pixels(valid, logits)
    return F.relu(-signs * _full(logits)).sum((-2, -1)) / signs.abs().sum((-2, -1)).clamp(min=1)


def plackett_luce_loss(
    logits: Tensor,
    ranked_masks: Tensor,
    *,
    ranks: Tensor | None = None,
    reference_logits: Tensor | None = None,
    valid: Tensor | None = None,
    beta: float = 1.0,
) -> Tensor:
    """Negative log-likelihood of a whole ranking of masks (Plackett, 1975; Luce, 1959).

    Each mask's score is beta times the mean of (z - z_reference) over its own pixels within U, the pixels where any
    two candidates differ; with two masks this is the region-normalised Bradley-Terry loss.

    Args:
        logits: (B, H, W) mask logits of the policy.
        ranked_masks: (B, K, H, W) binary masks, best first.
        ranks: (B, K) ranks, ascending; equal ones are ties, see `ranking_loss`. None means that there are none.
        reference_logits: (B, H, W), or None for a reference-free loss.
        valid: (B, H, W) bool, False on padding.
        beta: inverse temperature.

    Returns:
        (B,) float32, log(K!) where the masks do not differ.
    """
    masks = ranked_masks.float()
    union = (masks.amax(1) != masks.amin(1)).float() * _pixels(valid, logits)
    score = _full(logits) if reference_logits is None else _full(logits) - _full(reference_logits)
    size = union.sum((-2, -1)).clamp(min=1)
    values = beta * (masks * (union * score).unsqueeze(1)).sum((-2, -1)) / size.unsqueeze(1)
    return ranking_loss(values, ranks)


def ranking_loss(values: Tensor, ranks: Tensor | None = None) -> Tensor:
    """Plackett-Luce negative log-likelihood of scores given best first.

    Args:
        values: (B, K) scores.
        ranks: (B, K), ascending. Items of equal rank are each chosen from themselves and all that rank below (Breslow,
            1974), so that no order is asked for between them; a row that ties from top to bottom costs 0.

    Returns:
        (B,) float32.
    """
    values = _full(values)
    if ranks is None:
        # logsumexp over the items still to be placed, from the end.
        remaining = values.flip(-1).logcumsumexp(-1).flip(-1)
        return (remaining - values).sum(-1)
    below = ranks.unsqueeze(-1) <= ranks.unsqueeze(-2)  # [k, j]: j is still to be placed when k is
    remaining = values.unsqueeze(-2).masked_fill(~below, float("-inf")).logsumexp(-1)
    return (remaining - values).sum(-1) * (ranks[:, 0] != ranks[:, -1])


def bernoulli_kl(logits: Tensor, reference_logits: Tensor, where: Tensor) -> Tensor:
    """KL(policy || reference) of the per-pixel Bernoulli, mean over the pixels in `where` (B, H, W) bool; (B,) float32."""
    logits, reference = _full(logits), _full(reference_logits)
    probability = logits.sigmoid()
    divergence = probability * (logits - reference) - F.softplus(logits) + F.softplus(reference)
    weight = where.float()
    return (divergence * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp(min=1)


def embedding_loss(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """How far a student's image embeddings are from its teacher's.

    Args:
        student: (B, C, h, w).
        teacher: (B, C, H, W); a finer grid is averaged over areas, a coarser one interpolated.

    Returns:
        Squared distance over the teacher's squared norm, both over a whole image, and the cosine, mean over its cells,
        both (B,) float32. A student that gives zeros has a distance of 1.
    """
    student, teacher = _full(student), _full(teacher)
    if teacher.shape[-2:] != student.shape[-2:]:
        is_finer = teacher.shape[-1] > student.shape[-1]
        way = {"mode": "area"} if is_finer else {"mode": "bilinear", "align_corners": False}
        teacher = F.interpolate(teacher, student.shape[-2:], **way)
    distance = (student - teacher).square().sum((1, 2, 3)) / teacher.square().sum((1, 2, 3)).clamp(min=1e-12)
    return distance, F.cosine_similarity(student, teacher, dim=1).mean((-2, -1))
