"""A study of objectives. In a cell: stage 1 once, then every objective from the same model, pairs and cache."""

import functools
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
from transformers import SamModel

from studies.analysis import summarise
from studies.design import SFT, UNTRAINED, Cell, Objective, StudySettings, Task, chain, plan_cells, read_objectives
from studies.evidence_figures import write_figures
from studies.fitting import Base, fit
from studies.folds import RANKED, Fold, object_counts, share_labels
from studies.run_files import Results, score_model
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import decode_mask
from visionsam_hf.data.schema import preference_features
from visionsam_hf.data.settings import build_settings
from visionsam_hf.preferences.candidates import SOURCES, Diversity, generate_candidates
from visionsam_hf.preferences.oracle import Habits, oracle_row
from visionsam_hf.preferences.ranking_statistics import Tally
from visionsam_hf.preferences.task_order import ordered
from visionsam_hf.training.dpo_trainer import SamDPOConfig, SamDPOTrainer
from visionsam_hf.training.sft_trainer import SamSFTConfig, SamSFTTrainer

# Preference rows, None if every ranking ties; and what is to be told of them.
Pairs = tuple[datasets.Dataset | None, dict[str, Any]]
NOTHING = {"rankings": 0, "people_seconds": 0.0}
# What no model draws, kept while the process lives: `generate_candidates`.
_drawn: dict[tuple, dict[str, Any]] = {}


class ObjectiveStudy:
    """Objectives x seeds x folds, with the budget and the flip experiment.

    Raises:
        UserError: unknown or wrong training settings, before the first run.
    """

    untrained = UNTRAINED

    def __init__(self, settings: StudySettings) -> None:
        self.settings, self.folds = settings, settings.folds
        self.objectives = read_objectives(settings.objectives, settings.preference)
        build_settings(SamSFTConfig, settings.sft, source="sft")
        for objective in self.objectives.values():
            build_settings(SamDPOConfig, dict(objective.settings), source=f"objectives: {objective.name}")
            for source in objective.sources:
                if source not in SOURCES:
                    choices = ", ".join(SOURCES)
                    raise UserError(f"objectives: {objective.name} has the source '{source}'; choose {choices}")
        self.cells = plan_cells(settings)

    def describe(self, system: str, cell: Cell) -> dict[str, Any]:
        """What the result of a cell's system depends on, beside its data and the study's model."""
        described: dict[str, Any] = {"system": system, "cell": asdict(cell), "sft": self.settings.sft}
        described["max_ranked"] = self.settings.max_ranked
        if system != SFT:
            steps = [asdict(step) for step in chain(self.objectives, system)]
            for step in steps:
                if not step["people"]:
                    del step["people"]  # as in the runs from before there was any
            # What an objective is called changes nothing.
            described |= {"system": [{**step, "name": "", "start": ""} for step in steps], "start": steps[0]["start"]}
            described["noise"] = self.settings.noise
        return described

    def in_order(self, missing: list[Task]) -> list[Task]:
        """Which task is to be begun first."""
        return missing

    def check(self, cell: Cell, fold: Fold) -> None:
        """Refuse a cell before an hour of other cells."""
        share_labels(fold.train, seed=cell.seed, masks=cell.masks, max_ranked=self.settings.max_ranked)

    def untrained_rows(self, fold: Fold) -> dict[str, datasets.Dataset]:
        """On what the untrained systems answer: the cells rank different training images."""
        return {**fold.measured, RANKED: fold.train}

    def train(self, cell: Cell, fold: Fold, systems: tuple[str, ...], base: Base) -> Iterator[tuple[str, list]]:
        """Each system with its records, one a round."""
        work = CellWork(self, cell, fold, base)
        try:
            for system in systems:
                yield system, work.run(system)
        finally:
            work.close()

    def report(self, results: Results, directory: Path) -> dict[str, Any]:
        """What `evidence.json` holds; draws the figures."""
        evidence = summarise(results, self.settings)
        write_figures(evidence, directory)
        return evidence


class CellWork:
    """Trains and measures the systems of one cell; what they share is made once, when it is first needed.

    A record of a round tells the costs, how the candidates were, and `splits`, the prompts' scores.
    """

    def __init__(self, study: ObjectiveStudy, cell: Cell, fold: Fold, base: Base) -> None:
        self.settings, self.objectives = study.settings, study.objectives
        self.cell, self.fold, self.base = cell, fold, base
        limit = self.settings.max_ranked
        self.masked, self.ranked = share_labels(fold.train, seed=cell.seed, masks=cell.masks, max_ranked=limit)
        self._models: dict[str, tuple[SamModel, dict[str, float]]] = {}
        self._first_pairs: dict[tuple, Pairs] = {}
        self._references: set[Path] = set()

    def run(self, system: str) -> list[dict[str, Any]]:
        """The records of SFT-SAM, or of an objective by its name."""
        if system != SFT:
            return list(self._rounds(self.objectives[system]))
        started = time.perf_counter()
        return [self._record(self.sft_model, NOTHING, started)]

    @functools.cached_property
    def sft_model(self) -> SamModel:
        """The model after stage 1."""
        settings, seed = self.settings.sft, self.cell.seed
        return fit(SamSFTTrainer, SamSFTConfig, self.base, self.masked, settings, seed=seed)[0]

    def close(self) -> None:
        """Remove the reference logits of this cell's models, which nobody asks for again."""
        for path in self._references:
            path.unlink(missing_ok=True)

    def _record(self, model: SamModel, spent: dict[str, float], started: float) -> dict[str, Any]:
        rows = {**self.fold.measured, RANKED: self.ranked}
        base, cost = self.base, {"images": len(self.masked), "masks": sum(object_counts(self.masked))}
        return {
            "cost": {**cost, **spent},
            "splits": {name: score_model(model, base.processor, rows[name], base.cache).as_json() for name in rows},
            "seconds": round(time.perf_counter() - started, 2),
        }

    def _rounds(self, objective: Objective) -> Iterator[dict[str, Any]]:
        model, spent = self._start(objective.start)
        for number in range(1, objective.rounds + 1):
            started = time.perf_counter()
            pairs, found = self._pairs(model, objective, number)
            spent = {name: spent[name] + found[name] for name in spent}
            if pairs is not None:
                settings, seed = objective.settings, self.cell.seed
                model, trainer = fit(SamDPOTrainer, SamDPOConfig, self.base, pairs, settings, seed=seed, model=model)
                self._references |= set(trainer.reference_files)
            yield {**self._record(model, spent, started), "candidates": found}
        self._models[objective.name] = (model, spent)

    def _start(self, name: str) -> tuple[SamModel, dict[str, float]]:
        """A model to go on from, and the rankings and people's seconds that went into it."""
        if name == "sam":
            return self.base.model, NOTHING
        if name == "sft":
            return self.sft_model, NOTHING
        if name not in self._models:
            for _ in self._rounds(self.objectives[name]):
                pass
        return self._models[name]

    def _pairs(self, model: SamModel, objective: Objective, number: int) -> Pairs:
        key = (objective.start, objective.sources, *sorted(objective.people.items()))
        if number > 1:
            return self._rank(model, objective, number)
        if key not in self._first_pairs:
            self._first_pairs[key] = self._rank(model, objective, number)
        return self._first_pairs[key]

    def _rank(self, model: SamModel, objective: Objective, number: int) -> Pairs:
        """Let the simulated annotators rank the model's own candidates, in the objective's order and minutes."""
        diversity, tally = Diversity(), Tally()
        people = dict(objective.people)
        order, minutes = people.pop("order", "id"), people.pop("minutes", None)
        candidates = generate_candidates(
            model.eval(),
            self.base.processor,
            self.ranked,
            sources=objective.sources,
            cache=self.base.cache,
            max_prompts=self.settings.max_ranked,
            seed=1000 * self.cell.seed + number,
            diversity=diversity,
            drawn=_drawn,
        )
        rows = []
        # The images were drawn by lot, so "id" is chance.
        candidates = list(candidates)
        for place in ordered(candidates, order):
            if minutes is not None and tally.seconds >= 60 * minutes * self.cell.annotators:
                break
            row = candidates[place]
            preference = oracle_row(
                row,
                decode_mask(row["truth"]),
                task=f"{row['image_id']}/{row['object_index']}/{number}",
                annotators=self.cell.annotators,
                noise=self.settings.noise,
                flip_rate=self.cell.flip_rate,
                seed=self.cell.seed,
                tally=tally,
                habits=Habits(**people),
            )
            rows += [preference] if preference is not None else []
        told, cost = diversity.summary(), tally.summary()
        found = {
            "rankings": cost["label_cost"]["rankings"],
            "people_seconds": cost["label_cost"]["seconds"],
            **{name: cost[name] for name in ("pairs", "mean_iou_gap", "share_worse_chosen")},
            **{name: told[name] for name in ("mean_pairwise_iou", "share_distinct", "best_of_three_minus_single")},
        }
        features = preference_features(self.ranked.features["category"].names)
        return (datasets.Dataset.from_list(rows, features=features) if rows else None), found
