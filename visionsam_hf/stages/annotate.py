"""`visionsam annotate VERB`: settings and work of every verb."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from visionsam_hf.config import setting
from visionsam_hf.errors import UserError
from visionsam_hf.stage import stage_run


@dataclasses.dataclass
class OracleSettings:
    """Simulated annotators rank every candidate set by the truth."""

    candidates: str = setting("", "candidate set: a directory or a Hub id", required=True, input=True)
    output_dir: str = setting("", "where the preference data set goes", required=True)
    splits: list[str] = setting([], "splits to annotate; empty means all that the candidate set has")
    annotators: int = setting(3, "number of simulated annotators")
    noise: float = setting(0.05, "standard deviation of the noise on each criterion (criteria lie between 0 and 1)")
    flip_rate: float = setting(0.0, "chance that an annotator reverses a task's ranking")
    seed: int = setting(0, "seed of noise and flips")

    def __post_init__(self) -> None:
        if self.annotators < 1:
            raise UserError(f"key 'annotators' is {self.annotators}; give at least 1")
        if self.noise < 0:
            raise UserError(f"key 'noise' is {self.noise}; give 0 or more")
        if not 0 <= self.flip_rate <= 1:
            raise UserError(f"key 'flip_rate' is {self.flip_rate}; give a chance between 0 and 1")


def run_oracle(settings: OracleSettings) -> None:
    """A candidate set in, a preference data set with the same splits out; `stage.json` says how they agreed.

    Raises:
        UserError: no split, a row without a truth, no row that leaves a pair.
    """
    from visionsam_hf.annotation.card import oracle_card
    from visionsam_hf.annotation.tally import Tally
    from visionsam_hf.config import as_plain
    from visionsam_hf.data import write_card, write_splits
    from visionsam_hf.schema import preference_features

    with stage_run("annotate", settings) as run:
        datasets = _load_candidates(settings.candidates, settings.splits)
        tallies = {split: Tally() for split in datasets}
        features = preference_features(next(iter(datasets.values())).features["category"].names)
        plain = as_plain(settings)
        written = write_splits(
            run.directory,
            {split: _oracle_rows(dataset, split, settings, tallies[split]) for split, dataset in datasets.items()},
            features,
            card=oracle_card(settings.candidates, plain, {}),
        )
        if not any(written.values()):
            raise UserError(
                f"{settings.candidates}: every task ties from top to bottom, so there is no pair; "
                "generate candidates that differ more"
            )
        summaries = {split: tally.summary() for split, tally in tallies.items()}
        write_card(run.directory, oracle_card(settings.candidates, plain, summaries), features, written)
        run.results["splits"] = summaries
        run.results.update(Tally.pooled(tallies.values()).summary())


def _oracle_rows(dataset: Any, split: str, settings: OracleSettings, tally: Any) -> Iterator[dict[str, Any]]:
    import io

    import numpy as np
    from PIL import Image

    from visionsam_hf.annotation.export import candidate_masks, preference_row
    from visionsam_hf.annotation.oracle import annotate, criteria_table
    from visionsam_hf.annotation.ranking import identical_groups
    from visionsam_hf.schema import decode_mask

    for number, row in enumerate(dataset):
        if row["truth"] is None:
            raise UserError(
                f"{settings.candidates}: row {number} of split '{split}' ({row['image_id']}) has no truth for the oracle "
                "to judge by; let people rank it (visionsam annotate serve)"
            )
        masks = candidate_masks(row)
        truth = decode_mask(Image.open(io.BytesIO(row["truth"]["bytes"])))
        criteria = criteria_table(masks, truth)
        groups = identical_groups(np.stack(masks))
        annotations = [
            annotate(
                criteria,
                groups,
                annotator=annotator,
                task=f"{split}/{number}",
                seed=settings.seed,
                noise=settings.noise,
                flip_rate=settings.flip_rate,
            )
            for annotator in range(settings.annotators)
        ]
        preference, verdict = preference_row(row, annotations, criteria=criteria)
        ious = [float((mask & truth).sum() / max((mask | truth).sum(), 1)) for mask in masks]
        scores = [candidate["score"] for candidate in row["candidates"]]
        tally.add([annotation.ranking for annotation in annotations], verdict, scores, ious)
        if preference is not None:
            yield preference


def _load_candidates(name_or_path: str, splits: list[str]) -> dict[str, Any]:
    """The candidate set's splits, with images left as bytes: they pass through, and are decoded where looked at."""
    from datasets import Image

    from visionsam_hf.data import load_split, split_names
    from visionsam_hf.stage import looks_local

    if not splits and looks_local(name_or_path):
        splits = split_names(name_or_path)
        if not splits:
            raise UserError(f"{name_or_path}: holds no data set; give the directory that 'visionsam candidates' wrote")
    elif not splits:
        from datasets import get_dataset_split_names

        splits = get_dataset_split_names(name_or_path)
    found = {}
    for split in splits:
        dataset = load_split(name_or_path, split, kind="candidates")
        found[split] = dataset.cast_column("image", Image(decode=False)).cast_column("truth", Image(decode=False))
    return found


VERBS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "oracle": (OracleSettings, run_oracle),
}
