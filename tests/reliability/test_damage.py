"""Bytes flipped and cut off in what the stages keep: checkpoints, embeddings, weights, records, the annotation store."""

import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.datasets_builders.huge_png import huge_png
from tests.reliability.counts import is_long, record
from tests.reliability.fixtures import project  # noqa: F401
from tests.reliability.forked import fork
from tests.reliability.test_full_disks import one_line
from tests.reliability.test_interrupts import patched
from tests.reliability.tiny_project import cached_embeddings, snapshot, strays
from visionsam_hf.cli import command_line as cli

# ruff: noqa: F811
DAMAGES = 10 if is_long("soak") else 2
counted: dict[str, int] = {}


def damage(path: Path, rng: random.Random) -> None:
    """Flip a bit, or cut the end off."""
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    if rng.random() < 0.5:
        content[place] ^= 1 << rng.randrange(8)
    else:
        del content[place:]
    path.write_bytes(content)


def count(what: str) -> None:
    counted[what] = counted.get(what, 0) + 1
    record("damage", counted)


def run(command, tmp_path):
    return fork(lambda: cli.main([str(word) for word in command]), log=tmp_path / "log")


def test_a_damaged_checkpoint_is_passed_over(project, tmp_path):
    """The training goes on from the one before it, and ends with the same bytes."""
    out, kept = tmp_path / "out", tmp_path / "kept"
    command = project.commands(out)["sft"]
    assert run(command, tmp_path).code == 0
    wanted = snapshot(out)
    shutil.rmtree(out)
    killed = fork(patched(command, 5, lambda *_: os.kill(os.getpid(), signal.SIGKILL)), log=tmp_path / "log")
    assert killed.code == -9
    shutil.copytree(out, kept)
    files = sorted(path.name for path in (out / "result.partial" / "checkpoint-4").iterdir())
    rng = random.Random(0)
    for name in rng.sample(files, min(DAMAGES, len(files))):
        shutil.rmtree(out)
        shutil.copytree(kept, out)
        damage(out / "result.partial" / "checkpoint-4" / name, rng)
        ending = run(command, tmp_path)
        assert ending.code == 0 and "checkpoint-4: is unfinished or damaged" in ending.text, (name, ending.text)
        assert snapshot(out) == wanted, name
        count("checkpoints")


def test_damaged_embeddings_are_encoded_again(project, tmp_path):
    out = tmp_path / "out"
    command = project.commands(out)["embed"]
    assert run(command, tmp_path).code == 0
    wanted = cached_embeddings(out / "cache", project)
    rng = random.Random(1)
    for _ in range(DAMAGES):
        damage(rng.choice(sorted((out / "cache").rglob("*.safetensors"))), rng)
        ending = run(command, tmp_path)
        assert ending.code == 0, ending.text
        assert cached_embeddings(out / "cache", project) == wanted
        count("embedding shards")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "processor_config.json"])
def test_a_damaged_model_is_one_line_or_still_a_model(name, project, tmp_path):
    rng = random.Random(name)
    for place in range(DAMAGES):
        model, out = tmp_path / f"model{place}", tmp_path / f"out{place}"
        shutil.copytree(project.model, model)
        damage(model / name, rng)
        command = ["evaluate", "--model_name_or_path", model, "--dataset", project.data, "--output_dir", out]
        ending = run(command, tmp_path)
        # A flipped bit of a weight leaves a number; only the file's frame can be seen to be damaged.
        assert ending.code == 0 or one_line(ending, str(model)), ending.text
        count("models")


def test_a_damaged_record_is_not_taken_for_a_finished_stage(project, tmp_path):
    out = tmp_path / "out"
    command = project.commands(out)["inspect"]
    assert run(command, tmp_path).code == 0
    wanted = snapshot(out)
    for place in range(DAMAGES):
        damage(out / "result" / "stage.json", random.Random(place))
        ending = run([*command, "--replace"], tmp_path)  # the damage may look like another setting
        assert ending.code == 0 and snapshot(out) == wanted, ending.text
        count("records")


def test_a_damaged_store_is_one_line_or_still_answers(project, tmp_path):
    pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
    store = tmp_path / "store.sqlite"
    command = [
        "annotate",
        "oracle",
        "--candidates",
        project.candidates,
        "--store",
        store,
        "--output_dir",
        tmp_path / "oracle",
    ]
    assert run(command, tmp_path).code == 0, (tmp_path / "log").read_text()
    rng = random.Random(2)
    for place in range(DAMAGES):
        copy = tmp_path / f"{place}.sqlite"
        shutil.copy(store, copy)
        damage(copy, rng)
        ending = run(["annotate", "stats", "--store", copy, "--output_dir", tmp_path / f"stats{place}"], tmp_path)
        assert ending.code == 0 or one_line(ending, copy.name), ending.text
        count("stores")


def test_an_image_that_says_it_is_huge_takes_no_memory(project, tmp_path):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(huge_png(60_000, 60_000))
    (tmp_path / "folder" / "images").mkdir(parents=True)
    (tmp_path / "folder" / "masks").mkdir()
    for kind in ("images", "masks"):
        shutil.copy(bomb, tmp_path / "folder" / kind / "a.png")
    one_line(
        run(
            ["predict", "--model", project.model, "--image", bomb, "--point", 1, 1, "--output", tmp_path / "p"],
            tmp_path,
        ),
        "bomb.png",
    )
    one_line(
        run(["build", "masks", "--data_dir", tmp_path / "folder", "--output_dir", tmp_path / "b"], tmp_path), "a.png"
    )
    assert list(strays(tmp_path)) == []
