"""Preference optimisation: the prediction is compared with the mask people chose and the one they rejected."""

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import SamModel, SamProcessor

from visionsam_hf.data.files import written_file
from visionsam_hf.embeddings.cache import image_hash
from visionsam_hf.models.loading import image_side, mask_side
from visionsam_hf.training.configs import SamDPOConfig
from visionsam_hf.training.losses import (
    bernoulli_kl,
    dice_loss,
    mask_bce,
    mask_iou,
    plackett_luce_loss,
    preference_loss,
    preference_margin,
    ranking_loss,
)
from visionsam_hf.training.sam_trainer import SamTrainer, prepare_cache, prepare_tuned
from visionsam_hf.training.samples import PreferenceCollator, PreferenceSamples


def reference_key(model: torch.nn.Module, samples: PreferenceSamples, policy_token: str) -> str:
    """A hash of everything that the reference logits of preference samples depend on.

    Args:
        model: the reference, all of whose weights count.
        samples: images, boxes and tokens, in their order.
        policy_token: "single" or "candidate", as in `DPOSettings`.
    """
    digest = hashlib.sha256(policy_token.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    for item in samples.index:
        row = samples.masks[item]
        tokens = [candidate["token"] for candidate in row["candidates"]]
        digest.update(json.dumps([image_hash(samples.source.images[item]["image"]), row["box"], tokens]).encode())
    return digest.hexdigest()[:32]


# loss_type -> how the margin is normalised, and the loss of that margin.
_OBJECTIVES = {
    "paper": ("image", "sigmoid"),
    "dpo": ("none", "sigmoid"),
    "region": ("region", "sigmoid"),
    "ipo": ("region", "ipo"),
    "hinge": ("region", "hinge"),
    "robust": ("region", "robust"),
}
# No reference model: the paper's loss, and the chosen masks as demonstrations (rejection sampling).
_REFERENCE_FREE = ("paper", "sft")

_OF_A_PAIR = (
    "chosen", "rejected", "truth", "has_truth", "ranked", "ranks", "ranked_tokens", "tokens_ranked", "token", "item"
)  # fmt: skip


class SamDPOTrainer(SamTrainer):
    """Tunes SAM on ranked masks, in the manner of DPO.

    Args:
        model: a `SamModel`, or its directory, Hub id, or `visionsam-tiny`; or the name of a LoRA adapter. The
            reference is the model as given: for a new adapter, the model with the adapter switched off.
        args: a `SamDPOConfig`.
        train_dataset, eval_dataset: rows of the preference schema (`visionsam_hf.data.schema.preference_features`).
        processing_class: the model's `SamProcessor`; loaded beside a named model.
        kwargs: as `transformers.Trainer` takes them.

    Logs, as TRL does: `rewards/chosen`, `rewards/rejected`, `rewards/margins`, `rewards/accuracies`, `logps/chosen`,
    `logps/rejected`; and `region/size` (pixels of the logits' grid where the masks differ), `iou/chosen`.
    """

    def __init__(
        self,
        model: str | SamModel,
        args: SamDPOConfig,
        train_dataset: datasets.Dataset,
        eval_dataset: datasets.Dataset | None = None,
        processing_class: SamProcessor | None = None,
        **kwargs: Any,
    ) -> None:
        model, processor = prepare_tuned(
            model,
            processing_class,
            args,
            mask_output="single" if args.policy_token == "single" else "multi",
            scores=args.iou_weight > 0,
            prompt_kinds=["box"],
        )
        cache = prepare_cache(model, processor, args)
        common: dict[str, Any] = dict(
            image_side=image_side(model),
            mask_side=mask_side(model),
            cache=cache,
            target_resize=args.target_resize,
            rankings=args.loss_type == "plackett_luce",
        )
        train_samples, eval_samples = (
            PreferenceSamples(rows, processor, **common) if rows else None for rows in (train_dataset, eval_dataset)
        )
        super().__init__(
            model,
            args,
            processing_class=processor,
            data_collator=PreferenceCollator(),
            train_samples=train_samples,
            eval_samples=eval_samples,
            **kwargs,
        )
        self._reference: dict[str, np.ndarray] = {}
        if args.needs_reference:
            # Once, before the first step: no second model in memory, no second forward a step.
            for split, samples in (("train", train_samples), ("eval", eval_samples)):
                if samples is not None:
                    self._reference[split] = self._reference_logits(samples)

    @property
    def dropped_pairs(self) -> int:
        """Pairs left out because their masks are the same on the logits' grid."""
        return self.train_dataset.dropped

    @property
    def reference_files(self) -> list[Path]:
        """Where the reference's logits lie; empty for an objective without a reference."""
        return [Path(logits.filename) for logits in self._reference.values()]

    def _reference_logits(self, samples: PreferenceSamples) -> np.ndarray:
        """(n, S, S) float16 logits of the untouched model, memory-mapped.

        They lie beside the embeddings, where the next run on the same model and pairs finds them; without a cache in
        the output directory, for a run that is resumed.
        """
        args = self.args
        directory = Path(args.embeddings) / "reference" if args.embeddings else Path(args.output_dir)
        path = directory / f"reference_logits.{reference_key(self.model, samples, args.policy_token)}.npy"
        with self.args.main_process_first(local=False, desc="reference logits"):
            if self.is_world_process_zero() and not path.exists():
                with written_file(path) as temporary:
                    self._write_reference_logits(samples, temporary)
        return np.load(path, mmap_mode="r")

    def _write_reference_logits(self, samples: PreferenceSamples, path: Path) -> None:
        shape = (len(samples), samples.mask_side, samples.mask_side)
        stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        loader = torch.utils.data.DataLoader(
            samples, batch_size=self.args.per_device_eval_batch_size, collate_fn=self.data_collator
        )
        for batch in tqdm(loader, desc="reference", disable=self.args.disable_tqdm):
            with torch.no_grad():
                logits, _, _ = self.forward(self.model, self._prepare_inputs(batch))
            stored[batch["item"].cpu().numpy()] = self._policy_logits(logits, batch["token"]).cpu().numpy()
        stored.flush()

    def _policy_logits(self, logits: Tensor, token: Tensor) -> Tensor:
        """(B, 4, S, S) logits of every token to (B, S, S) of the one that is tuned."""
        if self.args.policy_token == "single":
            return logits[:, 0].float()
        return logits[torch.arange(len(logits), device=logits.device), token.to(logits.device)].float()

    def prompt_losses(self, model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        args: SamDPOConfig = self.args
        all_logits, scores, valid = self.forward(model, inputs)
        pairs = inputs["prompt_valid"][:, 0]  # without those that only fill up the last batch of several processes
        inputs = {**inputs, **{key: inputs[key][pairs] for key in _OF_A_PAIR if key in inputs}}
        logits = self._policy_logits(all_logits, inputs["token"])
        chosen, rejected = inputs["chosen"], inputs["rejected"]
        reference = None
        if args.needs_reference:
            stored = self._reference["train" if model.training else "eval"][inputs["item"].cpu().numpy()]
            reference = torch.from_numpy(stored).to(logits)
        compared = None if args.loss_type in _REFERENCE_FREE else reference

        if args.loss_type == "plackett_luce":
            losses = plackett_luce_loss(
                logits, inputs["ranked"], ranks=inputs["ranks"], reference_logits=compared, valid=valid, beta=args.beta
            )
            normalize = "region"
        elif args.loss_type == "sft":
            losses = mask_bce(logits, chosen, valid) + dice_loss(logits, chosen, valid)
            normalize = "region"
        else:
            normalize, form = _OBJECTIVES[args.loss_type]
        margin = preference_margin(
            logits,
            chosen,
            rejected,
            reference_logits=compared,
            valid=valid,
            normalize=normalize,
            exponent=args.region_exponent if args.loss_type in ("region", "robust") else 1.0,
        )
        if args.loss_type in _OBJECTIVES:
            losses = preference_loss(margin, loss_type=form, beta=args.beta, label_smoothing=args.label_smoothing)
        losses = losses + self._added_terms(args, inputs, logits, reference, scores, valid)
        with torch.no_grad():
            metrics = _preference_metrics(args.beta, margin, logits, compared, chosen, rejected, valid)
        return losses, metrics

    def _added_terms(
        self,
        args: SamDPOConfig,
        inputs: dict[str, Any],
        logits: Tensor,
        reference: Tensor | None,
        scores: Tensor,
        valid: Tensor,
    ) -> Tensor:
        chosen, rejected = inputs["chosen"], inputs["rejected"]
        terms = torch.zeros(len(logits), device=logits.device)
        if args.sft_weight:
            target = chosen
            if args.sft_target == "truth":
                target = torch.where(inputs["has_truth"][:, None, None], inputs["truth"], chosen)
            terms = terms + args.sft_weight * (mask_bce(logits, target, valid) + dice_loss(logits, target, valid))
        if args.kl_weight:
            terms = terms + args.kl_weight * bernoulli_kl(logits, reference, valid & (chosen == rejected))
        if args.iou_weight:
            if args.score_loss == "l1":
                predicted = scores.gather(1, self._token_index(inputs["token"]).unsqueeze(1)).squeeze(1).float()
                score_loss = (predicted - mask_iou(logits, chosen, valid)).abs()
            else:
                ranked_scores = scores.gather(1, inputs["ranked_tokens"])
                # Only candidates that are the three tokens' own masks say how the tokens' scores should be ordered.
                # Scores stay IoUs: at a temperature of 1 a sure ranking would need scores that are whole nats apart.
                score_loss = ranking_loss(ranked_scores / args.score_temperature, inputs["ranks"])
                score_loss = score_loss * inputs["tokens_ranked"]
            terms = terms + args.iou_weight * score_loss
        return terms

    def _token_index(self, token: Tensor) -> Tensor:
        return torch.zeros_like(token) if self.args.policy_token == "single" else token


def _preference_metrics(
    beta: float,
    margin: Tensor,
    logits: Tensor,
    reference: Tensor | None,
    chosen: Tensor,
    rejected: Tensor,
    valid: Tensor,
) -> dict[str, Tensor]:
    logps = {name: -mask_bce(logits, mask, valid) for name, mask in (("chosen", chosen), ("rejected", rejected))}
    rewards = logps
    if reference is not None:
        rewards = {
            "chosen": logps["chosen"] + mask_bce(reference, chosen, valid),
            "rejected": logps["rejected"] + mask_bce(reference, rejected, valid),
        }
    return {
        "rewards/chosen": beta * rewards["chosen"],
        "rewards/rejected": beta * rewards["rejected"],
        "rewards/margins": beta * margin,
        "rewards/accuracies": (margin > 0).float(),
        "logps/chosen": logps["chosen"],
        "logps/rejected": logps["rejected"],
        "region/size": ((chosen - rejected).abs() * valid).sum((-2, -1)),
        "iou/chosen": mask_iou(logits, chosen, valid),
    }
