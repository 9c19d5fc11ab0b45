"""A whole project in small: every stage's inputs on a random SAM for 64-pixel images, and the command of each stage."""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from conftest import CATEGORIES, SIDE, initialise, photograph, segmentation_rows, tiny_config, tiny_processor

from tests.reliability.forked import fork
from visionsam_hf.cli import command_line as cli
from visionsam_hf.data.dataset_directory import write_splits
from visionsam_hf.data.masks import encode_mask
from visionsam_hf.data.schema import segmentation_features

# What depends on the clock or on the machine's load, not on the work.
_TIMES = {"wall_seconds", "peak_memory_mb", "finished", "seconds", "samples_per_second", "output_dir", "logging_dir"}
_TIMES |= {"train_runtime", "train_samples_per_second", "train_steps_per_second", "images_per_second", "directory"}
_TIMES |= {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "prompts_per_second"}
_TIMES |= {"seconds_fitting", "seconds_choosing", "eval_model_preparation_time"}
_TIMES |= {"encoded"}  # how many images this run had to encode itself: a repeat finds those of the killed one


@dataclass(frozen=True)
class Project:
    """Where the inputs of the stages lie; they stay as they are."""

    root: Path

    def __getattr__(self, name: str) -> str:
        return str(self.root / name)

    def commands(self, out: Path) -> dict[str, list[str]]:
        """Stage -> the words of its command, which writes `out / "result"`."""
        result = ["--output_dir", str(out / "result")]
        model, data = ["--model_name_or_path", self.model], ["--dataset", self.data]
        train = [
            "--max_steps",
            "7",
            "--per_device_train_batch_size",
            "2",
            "--use_cpu",
            "true",
            "--learning_rate",
            "1e-3",
            "--save_strategy",
            "steps",
            "--save_steps",
            "2",
            "--logging_steps",
            "3",
            "--save_total_limit",
            "2",
            "--disable_tqdm",
            "true",
        ]
        return {
            "build masks": ["build", "masks", "--data_dir", self.folder, "--num_proc", "1", *result],
            "build synthetic": ["build", "synthetic", "--image_size", "64", "--images", "{train: 3, test: 2}", *result],
            "curate": ["curate", *data, "--count", "3", *result],
            "inspect": ["inspect", self.data, *result],
            "embed": ["embed", *model, *data, "--embeddings", str(out / "cache"), *result],
            "sft": [
                "sft",
                *model,
                *data,
                *train,
                "--box_jitter",
                "0.1",
                "--prompt_mix",
                "{box: 1, point: 1}",
                "--w_dice",
                "1",
                *result,
            ],
            "distil": [
                *("distil", *model, *data, *train, "--embeddings", str(out / "cache"), "--vision_config"),
                "{image_size: 32, patch_size: 8, hidden_size: 16, num_attention_heads: 2, num_hidden_layers: 1}",
                *("--crops", "1", "--eval_share", "0.4", *result),
            ],
            "candidates": [
                "candidates",
                *model,
                *data,
                "--splits",
                "[train]",
                "--candidate_source",
                "tokens",
                "box_jitter",
                *result,
            ],
            "annotate oracle": ["annotate", "oracle", "--candidates", self.candidates, *result],
            "dpo": ["dpo", *model, "--dataset", self.preferences, *train, *result],
            "evaluate": ["evaluate", *model, *data, "--split", "heldout", *result],
            "find": [
                "find", *model, "--dataset", self.parts, "--folds", "2", "--bank_size", "50", "--eval_split", "null", *result,
            ],
            "evaluate --finder": ["evaluate", *model, "--dataset", self.parts, "--finder", self.finder, *result],
            "predict --finder": [
                "predict", "--model", self.model, "--image", str(self.root / "folder" / "images"), "--finder", self.finder,
                "--output", str(out / "result"),
            ],
            "report": [
                "report",
                "--systems",
                json.dumps({"SAM": [self.evaluation]}),
                "--dataset",
                self.data,
                "--candidates",
                self.candidates,
                "--preferences",
                self.preferences,
                *result,
            ],
        }  # fmt: skip


def make_project(root: Path) -> Project:
    """Write the inputs; a few seconds."""
    project = Project(root)
    rows = segmentation_rows(8)
    splits = {"train": rows, "validation": rows[:2], "heldout": segmentation_rows(4, seed=1)}
    write_splits(root / "data", splits, segmentation_features(CATEGORIES), card="---\n---\n")
    parts = rows + [_good(number) for number in range(8)]
    write_splits(root / "parts", {"train": parts, "test": parts}, segmentation_features(CATEGORIES), card="---\n---\n")
    initialise(tiny_config(SIDE), seed=0).save_pretrained(root / "model")
    tiny_processor().save_pretrained(root / "model")
    for row in rows:
        for kind in ("image", "mask"):
            folder = root / "folder" / f"{kind}s" / row["category"]
            folder.mkdir(parents=True, exist_ok=True)
            row[kind].save(folder / f"{row['image_id']}.png")
    made = {"candidates": "candidates", "annotate oracle": "preferences", "evaluate": "evaluation", "find": "finder"}
    for stage, name in made.items():
        with contextlib.redirect_stderr(io.StringIO()):
            assert cli.main(project.commands(root / "made" / name)[stage]) == 0, stage
        (root / "made" / name / "result").rename(root / name)
    return project


def _good(number: int) -> dict[str, Any]:
    nothing = np.zeros((64, 64), bool)
    row = {"image": photograph(nothing, 500 + number), "mask": encode_mask(nothing), "image_id": f"good-{number}"}
    return {**row, "source": "test", "category": CATEGORIES[0], "defective": False, "objects": []}


def snapshot(directory: Path) -> dict[str, Any]:
    """What a stage left, file by file: the bytes, and of JSON files the values that no clock decides.

    Paths of the project's own directories become `OUT`; a fingerprint over timings is left out.
    """
    found: dict[str, Any] = {}
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = file.relative_to(directory).as_posix()
        if name.startswith("cache/"):
            continue  # `cached_embeddings` compares it
        content = file.read_bytes().replace(str(directory).encode(), b"OUT")
        if file.suffix == ".json":
            values = _without_times(json.loads(content))
            if (file.parent / "trainer_state.json").is_file() and isinstance(values, dict):
                values.pop("fingerprint", None)
            found[name] = values
        else:
            found[name] = content
    return found


def cached_embeddings(directory: Path, project: Project) -> dict[str, str]:
    """The hash of every embedding of a cache by its image, whatever shards they lie in."""
    from visionsam_hf.data.dataset_directory import load_split
    from visionsam_hf.embeddings.cache import EmbeddingCache
    from visionsam_hf.models.loading import load_model, load_processor

    found = directory.with_name("hashes.json")

    def read() -> int:
        cache = EmbeddingCache(directory, load_model(project.model), load_processor(project.model))
        rows = load_split(project.data, "train", kind="segmentation")
        hashes = {key: hashlib.sha256(cache[key].numpy().tobytes()).hexdigest() for key in cache.keys(rows)}
        found.write_text(json.dumps(hashes))
        return 0

    # In a fork: see `fixtures.project`.
    ending = fork(read, log=directory.with_name("hashes.log"))
    assert ending.code == 0, ending.text
    hashes = json.loads(found.read_text())
    found.unlink()
    return hashes


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in _TIMES}
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    return value


def strays(directory: Path) -> Iterator[str]:
    """Whatever only an unfinished run may have: unfinished directories, locks, temporary files."""
    for path in directory.rglob("*"):
        if path.name.endswith((".partial", ".old", ".lock", ".tmp", ".writing")) or path.name.startswith(
            (".cache-", ".unpacking")
        ):
            yield path.relative_to(directory).as_posix()
