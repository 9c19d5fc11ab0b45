"""`visionsam candidates CONFIG`: three masks a prompt from a model, to be ranked."""

from dataclasses import dataclass
from typing import Any

from visionsam_hf.data.settings import setting
from visionsam_hf.embeddings.cache_settings import CacheSettings


@dataclass
class CandidatesSettings(CacheSettings):
    """Settings of candidate generation."""

    model_name_or_path: str = setting("", "model that proposes", required=True, input=True)
    dataset: str = setting("", "segmentation data set: a directory or a Hub id", required=True, input=True)
    splits: list[str] = setting(["train"], "splits to propose masks for; never the held-out one")
    candidate_source: list[str] = setting(
        ["tokens"], "where masks come from: tokens (the paper), thresholds, box_jitter, dropout, grabcut, otsu, shapes"
    )
    max_prompts: int | None = setting(None, "stop after so many prompts a split (default: all)")
    output_dir: str = setting("", "directory of the candidate set", required=True)
    seed: int = setting(0, "seed of jitter and dropout")


def run(settings: CandidatesSettings) -> None:
    """Write the candidate set and record how much its candidates differ."""
    from tqdm.auto import tqdm

    from visionsam_hf.cli.run import stage_run
    from visionsam_hf.data.data_card import data_card, markdown_table
    from visionsam_hf.data.dataset_directory import load_split, write_splits
    from visionsam_hf.data.schema import candidate_features
    from visionsam_hf.embeddings.cache import open_cache
    from visionsam_hf.models.loading import load_model, load_processor, to_best_device
    from visionsam_hf.preferences.candidates import Diversity, generate_candidates

    with stage_run("candidates", settings) as run:
        rows = {split: load_split(settings.dataset, split, kind="segmentation") for split in settings.splits}
        model = to_best_device(load_model(settings.model_name_or_path))
        processor = load_processor(settings.model_name_or_path)
        cache = open_cache(settings, model, processor)
        categories = next(iter(rows.values())).features["category"].names
        found = {split: Diversity() for split in rows}
        splits = {
            split: tqdm(
                generate_candidates(
                    model, processor, dataset, sources=settings.candidate_source, cache=cache,
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


def _prompts(dataset: Any, max_prompts: int | None) -> int:
    total = sum(len(row["objects"]) for row in dataset.select_columns(["objects"]))
    return total if max_prompts is None else min(total, max_prompts)
