"""What all trainings share: the model made ready, one forward for all mask tokens, exact averages."""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, SamModel, SamProcessor, TrainerCallback, TrainingArguments
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.windows import choose_rule, remember_rule
from visionsam_hf.embeddings.cache import open_cache
from visionsam_hf.models.decoder import bind_predict_tokens
from visionsam_hf.models.freezing import freeze, freeze_prompts_not_drawn
from visionsam_hf.models.loading import image_side, load_model, load_processor, mask_side
from visionsam_hf.models.lora import add_adapter, check_same_adapter, find_adapter, load_adapter
from visionsam_hf.training.progress import ReadableLines, ReadableProgress
from visionsam_hf.training.resuming import ResumableTrainer
from visionsam_hf.training.samples import ImageSource
from visionsam_hf.training.trainer_card import trainer_card

# The loss among the metrics; it is logged as Trainer's "loss".
_TOTAL = "loss_terms/total"


class _DrawPromptsAnew(TrainerCallback):
    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.samples.set_epoch(math.floor((state.epoch or 0) + 1e-6))


class SamTrainer(ResumableTrainer):
    """`transformers.Trainer` for promptable masks; `SamSFTTrainer`, `SamDPOTrainer` and `SamDistilTrainer` say what the loss is.

    The loss is a mean over the prompts of the whole accumulated batch on all processes, so it does not depend on how
    that batch is cut into pieces; in evaluation it is a mean over all prompts.

    Args:
        model: a `SamModel`, or its directory, Hub id, or `visionsam-tiny`; or the name of a LoRA adapter.
        args: the subclass's config; its defaults, in `trainer_output`, when None.
        train_dataset, eval_dataset: rows of the subclass's schema.
        peft_config: a `LoraConfig` whose rank, alpha and dropout an adapter takes; where it goes, `args.trainable` says.
        processing_class: the model's `SamProcessor`; loaded beside a named model. Trainer does not get it, as it takes
            every processor for one with a tokenizer; `_save` writes it.
        kwargs: as `transformers.Trainer` takes them.
    """

    # `compute_loss` divides by the prompts of the accumulated batch itself.
    loss_is_scaled_for_ga = True
    config: type = TrainingArguments
    # Cells a side that are averaged into one.
    pool = 1
    # The evaluation's metric by which a model is better, higher ones; the first of them that there is.
    judged_by: tuple[str, ...] = ("eval_iou",)
    # Samples to a batch.
    collator: Callable[[list], dict[str, Any]]

    def __init__(
        self,
        model: str | SamModel,
        args: Any = None,
        train_dataset: datasets.Dataset | None = None,
        eval_dataset: datasets.Dataset | None = None,
        processing_class: SamProcessor | None = None,
        peft_config: LoraConfig | None = None,
        **kwargs: Any,
    ) -> None:
        if train_dataset is None:
            raise UserError("train_dataset: give the rows to learn from")
        args = _with_lora(self.config() if args is None else args, peft_config)
        if args.eval_strategy != "no" and not eval_dataset:
            chosen = args.eval_strategy.value
            raise UserError(f"eval_strategy: {chosen} needs images to measure on; give eval_split, or set it to no")
        self.base_name = model if isinstance(model, str) else getattr(model, "name_or_path", "")
        model, self.processor = self._prepare(model, processing_class, args, train_dataset)
        self.rule = choose_rule(args, self.processor)
        self.processor = remember_rule(self.processor, self.rule)
        common = self._shown(model, args)
        train_samples = self._samples(train_dataset, args, training=True, **common)
        eval_samples = self._samples(eval_dataset, args, training=False, **common) if eval_dataset else None
        if args.device.type == "cuda":
            args.dataloader_pin_memory = True
        super().__init__(
            model=self._with_forward(model, args),
            args=args,
            data_collator=self.collator,
            train_dataset=train_samples,
            eval_dataset=eval_samples,
            **kwargs,
        )
        self.remove_callback(PrinterCallback if args.disable_tqdm else DEFAULT_PROGRESS_CALLBACK)
        self.add_callback(ReadableLines if args.disable_tqdm else ReadableProgress)
        # SamModel.forward has **kwargs, from which Trainer concludes that the model scales its own loss; it infers
        # label_names as ["input_labels"], which gives no evaluation loss.
        self.model_accepts_loss_kwargs = False
        self.label_names = ["prompt_valid"]
        sources = [samples.source for samples in (train_samples, eval_samples) if samples is not None]
        self._resident = keep_on_device(sources, args.device, args.embeddings_on_device)
        self._sums = {split: defaultdict(lambda: [0.0, 0]) for split in ("train", "eval")}
        if hasattr(train_samples, "set_epoch"):
            self.add_callback(_DrawPromptsAnew(train_samples))
        self._get_ready()

    def _get_ready(self) -> None:
        """Once all is in place: what the loss needs beside the model."""

    def _prepare(
        self, model: str | SamModel, processing_class: SamProcessor | None, args: Any, rows: datasets.Dataset
    ) -> tuple[SamModel | PeftModel, SamProcessor]:
        """The model that trains, and its processor."""
        return prepare_tuned(model, processing_class, args, **self._loss_sees(args, rows))

    def _shown(self, model: SamModel | PeftModel, args: Any) -> dict[str, Any]:
        """What the samples of both splits need to know."""
        # On the device that will train.
        cache = open_cache(args, model.to(args.device), self.processor) if args.embeddings else None
        return dict(
            processor=self.processor,
            image_side=image_side(model),
            mask_side=mask_side(model),
            cache=cache,
            rule=self.rule,
            target_resize=args.target_resize,
        )

    def _with_forward(self, model: SamModel | PeftModel, args: Any) -> SamModel | PeftModel:
        """The model whose `model(...)` is what the loss calls."""
        return bind_predict_tokens(model, fast=args.fast is not False, compiled=args.compile_decoder)

    def _loss_sees(self, args: Any, train_dataset: datasets.Dataset) -> dict[str, Any]:
        """Arguments of `prepare_tuned`, by which it knows what learns."""
        raise NotImplementedError

    def _samples(self, rows: datasets.Dataset, args: Any, *, training: bool, **common: Any) -> Any:
        """A split's samples."""
        raise NotImplementedError

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        self.processor.save_pretrained(output_dir or self.args.output_dir)
        self._write_card(output_dir or self.args.output_dir)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card beside the model, as `trainer_card` makes it; Trainer's own says nothing of prompts and windows."""
        if self.is_world_process_zero():
            self._write_card(self.args.output_dir)

    def _write_card(self, directory: str) -> None:
        trainer_card(self).save(Path(directory) / "README.md")

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
            image = {"image_embeddings": embeddings.float()}
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
        self._record("train" if model.training else "eval", {_TOTAL: losses, **metrics})
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
            total = self._sums[split][name]
            # Stays on the device until it is logged: reading it here would wait for every step.
            total[0] = total[0] + values.detach().sum(dtype=_widest(values.device))
            total[1] += values.numel()

    def _take_means(self, split: str, prefix: str) -> dict[str, float]:
        """The metrics recorded since the last call, averaged over prompts and processes."""
        names = sorted(self._sums[split])
        if not names:
            return {}
        kind = dict(dtype=_widest(self.args.device), device=self.args.device)
        totals, counts = zip(*(self._sums[split][name] for name in names))
        on_device = torch.stack([torch.as_tensor(total, **kind) for total in totals])
        summed = self.accelerator.reduce(torch.stack([on_device, torch.tensor(counts, **kind)], 1), "sum").tolist()
        self._sums[split].clear()
        return {f"{prefix}{name}": total / count for name, (total, count) in zip(names, summed) if count}

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Trainer's, with the metrics of `prompt_losses`, and with a loss that is a mean over prompts, not over batches."""
        self._sums["eval"].clear()  # of an evaluation that an error ended
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        means = self._take_means("eval", f"{metric_key_prefix}_")
        means[f"{metric_key_prefix}_loss"] = means.pop(f"{metric_key_prefix}_{_TOTAL}")
        output.metrics.update(means)
        self.check_metrics(means, f"{metric_key_prefix}_")
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the training's metrics since the last call, averaged over prompts and processes."""
        if "loss" in logs:
            means = self._take_means("train", "")
            means.pop(_TOTAL, None)
            logs.update(means)
            self.check_metrics(means, "")
        super().log(logs, start_time)

    def check_metrics(self, means: dict[str, float], prefix: str) -> None:
        """Warn about what the loss hides."""

    def predict(self, *args: Any, **kwargs: Any) -> PredictionOutput:
        """Not here: masks at the original size come from `visionsam_hf.evaluate_model` and `visionsam predict`."""
        raise NotImplementedError("use visionsam_hf.evaluate_model, or visionsam predict")


def _with_lora(args: Any, peft_config: LoraConfig | None) -> Any:
    """The arguments with an adapter as `peft_config` has it; themselves without one."""
    if peft_config is None:
        return args
    if peft_config.target_modules:
        raise UserError("peft_config: target_modules is not read; `trainable` in args says where the adapter goes")
    args = copy.copy(args)
    args.use_peft = True
    args.lora_r, args.lora_alpha, args.lora_dropout = peft_config.r, peft_config.lora_alpha, peft_config.lora_dropout
    args._check_adapter()
    return args


def prepare_model(
    model: str | SamModel, processing_class: SamProcessor | None, args: TrainingArguments
) -> tuple[SamModel, SamProcessor]:
    """The model and its processor, loaded when named."""
    if isinstance(model, str):
        processing_class = processing_class or load_processor(model)
        model = load_model(model)
    elif not isinstance(model, SamModel):
        raise UserError(f"model: {type(model).__name__} is not supported; give a SamModel or the name of one")
    if processing_class is None:
        raise UserError("processing_class: give the SamProcessor of the model, or the model by name")
    return model, processing_class


def prepare_tuned(
    model: str | SamModel,
    processing_class: SamProcessor | None,
    args: Any,
    *,
    mask_output: str,
    scores: bool,
    prompt_kinds: Sequence[str],
) -> tuple[SamModel | PeftModel, SamProcessor]:
    """The model and its processor, ready to train.

    Args:
        model: a `SamModel`, or the name of one, or of an adapter: with `use_peft` that adapter trains on, without it
            the two are merged and the model's own weights train.
        processing_class: loaded beside a named model when None.
        args: a config with the fields of `PromptTuningSettings`.
        mask_output, scores: what the loss sees, as `freeze` takes them.
        prompt_kinds: kinds of the prompts drawn in training.
    """
    if args.use_peft:
        return _with_adapter(model, processing_class, args)
    model, processor = prepare_model(model, processing_class, args)
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
    adapted = add_adapter(
        base, args.trainable, r=args.lora_r, alpha=args.lora_alpha, dropout=args.lora_dropout, seed=args.seed
    )
    return adapted, processor


def _widest(device: torch.device) -> torch.dtype:
    """The dtype for sums of many values: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


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
