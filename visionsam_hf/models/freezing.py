"""What of a model trains, and what stays as it is."""

from collections.abc import Sequence

from torch import nn
from transformers import SamModel

from visionsam_hf.data.errors import UserError

TRAINABLE = ("mask_decoder", "mask_decoder+prompt_encoder", "all", "iou_prediction_head")
MASK_OUTPUTS = ("single", "multi", "both")


def freeze(model: SamModel, trainable: str, *, mask_output: str = "both", scores: bool = True) -> list[str]:
    """Freeze everything, then unfreeze what trains. The only place that decides.

    Args:
        model: changed in place.
        trainable: "mask_decoder", "mask_decoder+prompt_encoder", "all", or "iou_prediction_head", which tunes
            the scores and leaves the masks as they are.
        mask_output: which mask tokens the loss sees: "single" (0), "multi" (1 to 3) or "both". The hypernetworks of
            the others get no gradient and stay frozen, or AdamW would decay them.
        scores: whether the loss sees the predicted IoU; else its head stays frozen, for the same reason.

    Returns:
        The names of the parameters that train.
    """
    if trainable not in TRAINABLE:
        raise UserError(f"trainable: {trainable!r} is not one of {', '.join(TRAINABLE)}")
    if mask_output not in MASK_OUTPUTS:
        raise UserError(f"mask_output: {mask_output!r} is not one of {', '.join(MASK_OUTPUTS)}")
    model.requires_grad_(False)
    modules: dict[str, list[nn.Module]] = {
        "mask_decoder": [model.mask_decoder],
        "mask_decoder+prompt_encoder": [model.mask_decoder, model.prompt_encoder],
        "all": [model],
        "iou_prediction_head": [model.mask_decoder.iou_prediction_head],
    }
    for module in modules[trainable]:
        module.requires_grad_(True)
    # The positional encoding is random features, a buffer in Meta's code and a Parameter here; masks as prompts are not used.
    for module in (
        model.shared_image_embedding,
        model.prompt_encoder.shared_embedding,
        model.prompt_encoder.mask_embed,
    ):
        module.requires_grad_(False)
    unseen = {"single": (1, 2, 3), "multi": (0,), "both": ()}[mask_output]
    for index, mlp in enumerate(model.mask_decoder.output_hypernetworks_mlps):
        if index in unseen:
            mlp.requires_grad_(False)
    if not scores:
        model.mask_decoder.iou_prediction_head.requires_grad_(False)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def freeze_prompts_not_drawn(model: SamModel, kinds: Sequence[str]) -> None:
    """Freeze the prompt encoder's embeddings that prompts of these kinds never use; they would get no gradient."""
    boxes, points = "box" in kinds, any(kind != "box" for kind in kinds)
    used = {0: "point_pm" in kinds, 1: points, 2: boxes, 3: boxes}
    for index, embedding in enumerate(model.prompt_encoder.point_embed):
        if not used[index]:
            embedding.requires_grad_(False)
    if not points:
        model.prompt_encoder.not_a_point_embed.requires_grad_(False)
