"""`visionsam candidates` and `visionsam annotate oracle`: masks to be ranked, simulated annotators who rank them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datasets import Image
from tqdm.auto import tqdm

from visionsam_hf.cli.annotation_options import OracleSettings
from visionsam_hf.cli.options import CandidatesSettings
from visionsam_hf.cli.stage import counted, stage_run
from visionsam_hf.data.data_card import data_card, markdown_table
from visionsam_hf.data.dataset_directory import (
    load_split,
    split_names,
    write_card,
    write_preferences,
    write_splits,
)
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import as_plain, fingerprint
from visionsam_hf.data.schema import candidate_features, preference_features
from visionsam_hf.data.windows import choose_rule
from visionsam_hf.embeddings.cache import open_cache
from visionsam_hf.models.loading import load_model, load_processor, to_best_device
from visionsam_hf.preferences.candidates import Diversity, generate_candidates
from visionsam_hf.preferences.oracle import Habits, oracle_row
from visionsam_hf.preferences.preference_card import oracle_card
from visionsam_hf.preferences.preference_rows import told_ious, truth_of
from visionsam_hf.preferences.ranking_statistics import Tally
from visionsam_hf.preferences.task_order import ordered


def run(settings: CandidatesSettings) -> None:
    """Write the candidate set and record how much its candidates differ."""
    with stage_run("candidates", settings) as run:
        rows = {
            split: load_split(settings.dataset, split, kind="segmentation", config=settings.dataset_config)
            for split in settings.splits
        }
        model = to_best_device(load_model(settings.model_name_or_path))
        processor = load_processor(settings.model_name_or_path)
        cache = open_cache(settings, model, processor)
        rule = choose_rule(settings, processor)
        categories = next(iter(rows.values())).features["category"].names
        found = {split: Diversity() for split in rows}
        splits = {
            split: tqdm(
                generate_candidates(
                    model, processor, dataset, sources=settings.candidate_source, cache=cache, rule=rule,
                    max_prompts=settings.max_prompts, seed=settings.seed, diversity=found[split],
                ),
                desc=f"candidates {split}", unit="prompt", total=_prompts(dataset, settings.max_prompts),
            )
            for split, dataset in rows.items()
        }
        card = data_card(
            "candidates",
            title="Candidate masks to rank",
            summary="Three masks a prompt, proposed by a segmentation model; rank them with `visionsam annotate`.",
            creators=["machine-generated"],
            sections={
                "Sources of the masks": markdown_table(
                    ["setting", "value"], [["sources", ", ".join(settings.candidate_source)]]
                )
            },
        )
        write_splits(run.directory, splits, candidate_features(categories), card=card)
        run.results.update({split: diversity.summary() for split, diversity in found.items()})
        run.achieved = _told(Diversity.pooled(found.values()).summary())


def _told(of: dict[str, Any]) -> str:
    best = f"best of three IoU {of['best_of_three_iou']:.3f} against {of['single_iou']:.3f} of the model's own mask"
    return f"{of['prompts']} prompts, {best}; masks kept: {counted(of['sources'])}"


def _prompts(dataset: Any, max_prompts: int | None) -> int:
    total = sum(len(row["objects"]) for row in dataset.select_columns(["objects"]))
    return total if max_prompts is None else min(total, max_prompts)


class NoPairs(UserError):
    """All rankings tie from top to bottom."""


def run_oracle(settings: OracleSettings) -> None:
    """A candidate set in, a preference data set with the same splits out; `stage.json` says how they agreed.

    Raises:
        UserError: no split, a row without a truth, no row that leaves a pair.
    """
    with stage_run("annotate", settings) as run:
        datasets = load_candidates(settings.candidates, settings.splits)
        tallies = {split: Tally() for split in datasets}
        categories = next(iter(datasets.values())).features["category"].names
        plain = as_plain(settings)
        written = write_preferences(
            run.directory,
            {split: _oracle_rows(dataset, split, settings, tallies[split]) for split, dataset in datasets.items()},
            categories,
            card=oracle_card(settings.candidates, plain, {}),
        )
        if not any(written.values()):
            raise NoPairs(
                f"{settings.candidates}: every task ties from top to bottom, so there is no pair; "
                "generate candidates that differ more"
            )
        summaries = {split: tally.summary() for split, tally in tallies.items()}
        card = oracle_card(settings.candidates, plain, summaries)
        write_card(run.directory, card, preference_features(categories), written)
        run.results["splits"] = summaries
        if settings.store:
            _oracle_into_store(settings, datasets)
        run.results.update(Tally.pooled(tallies.values()).summary())
        run.achieved = told_pairs(run.results)


def told_pairs(of: Mapping[str, Any]) -> str:
    """What came of rankings in a few words, from a `Tally.summary`."""
    ties = f"{of['dropped_ties']} ties, {of['none_usable']} of them without a usable mask"
    told = f"{of['pairs']} pairs of {of['tasks']} tasks ({ties})"
    if of["chosen_iou"] is not None:
        told += f", {told_ious(of['chosen_iou'], of['rejected_iou'], of['share_worse_chosen'])}"
    return f"{told}; chosen: {counted(of['chosen_sources'])}"


def _oracle_rows(dataset: Any, split: str, settings: OracleSettings, tally: Any) -> Iterator[dict[str, Any]]:
    spent = 0.0
    for number in ordered(dataset, settings.order):
        if settings.minutes and spent >= 60 * settings.minutes * settings.annotators:
            return
        row = dataset[number]
        truth = truth_of(row)
        if truth is None:
            raise UserError(
                f"{settings.candidates}: row {number} of split '{split}' ({row['image_id']}) has no truth for the oracle "
                "to judge by; let people rank it (visionsam annotate serve)"
            )
        preference = oracle_row(
            row,
            truth,
            task=f"{split}/{number}",
            annotators=settings.annotators,
            noise=settings.noise,
            flip_rate=settings.flip_rate,
            seed=settings.seed,
            tally=tally,
            habits=_habits(settings),
        )
        spent = tally.seconds
        if preference is not None:
            yield preference


def _habits(settings: OracleSettings) -> Habits:
    return Habits(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Habits)})


def _oracle_into_store(settings: OracleSettings, datasets: dict[str, Any]) -> None:
    try:
        # Here, because they need the extra [annotate], and an oracle without a store does not.
        from visionsam_hf.annotation.database import open_engine
        from visionsam_hf.annotation.rounds import rows_of_rounds
        from visionsam_hf.annotation.store import Store
        from visionsam_hf.annotation.tasks import import_tasks, rank_in_store
    except ImportError as error:
        raise UserError(
            f"store: needs the package '{error.name}'; run, in the clone: pip install -e '.[annotate]'"
        ) from None

    engine = open_engine(settings.store, create=True)
    import_tasks(engine, settings.candidates, datasets, fingerprint(settings.candidates), overlap=settings.annotators)
    rank_in_store(
        Store(engine),
        rows_of_rounds(engine, datasets, load_candidates),
        annotators=settings.annotators,
        noise=settings.noise,
        flip_rate=settings.flip_rate,
        seed=settings.seed,
        habits=_habits(settings),
    )


def load_candidates(name_or_path: str, splits: Sequence[str] = ()) -> dict[str, Any]:
    """The candidate set's splits, with images left as bytes: they pass through, and are decoded where looked at."""
    found = {}
    for split in splits or split_names(name_or_path):
        dataset = load_split(name_or_path, split, kind="candidates")
        found[split] = dataset.cast_column("image", Image(decode=False)).cast_column("truth", Image(decode=False))
    if not found:
        raise UserError(f"{name_or_path}: holds no data set; give the directory that 'visionsam candidates' wrote")
    return found
