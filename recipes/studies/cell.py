"""The work of one cell: stage 1 once, then every objective from the same model, the same pairs and the same cache."""

import copy
import functools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
from transformers import PrinterCallback, SamModel, SamProcessor

from studies.materials import RANKED, Fold, object_counts, share_labels
from studies.plan import SFT, Cell, Objective
from studies.scoring import score_model
from visionsam_hf.data.masks import decode_mask
from visionsam_hf.data.schema import preference_features
from visionsam_hf.data.settings import build_settings
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.preferences.candidates import Diversity, generate_candidates
from visionsam_hf.preferences.oracle import oracle_row
from visionsam_hf.preferences.ranking_statistics import Tally
from visionsam_hf.training.dpo_trainer import SamDPOConfig, SamDPOTrainer
from visionsam_hf.training.sft_trainer import SamSFTConfig, SamSFTTrainer

# Preference rows, None if every ranking ties; and what is to be told of them.
Pairs = tuple[datasets.Dataset | None, dict[str, Any]]


class CellWork:
    """Trains and measures the systems of one cell; what they share is made once, when it is first needed.

    Args:
        cell: of `evidence.plan`.
        fold: its rows.
        base: the model before stage 1; not changed.
        processor: the model's.
        cache: embeddings of every image of the fold.
        embeddings: the cache's directory, for the trainers.
        sft: fields of `SamSFTConfig`.
        objectives: by name, for those that start from another one.
        max_ranked: prompts a round that are ranked.
        noise: of the simulated annotators.
        scratch: an empty directory.
        drawn: see `generate_candidates`; cells share photographs.
    """

    def __init__(
        self,
        cell: Cell,
        fold: Fold,
        *,
        base: SamModel,
        processor: SamProcessor,
        cache: EmbeddingCache,
        embeddings: str,
        sft: Mapping[str, Any],
        objectives: Mapping[str, Objective],
        max_ranked: int | None,
        noise: float,
        scratch: Path,
        drawn: dict[tuple, dict[str, Any]],
    ) -> None:
        self.cell, self.fold, self.base, self.processor, self.cache = cell, fold, base, processor, cache
        self.embeddings, self.sft, self.objectives = embeddings, sft, objectives
        self.max_ranked, self.noise, self.scratch, self.drawn = max_ranked, noise, scratch, drawn
        self.masked, self.ranked = share_labels(fold.train, seed=cell.seed, masks=cell.masks, max_ranked=max_ranked)
        self._models: dict[str, tuple[SamModel, int]] = {}
        self._first_pairs: dict[tuple, Pairs] = {}
        self._references: set[Path] = set()

    def run(self, system: str) -> list[dict[str, Any]]:
        """What came out, a record a round: costs, how the candidates were, and `splits`, the prompts' scores.

        Args:
            system: SFT-SAM, or the name of an objective.
        """
        if system == SFT:
            started = time.perf_counter()
            model = self.sft_model
            record = {"cost": self._cost(0), "splits": self.measure(model)}
            return [record | {"seconds": round(time.perf_counter() - started, 2)}]
        return list(self._rounds(self.objectives[system]))

    @functools.cached_property
    def sft_model(self) -> SamModel:
        """The model after stage 1."""
        trainer = SamSFTTrainer(
            copy.deepcopy(self.base),
            build_settings(SamSFTConfig, self._arguments(self.sft)),
            self.masked,
            processing_class=self.processor,
        )
        return self._trained(trainer)

    def measure(self, model: SamModel) -> dict[str, Any]:
        """Scores of every split to measure on, and of the ranked images."""
        rows = {**self.fold.measured, RANKED: self.ranked}
        return {split: score_model(model, self.processor, rows[split], self.cache).as_json() for split in rows}

    def close(self) -> None:
        """Remove the reference logits of this cell's models, which nobody asks for again."""
        for path in self._references:
            path.unlink(missing_ok=True)

    def _rounds(self, objective: Objective) -> Iterator[dict[str, Any]]:
        model, rankings = self._start(objective.start)
        for number in range(1, objective.rounds + 1):
            started = time.perf_counter()
            pairs, found = self._pairs(model, objective, number)
            rankings += found["rankings"]
            if pairs is not None:
                model = self._optimise(model, objective, pairs)
            yield {
                "cost": self._cost(rankings),
                "candidates": found,
                "splits": self.measure(model),
                "seconds": round(time.perf_counter() - started, 2),
            }
        self._models[objective.name] = (model, rankings)

    def _start(self, name: str) -> tuple[SamModel, int]:
        """A model to go on from, and the rankings that went into it."""
        if name == "sam":
            return self.base, 0
        if name == "sft":
            return self.sft_model, 0
        if name not in self._models:
            for _ in self._rounds(self.objectives[name]):
                pass
        return self._models[name]

    def _pairs(self, model: SamModel, objective: Objective, number: int) -> Pairs:
        key = (objective.start, objective.sources)
        if number == 1 and key in self._first_pairs:
            return self._first_pairs[key]
        pairs = self._rank(model, objective.sources, number)
        if number == 1:
            self._first_pairs[key] = pairs
        return pairs

    def _rank(self, model: SamModel, sources: tuple[str, ...], number: int) -> Pairs:
        """Let the simulated annotators rank the model's own candidates."""
        diversity, tally = Diversity(), Tally()
        candidates = generate_candidates(
            model.eval(),
            self.processor,
            self.ranked,
            sources=sources,
            cache=self.cache,
            max_prompts=self.max_ranked,
            seed=1000 * self.cell.seed + number,
            diversity=diversity,
            drawn=self.drawn,
        )
        rows = []
        for row in candidates:
            preference = oracle_row(
                row,
                decode_mask(row["truth"]),
                task=f"{row['image_id']}/{row['object_index']}/{number}",
                annotators=self.cell.annotators,
                noise=self.noise,
                flip_rate=self.cell.flip_rate,
                seed=self.cell.seed,
                tally=tally,
            )
            rows += [preference] if preference is not None else []
        told, cost = diversity.summary(), tally.summary()
        found = {
            "rankings": cost["label_cost"]["rankings"],
            **{name: cost[name] for name in ("pairs", "mean_iou_gap", "share_worse_chosen")},
            **{name: told[name] for name in ("mean_pairwise_iou", "share_distinct", "best_of_three_minus_single")},
        }
        features = preference_features(self.ranked.features["category"].names)
        return (datasets.Dataset.from_list(rows, features=features) if rows else None), found

    def _optimise(self, model: SamModel, objective: Objective, pairs: datasets.Dataset) -> SamModel:
        arguments = build_settings(SamDPOConfig, self._arguments(objective.settings))
        trainer = SamDPOTrainer(copy.deepcopy(model), arguments, pairs, processing_class=self.processor)
        self._references |= set(trainer.reference_files)
        return self._trained(trainer)

    def _arguments(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        quiet = dict(disable_tqdm=True, logging_strategy="no", save_strategy="no", report_to="none")
        own = dict(output_dir=str(self.scratch), seed=self.cell.seed)
        own |= dict(embeddings=self.embeddings, embedding_dtype=self.cache.dtype)
        return {**settings, **quiet, **own}

    def _trained(self, trainer: Any) -> SamModel:
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return trainer.accelerator.unwrap_model(trainer.model).eval()

    def _cost(self, rankings: int) -> dict[str, int]:
        return {"images": len(self.masked), "masks": sum(object_counts(self.masked)), "rankings": rankings}
