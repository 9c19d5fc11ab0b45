"""Small directories as the stages write them: a base model, data, preferences, and models tuned on them."""

import os
from pathlib import Path

import numpy as np
from conftest import CATEGORIES, initialise, segmentation_rows, tiny_config, tiny_processor

from visionsam_hf.cli import command_line as cli
from visionsam_hf.data.data_card import data_card
from visionsam_hf.data.dataset_directory import write_preferences, write_splits
from visionsam_hf.data.masks import decode_rle, encode_mask, encode_rle
from visionsam_hf.data.schema import segmentation_features


def write_base(directory: Path, license: str = "apache-2.0") -> None:
    """A random SAM with its card."""
    initialise(tiny_config(), seed=0).save_pretrained(directory)
    tiny_processor().save_pretrained(directory)
    card = f"---\nlicense: {license}\nlibrary_name: transformers\n---\n# Random SAM\n\nLoad path/to/this/directory.\n"
    (directory / "README.md").write_text(card)


def write_data(directory: Path, license: str = "cc-by-nc-4.0") -> None:
    """A segmentation data set of discs."""
    rows = segmentation_rows()
    card = data_card("segmentation", title="Stains on bolts", summary="Drawn discs.", license=license)
    splits = {"train": rows, "validation": rows[:3], "heldout": rows[3:]}
    write_splits(directory, splits, segmentation_features(CATEGORIES), card=card)


def preference_rows(annotator: str = "annotator-1") -> list[dict]:
    """Each image's first disc, and the same disc moved, as chosen and rejected masks."""
    rows = []
    for row in segmentation_rows():
        truth = decode_rle(row["objects"][0]["rle"])
        moved = np.roll(truth, 6, axis=1)
        criteria = dict.fromkeys(("coverage", "boundary", "over_under", "noise"))
        rows.append(
            {name: row[name] for name in ("image", "image_id", "category")}
            | {"box": row["objects"][0]["box"], "object_index": 0, "margin": 1.0, "votes": 1}
            | {"chosen": encode_mask(truth), "rejected": encode_mask(moved), "truth": encode_mask(truth)}
            | {
                "candidates": [
                    {"rle": encode_rle(mask), "token": token, "score": 0.5, "mean_rank": float(token), **criteria}
                    for token, mask in enumerate((truth, moved), 1)
                ],
                "annotations": [
                    {"annotator": annotator, "kind": "human", "ranking": [1, 2], "deciding_criterion": None}
                    | {"seconds": 2.0, "rubric_version": "1"}
                ],
            }
        )
    return rows


def write_pairs(directory: Path, license: str = "cc-by-nc-4.0", annotator: str = "annotator-1") -> None:
    """A preference data set."""
    card = data_card("preference", title="Ranked stains", summary="Ranked by hand.", license=license)
    write_preferences(directory, {"train": preference_rows(annotator)}, CATEGORIES, card=card)


def visionsam(*words: object) -> None:
    """Run a command; an exit code is a failure."""
    code = cli.main([str(word) for word in words])
    assert code == 0, f"visionsam {' '.join(map(str, words))}: exit code {code}"


def write_all(directory: Path) -> None:
    """base, data, pairs, out/{sft,dpo} and out/evaluate/{base,sft} in a directory, which becomes the current one."""
    os.chdir(directory)
    write_base(Path("base"))
    write_data(Path("data"))
    write_pairs(Path("pairs"))
    train = ("--use_cpu", "true", "--logging_steps", 1, "--max_steps", 3, "--per_device_train_batch_size", 2)
    visionsam("sft", "--model_name_or_path", "base", "--dataset", "data", "--output_dir", "out/sft", *train)
    visionsam("dpo", "--model_name_or_path", "out/sft", "--dataset", "pairs", "--output_dir", "out/dpo", *train)
    for model in ("base", "out/sft"):
        output = f"out/evaluate/{Path(model).name}"
        visionsam("evaluate", "--model_name_or_path", model, "--dataset", "data", "--output_dir", output)
