"""The model that a trainer gets: loaded, with everything frozen but what trains, be it weights of its own or an adapter."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import SamModel, SamProcessor, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PredictionOutput

from visionsam_hf.data.errors import UserError
from visionsam_hf.embeddings.cache import EmbeddingCache, open_cache
from visionsam_hf.models.decoder import bind_predict_tokens
from visionsam_hf.models.freezing import freeze, freeze_prompts_not_drawn
from visionsam_hf.models.initialisation import with_fresh_decoder
from visionsam_hf.models.loading import load_model, load_processor, reshaped
from visionsam_hf.models.lora import add_adapter, check_same_adapter, find_adapter, load_adapter
from visionsam_hf.training.resuming import ResumableTrainer
from visionsam_hf.training.samples import ImageSource


def keep_on_device(sources: Iterable[ImageSource], device: torch.device, setting: str) -> Tensor | None:
    """All cached embeddings of some sources as one tensor on the device, if they are to stay there.

    Args:
        sources: filled from one cache; afterwards they give `image_places`, rows of the result.
        device: of the training.
        setting: "always", "never", or "auto": on a GPU whose free memory holds them twice. In main memory the system's
            file cache does this already, for all processes at once.

    Returns:
        (n, C, h, w) in the cache's dtype, or None.
    """
    sources = [source for source in sources if source.keys is not None]
    entries = list(dict.fromkeys(key for source in sources for key in source.entries))
    if not entries or setting == "never" or (setting == "auto" and device.type != "cuda"):
        return None
    cache = sources[0].cache
    assert cache is not None  # whoever has keys has a cache
    first = cache[entries[0]]
    if setting == "auto" and 2 * len(entries) * first.nbytes > torch.cuda.mem_get_info(device)[0]:
        return None
    table = torch.empty((len(entries), *first.shape), dtype=first.dtype, device=device)
    for place, key in enumerate(entries):
        table[place] = cache[key].to(device)
    places = {key: place for place, key in enumerate(entries)}
    for source in sources:
        source.places = places
    return table


logger = logging.getLogger(__name__)


class _DrawPromptsAnew(TrainerCallback):
    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.samples.set_epoch(math.floor((state.epoch or 0) + 1e-6))


class SamTrainer(ResumableTrainer):
    """`transformers.Trainer` for promptable masks; `SamSFTTrainer` and `SamDPOTrainer` say what the loss is.

    The loss is a mean over the prompts of the whole accumulated batch on all processes, so it does not depend on how
    that batch is cut into pieces.
    """

    # `compute_loss` divides by the prompts of the accumulated batch itself.
    loss_is_scaled_for_ga = True
    # Cells a side that are averaged into one.
    pool = 1

    def __init__(
        self,
        model: SamModel,
        args: TrainingArguments,
        *,
        processing_class: SamProcessor,
        data_collator: Any,
        train_samples: Any,
        eval_samples: Any,
        **kwargs: Any,
    ) -> None:
        if args.device.type == "cuda":
            args.dataloader_pin_memory = True
        super().__init__(
            model=bind_predict_tokens(model, fast=args.fast is not False, compiled=args.compile_decoder),
            args=args,
            data_collator=data_collator,
            train_dataset=train_samples,
            eval_dataset=eval_samples,
            **kwargs,
        )
        # Not given to Trainer: it takes every processor for one with a tokenizer. `_save` writes it.
        self.processor = processing_class
        # SamModel.forward has **kwargs, from which Trainer concludes that the model scales its own loss; it infers
        # label_names as ["input_labels"], which gives no evaluation loss.
        self.model_accepts_loss_kwargs = False
        self.label_names = ["prompt_valid"]
        sources = [samples.source for samples in (train_samples, eval_samples) if samples is not None]
        self._resident = keep_on_device(sources, args.device, args.embeddings_on_device)
        self._sums: dict[str, dict[str, list[float]]] = {"train": defaultdict(lambda: [0.0, 0.0]), "eval": {}}
        self._sums["eval"] = defaultdict(lambda: [0.0, 0.0])
        if hasattr(train_samples, "set_epoch"):
            self.add_callback(_DrawPromptsAnew(train_samples))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        self.processor.save_pretrained(output_dir or self.args.output_dir)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: Trainer's own knows neither data nor licences. The stages and `visionsam push` write the card."""

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | None]:
        """The accumulated batch, and how many prompts it has on all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        self._leave_out_repeats(batches[-1])
        prompts = torch.stack([batch["prompt_valid"].sum() for batch in batches]).sum().to(device)
        return batches, self.accelerator.gather(prompts).sum()

    def _leave_out_repeats(self, batch: dict[str, Any]) -> None:
        """Where an epoch does not divide among the processes, the last batch is filled up with its first samples again."""
        state = self.accelerator.gradient_state
        if self.accelerator.num_processes > 1 and state.end_of_dataloader and state.remainder > 0:
            size = len(batch["prompt_valid"])
            first = state.remainder - self.accelerator.process_index * size
            batch["prompt_valid"][max(first, 0) :] = False

    def forward(self, model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (P, 4, S, S), scores (P, 4) and validity (P, S, S) of the P prompts of a batch that are not padding."""
        if "pixel_values" in inputs:
            image = {"pixel_values": inputs["pixel_values"]}
        else:
            places = inputs.get("image_places")
            embeddings = (
                inputs["image_embeddings"] if places is None or self._resident is None else self._resident[places]
            )
            embeddings = embeddings.float()
            image = {"image_embeddings": F.avg_pool2d(embeddings, self.pool) if self.pool > 1 else embeddings}
        logits, scores = model(boxes=inputs["boxes"], points=inputs["points"], kinds=inputs["kinds"], **image)
        keep = inputs["prompt_valid"]
        valid = inputs["valid"].unsqueeze(1).expand(-1, keep.shape[1], -1, -1)
        return logits[keep], scores[keep], valid[keep]

    def prompt_losses(self, model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of every prompt, (P,), and what to log of each, by name."""
        raise NotImplementedError

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        losses, metrics = self.prompt_losses(model, inputs)
        if not torch.isfinite(losses).all():
            raise self._not_finite(losses, model, inputs)
        self._record("train" if model.training else "eval", {"loss_terms/total": losses, **metrics})
        if num_items_in_batch is None:
            loss = losses.mean()
        else:
            # Gradients are averaged over processes; this is a mean over all their prompts.
            loss = losses.sum() / num_items_in_batch * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def _not_finite(self, losses: Tensor, model: torch.nn.Module, inputs: dict[str, Any]) -> UserError:
        """Which image's loss, of (P,) losses, is no number."""
        place = int((~torch.isfinite(losses)).nonzero()[0])
        # The losses are of the prompts that are not padding, sample after sample.
        item = int(inputs["item"][inputs["prompt_valid"].nonzero()[place, 0]])
        image_id = (self.train_dataset if model.training else self.eval_dataset).image_id(item)
        return UserError(
            f"training: the loss is {losses[place].item()} for image '{image_id}' at step {self.state.global_step};"
            " look at that image and its masks, or lower learning_rate"
        )

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        self._leave_out_repeats(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def _record(self, split: str, metrics: dict[str, Tensor]) -> None:
        for name, values in metrics.items():
            values = values.detach().float()
            total = self._sums[split][name]
            total[0] += float(values.sum())
            total[1] += values.numel()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the metrics since the last call, averaged over prompts and processes."""
        split = "train" if "loss" in logs else "eval"
        is_summary = "train_runtime" in logs
        if self._sums[split] and not is_summary:
            names = sorted(self._sums[split])
            sums = torch.tensor([self._sums[split][name] for name in names], device=self.args.device)
            sums = self.accelerator.reduce(sums, "sum")
            self._sums[split].clear()
            prefix = "eval_" if split == "eval" else ""
            means = {f"{prefix}{name}": float(total / count) for name, (total, count) in zip(names, sums) if count}
            means.pop(f"{prefix}loss_terms/total")
            # In place: what `evaluate` returns is the same dictionary.
            logs.update(means)
            self.check_metrics(means, prefix)
        super().log(logs, start_time)

    def check_metrics(self, means: dict[str, float], prefix: str) -> None:
        """Warn about what the loss hides."""

    def predict(self, *args: Any, **kwargs: Any) -> PredictionOutput:
        """Not here: masks at the original size come from `visionsam_hf.evaluate_model` and `visionsam predict`."""
        raise NotImplementedError("use visionsam_hf.evaluate_model, or visionsam predict")


def prepare_model(
    model: str | SamModel, processing_class: SamProcessor | None, args: TrainingArguments
) -> tuple[SamModel, SamProcessor]:
    """The model and its processor, loaded when named."""
    if isinstance(model, str):
        processing_class = processing_class or load_processor(model)
        model = load_model(model, seed=args.seed)
    elif not isinstance(model, SamModel):
        raise UserError(f"model: {type(model).__name__} is not supported; give a SamModel or the name of one")
    if processing_class is None:
        raise UserError("processing_class: give the SamProcessor of the model, or the model by name")
    return model, processing_class


def prepare_cache(model: SamModel, processor: SamProcessor, args: Any) -> EmbeddingCache | None:
    """The embedding cache that the arguments name, on the device that will train."""
    if not args.embeddings:
        return None
    return open_cache(args, model.to(args.device), processor)


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
