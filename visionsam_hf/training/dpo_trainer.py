"""Preference optimisation: the prediction is compared with the mask people chose and the one they rejected."""

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import TrainingArguments

from visionsam_hf.data.files import written_file
from visionsam_hf.embeddings.shards import REFERENCES, remove_stale_references
from visionsam_hf.training.hyperparameters import REFERENCE_FREE, DPOSettings, LossType
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
from visionsam_hf.training.sam_trainer import SamTrainer
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
        digest.update(json.dumps([samples.content_key(item), row["box"], tokens]).encode())
    return digest.hexdigest()[:32]


# loss_type -> how the logged margin is normalised, and the loss of that margin where the margin is the objective.
_OBJECTIVES = {
    "paper": ("image", "sigmoid"),
    "dpo": ("none", "sigmoid"),
    "region": ("region", "sigmoid"),
    "ipo": ("region", "ipo"),
    "hinge": ("region", "hinge"),
    "robust": ("region", "robust"),
    "plackett_luce": ("region", None),
    "sft": ("region", None),
}

_OF_A_PAIR = (
    "chosen", "rejected", "truth", "has_truth", "signs", "mended", "ranked", "ranks", "ranked_tokens", "tokens_ranked",
    "token", "item",
)  # fmt: skip


@dataclass
class SamDPOConfig(DPOSettings, TrainingArguments):
    """`TrainingArguments` with the settings of preference optimisation (see `DPOSettings`)."""

    def __post_init__(self) -> None:
        DPOSettings.__post_init__(self)
        TrainingArguments.__post_init__(self)


class SamDPOTrainer(SamTrainer):
    """Tunes SAM on ranked masks, in the manner of DPO, with a `SamDPOConfig`; its other arguments are those of `SamTrainer`.

    The reference is the model as given: for a new adapter, the model with the adapter switched off. The data sets hold
    rows of the preference schema (`visionsam_hf.data.schema.preference_features`).

    Logs, as TRL does: `rewards/chosen`, `rewards/rejected`, `rewards/margins`, `rewards/accuracies`, `logps/chosen`,
    `logps/rejected`; and `region/size` (pixels of the logits' grid where the masks differ), `iou/chosen`, `iou/truth` (of
    the rows that have one).
    """

    config = SamDPOConfig
    collator = PreferenceCollator()
    judged_by = ("eval_iou/truth", "eval_iou/chosen")

    def _get_ready(self) -> None:
        self._reference: dict[str, np.ndarray] = {}
        if self.args.needs_reference:
            # Once, before the first step: no second model in memory, no second forward a step.
            for split, samples in (("train", self.train_dataset), ("eval", self.eval_dataset)):
                if samples is not None:
                    self._reference[split] = self._reference_logits(samples)
            if self.is_world_process_zero():
                # What lies beside the embeddings serves other runs too; the output directory is this run's alone.
                days = {} if self.args.embeddings else {"unused_days": 0.0}
                remove_stale_references(self._reference_directory, keep=self.reference_files, **days)

    def _loss_sees(self, args: Any, train_dataset: datasets.Dataset) -> dict[str, Any]:
        tokens = _tuned_tokens(train_dataset, args.policy_token)
        return dict(mask_output=tokens, scores=args.iou_weight > 0, prompt_kinds=["box"])

    def _samples(self, rows: datasets.Dataset, args: Any, *, training: bool, **common: Any) -> PreferenceSamples:
        ranked = "plackett_luce" in args.objectives
        return PreferenceSamples(rows, rankings=ranked, regions=args.region_weight > 0, **common)

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
        key = reference_key(self.model, samples, self.args.policy_token)
        path = self._reference_directory / f"reference_logits.{key}.npy"
        with self.args.main_process_first(local=False, desc="reference logits"):
            if self.is_world_process_zero():
                if not path.exists():
                    with written_file(path) as temporary:
                        self._write_reference(temporary, samples)
                # The time of its last use, by which it is kept; many file systems do not count reading.
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return np.load(path, mmap_mode="r")

    @property
    def _reference_directory(self) -> Path:
        return Path(self.args.embeddings) / REFERENCES if self.args.embeddings else Path(self.args.output_dir)

    def _write_reference(self, path: Path, samples: PreferenceSamples) -> None:
        shape = (len(samples), samples.mask_side, samples.mask_side)
        stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        loader = DataLoader(samples, batch_size=self.args.per_device_eval_batch_size, collate_fn=self.data_collator)
        for batch in tqdm(loader, desc="reference", disable=self.args.disable_tqdm):
            with torch.no_grad():
                logits, _, _ = self.forward(self.model, self._prepare_inputs(batch))
            stored[batch["item"].cpu().numpy()] = self._of_policy(logits, batch["token"]).float().cpu().numpy()
        stored.flush()

    def _of_policy(self, values: Tensor, token: Tensor) -> Tensor:
        """Of (B, 4, ...) values of every token those of the one that is tuned, (B, ...)."""
        if self.args.policy_token == "single":
            return values[:, 0]
        return values[torch.arange(len(values), device=values.device), token.to(values.device)]

    def prompt_losses(self, model: torch.nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        args: SamDPOConfig = self.args
        all_logits, scores, valid = self.forward(model, inputs)
        pairs = inputs["prompt_valid"][:, 0]  # without those that only fill up the last batch of several processes
        inputs = {**inputs, **{key: inputs[key][pairs] for key in _OF_A_PAIR if key in inputs}}
        logits = self._of_policy(all_logits, inputs["token"]).float()
        chosen, rejected = inputs["chosen"], inputs["rejected"]
        reference = None
        if args.needs_reference:
            stored = self._reference["train" if model.training else "eval"][inputs["item"].cpu().numpy()]
            reference = torch.from_numpy(stored).to(logits)
        parts = {name: self._objective(name, inputs, logits, reference, valid) for name in args.objectives}
        losses = torch.stack([weight * parts[name][0] for name, weight in args.objectives.items()]).sum(0)
        losses = losses + self._added_terms(args, inputs, logits, reference, scores, valid)
        with torch.no_grad():
            first = next(iter(parts))
            margin, compared = parts[first][1], None if first in REFERENCE_FREE else reference
            metrics = _preference_metrics(args.beta, margin, logits, compared, chosen, rejected, valid)
            known = inputs["has_truth"]
            metrics["iou/truth"] = mask_iou(logits[known], inputs["truth"][known], valid[known])
        return losses, metrics

    def _objective(
        self, name: LossType, inputs: dict[str, Any], logits: Tensor, reference: Tensor | None, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One objective's loss of every pair, (P,), and the pairs' margins as that objective normalises them."""
        args: SamDPOConfig = self.args
        chosen, rejected = inputs["chosen"], inputs["rejected"]
        compared = None if name in REFERENCE_FREE else reference
        normalize, form = _OBJECTIVES[name]
        margin = preference_margin(
            logits,
            chosen,
            rejected,
            reference_logits=compared,
            valid=valid,
            normalize=normalize,
            exponent=args.region_exponent if name in ("region", "robust") else 1.0,
        )
        if form is not None:
            return preference_loss(margin, loss_type=form, beta=args.beta, label_smoothing=args.label_smoothing), margin
        if name == "plackett_luce":
            ranked, ranks = inputs["ranked"], inputs["ranks"]
            of_ranking = plackett_luce_loss(
                logits, ranked, ranks=ranks, reference_logits=compared, valid=valid, beta=args.beta
            )
            return of_ranking, margin
        target = inputs.get("mended", chosen)
        return mask_bce(logits, target, valid) + dice_loss(logits, target, valid), margin

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
            target = inputs.get("mended", chosen)
            if args.sft_target == "truth":
                target = torch.where(inputs["has_truth"][:, None, None], inputs["truth"], target)
            terms = terms + args.sft_weight * (mask_bce(logits, target, valid) + dice_loss(logits, target, valid))
        unspoken = chosen == rejected
        if args.region_weight:
            terms = terms + args.region_weight * critique_loss(logits, inputs["signs"], valid)
            unspoken &= inputs["signs"] == 0
        if args.kl_weight:
            terms = terms + args.kl_weight * bernoulli_kl(logits, reference, valid & unspoken)
        if args.iou_weight:
            if args.score_loss == "l1":
                predicted = self._of_policy(scores, inputs["token"]).float()
                score_loss = (predicted - mask_iou(logits, chosen, valid)).abs()
            else:
                ranked_scores = scores.gather(1, inputs["ranked_tokens"])
                # Only candidates that are the three tokens' own masks say how the tokens' scores should be ordered.
                # Scores stay IoUs: at a temperature of 1 a sure ranking would need scores that are whole nats apart.
                score_loss = ranking_loss(ranked_scores / args.score_temperature, inputs["ranks"])
                score_loss = score_loss * inputs["tokens_ranked"]
            terms = terms + args.iou_weight * score_loss
        return terms


def _tuned_tokens(rows: datasets.Dataset, policy_token: str) -> str:
    """Which tokens' own layers learn, as `freeze` takes them. A candidate that no token made counts as token 0's."""
    if policy_token == "single":
        return "single"
    tokens = {int(row["candidates"][0]["token"]) for row in rows.select_columns(["candidates"])}
    return "single" if tokens == {0} else "both" if 0 in tokens else "multi"


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
