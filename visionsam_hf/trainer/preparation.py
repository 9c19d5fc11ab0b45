"""The model that a trainer gets: loaded, with everything frozen but what trains, be it weights of its own or an adapter."""

from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftModel
from transformers import SamModel, SamProcessor

from visionsam_hf.adapters import add_adapter, check_same_adapter, find_adapter, load_adapter
from visionsam_hf.errors import UserError
from visionsam_hf.initialisation import with_fresh_decoder
from visionsam_hf.modeling import freeze, freeze_prompts_not_drawn, load_model, load_processor, reshaped
from visionsam_hf.trainer.sam_trainer import prepare_model


def prepare_tuned(
    model: str | SamModel,
    processing_class: SamProcessor | None,
    args: Any,
    *,
    mask_output: str,
    scores: bool,
    prompt_kinds: Sequence[str],
    vision_config: Mapping[str, Any] | None = None,
    fresh_decoder: bool = False,
) -> tuple[SamModel | PeftModel, SamProcessor]:
    """The model and its processor, ready to train.

    Args:
        model: a `SamModel`, or the name of one, or of an adapter: with `use_peft` that adapter trains on, without it
            the two are merged and the model's own weights train.
        processing_class: loaded beside a named model when None.
        args: a config with the fields of `PromptTuningSettings`.
        mask_output, scores: what the loss sees, as `freeze` takes them.
        prompt_kinds: kinds of the prompts drawn in training.
        vision_config: the encoder's new shape, as `reshaped` takes it.
        fresh_decoder: everything but the vision encoder starts anew, with `args.seed`.
    """
    if args.use_peft:
        if vision_config:
            raise UserError(
                "vision_config: an adapter needs its base model as it is; leave it out, or set use_peft false"
            )
        return _with_adapter(model, processing_class, args)
    model, processor = prepare_model(model, processing_class, args)
    if vision_config:
        model, processor = reshaped(model, processor, vision_config)
    if fresh_decoder:
        model = with_fresh_decoder(model, seed=args.seed)
    freeze(model, args.trainable, mask_output=mask_output, scores=scores)
    freeze_prompts_not_drawn(model, prompt_kinds)
    return model, processor


def _with_adapter(
    model: str | SamModel, processing_class: SamProcessor | None, args: Any
) -> tuple[PeftModel, SamProcessor]:
    saved = find_adapter(model) if isinstance(model, str) else None
    if saved is not None:
        check_same_adapter(model, saved, args.trainable, r=args.lora_r, alpha=args.lora_alpha)
        base = load_model(saved.base_model_name_or_path)
        return load_adapter(base, model, trainable=True), processing_class or load_processor(model)
    base, processor = prepare_model(model, processing_class, args)
    if isinstance(model, str) and not base.name_or_path:
        raise UserError(f"{model}: has no weights, so an adapter would have no base to go back to; set use_peft false")
    adapted = add_adapter(
        base, args.trainable, r=args.lora_r, alpha=args.lora_alpha, dropout=args.lora_dropout, seed=args.seed
    )
    return adapted, processor
