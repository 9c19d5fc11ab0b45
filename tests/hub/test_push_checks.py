"""What would be pushed: which files, with which card, and what is refused."""

import json
import re
import shutil

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from material import write_base, write_data, write_pairs
from safetensors.torch import load_file, save_file

from visionsam_hf.cli import command_line as cli
from visionsam_hf.data.data_card import split_front
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import fingerprint
from visionsam_hf.hub.checks import prepare
from visionsam_hf.hub.model_card import complete_model_card, model_card
from visionsam_hf.hub.provenance import base_on_hub, parts_of_record
from visionsam_hf.hub.results import find_results


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base model, data and pairs; tests copy what they change."""
    directory = tmp_path_factory.mktemp("made")
    write_base(directory / "base")
    write_data(directory / "data")
    write_pairs(directory / "pairs")
    return directory


@pytest.fixture
def base(made, tmp_path):
    return shutil.copytree(made / "base", tmp_path / "base")


def card_of(publication):
    return split_front(publication.files["README.md"].decode())


def test_leftovers_of_training_never_go(base):
    leftovers = (
        "checkpoint-3/optimizer.pt", "checkpoint-3/model.safetensors", "optimizer.pt", "training_args.bin",
        "scheduler.pt", "rng_state.pth", "pytorch_model.bin", "runs/events.out", "notes.txt", ".cache/x.json",
        "published.json",
    )
    for name in leftovers:
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes(b"x")
    publication = prepare(base, "me/base")
    assert sorted(publication.files) == ["README.md", "config.json", "model.safetensors", "processor_config.json"]
    assert publication.left_out == sorted(
        [".cache/", "checkpoint-3/", "notes.txt", "optimizer.pt", "pytorch_model.bin", "rng_state.pth", "runs/",
         "scheduler.pt", "training_args.bin"]
    )


def test_the_card_names_the_repository_and_nothing_else_of_it_changes(base):
    front, body = card_of(prepare(base, "me/base"))
    assert "Load me/base." in body and "path/to" not in body and front["license"] == "apache-2.0"
    assert "path/to/this/directory" in (base / "README.md").read_text()


def test_data_get_a_figure_and_keep_their_rows_as_files(made):
    for name, kind in (("data", "segmentation"), ("pairs", "preference")):
        publication = prepare(made / name, f"me/{name}")
        front, body = card_of(publication)
        assert publication.kind == kind and publication.repo_type == "dataset" and front["license"] == "cc-by-nc-4.0"
        assert publication.files["examples.png"].startswith(b"\x89PNG") and "](examples.png)" in body
        assert f'load_dataset("me/{name}")' in body
        shards = [path for path in publication.files if path.endswith(".parquet")]
        assert shards and all(publication.files[path] == made / name / path for path in shards)
    assert prepare(made / "data", "me/x").files["examples.png"] == prepare(made / "data", "me/x").files["examples.png"]


TOKEN = "mask_decoder.iou_token.weight"


def break_weights(directory, change):
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


def rewrite_card(directory, **front):
    card, body = split_front((directory / "README.md").read_text())
    (directory / "README.md").write_text(f"---\n{yaml.safe_dump(card | front)}---\n\n{body}")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: (path / "README.md").unlink(), "has no README.md; write a card"),
        (lambda path: rewrite_card(path, license="unknown"), "the licence is unknown"),
        (lambda path: rewrite_card(path, **{"model-index": [{"name": "x", "results": [{}]}]}), "its YAML is not valid"),
        (lambda path: (path / "README.md").write_text("---\nlicense: [mit\n---\n"), "its YAML is not valid"),
        (lambda path: (path / "README.md").write_text("---\n- mit\n---\n"), "its YAML is not valid"),
        (lambda path: (path / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda path: (path / "processor_config.json").unlink(), "has no processor"),
        (lambda path: break_weights(path, lambda found: found.pop(TOKEN)), f"lack {TOKEN} (1 in all)"),
        (lambda path: break_weights(path, lambda found: found[TOKEN].fill_(torch.nan)), f"{TOKEN} is not finite"),
        (lambda path: (path / "README.md").open("a").write("from /home/ann/x\n") and None, "names '/home/ann/x'"),
        (lambda path: shutil.rmtree(path), "no such directory"),
    ],
)
def test_what_is_not_fit_is_refused_in_one_line(base, spoil, words, capsys):
    spoil(base)
    assert cli.main(["push", str(base), "me/base", "--dry_run"]) == 2
    printed = capsys.readouterr()
    said = [line for line in printed.err.splitlines() if line and "it/s]" not in line]
    assert len(said) == 1 and words in said[0] and not printed.out


def test_an_unfinished_or_foreign_directory_is_refused(tmp_path):
    (tmp_path / "sft.partial").mkdir()
    with pytest.raises(UserError, match="is unfinished"):
        prepare(tmp_path / "sft.partial", "me/x")
    with pytest.raises(UserError, match="holds no model"):
        prepare(tmp_path, "me/x")


def test_an_adapter_needs_a_base_that_others_can_load(base):
    (base / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "outputs/mine/base"}))
    (base / "model.safetensors").rename(base / "adapter_model.safetensors")
    with pytest.raises(UserError, match="'outputs/mine/base' is not on the Hub.*--base_model"):
        prepare(base, "me/lora")
    publication = prepare(base, "me/lora", base_model="me/base")
    assert json.loads(publication.files["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    assert publication.kind == "adapter" and card_of(publication)[0]["base_model"] == "me/base"


def record(directory, **settings):
    """A stage.json in a directory, as sft writes it."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {"stage": "sft", "fingerprint": directory.name, "inputs": {}, "settings": settings}
    content |= {"versions": {"torch": "2"}, "results": {"steps": 10, "samples": 3}, "wall_seconds": 120.0}
    content |= {"hardware": {"cores": 2, "machine": "x86_64"}}
    (directory / "stage.json").write_text(json.dumps(content))
    return content


def test_licences_and_names_follow_the_chain_of_stages(made, tmp_path):
    sft = record(tmp_path / "sft", model_name_or_path="facebook/sam-vit-base", dataset=str(made / "data"))
    parts = parts_of_record(sft)
    assert [(part.name, part.hub_id, part.license) for part in parts] == [
        ("facebook/sam-vit-base", "facebook/sam-vit-base", "apache-2.0"), ("Stains on bolts", None, "cc-by-nc-4.0")
    ]
    dpo = record(tmp_path / "dpo", model_name_or_path=str(tmp_path / "sft"), dataset=str(made / "pairs"))
    assert base_on_hub(dpo) == "facebook/sam-vit-base"
    (tmp_path / "sft" / "published.json").write_text('{"repo_id": "me/sft"}')
    assert base_on_hub(dpo) == "me/sft"
    # No card beside the sft, so its licence is that of its parts.
    assert [part.license for part in parts_of_record(dpo)] == ["cc-by-nc-4.0", "cc-by-nc-4.0"]


def evaluation(directory, model, fingerprint, iou, *, dataset="me/parts", split="heldout"):
    directory.mkdir(parents=True)
    metrics = {"model": model, "dataset": dataset, "split": split, "prompt": "box", "selection": "single", "n": 7}
    metrics |= {"overall": {"iou": iou, "dice": iou + 0.1, "boundary_f": 0.5}}
    metrics |= {"intervals": {"iou": [iou - 0.1, iou + 0.1]}}
    (directory / "metrics.json").write_text(json.dumps(metrics))
    content = {
        "stage": "evaluate",
        "fingerprint": "e",
        "inputs": {model: fingerprint, dataset: dataset},
        "settings": {},
    }
    (directory / "stage.json").write_text(json.dumps(content))


def test_results_beside_a_model_are_found_by_its_fingerprint(tmp_path):
    made_from = record(tmp_path / "sft", model_name_or_path="facebook/sam-vit-base", dataset="me/data-set")
    evaluation(tmp_path / "evaluate" / "sft", "elsewhere/sft", "sft", 0.5)
    evaluation(tmp_path / "evaluate" / "sft-test", "elsewhere/sft", "sft", 0.6, split="test")
    evaluation(tmp_path / "evaluate" / "sam", "facebook/sam-vit-base", "hub", 0.3)
    evaluation(tmp_path / "evaluate" / "unrelated", "facebook/sam-vit-base", "hub", 0.9, dataset="me/other")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.json").write_text("{")
    results = find_results(tmp_path / "sft")
    assert sorted(result.metrics["overall"]["iou"] for result in results) == [0.3, 0.5, 0.6]
    assert [result.is_model for result in results] == [False, True, True]

    card = complete_model_card(model_card(made_from), made_from, results, name="me/sft", license="cc-by-4.0")
    front, body = split_front(str(card))
    assert front["base_model"] == "facebook/sam-vit-base" and front["base_model_relation"] == "finetune"
    assert front["datasets"] == ["me/data-set"]
    (index,) = front["model-index"]
    assert index["name"] == "sft" and len(index["results"]) == 2
    found = [(entry["dataset"]["split"], entry["metrics"][0]["value"]) for entry in index["results"]]
    assert found == [("heldout", 0.5), ("test", 0.6)]
    assert "**this model** | 7 | 0.500 [0.400, 0.600] | 0.600 | 0.500" in body and "sam-vit-base | 7 | 0.300" in body
    again = complete_model_card(card, made_from, results, name="me/sft", license="cc-by-4.0")
    assert str(again) == str(card)
    edited = ModelCard(str(card).replace("## Limits", "## My own words\nKept.\n\n## Limits"))
    completed = complete_model_card(edited, made_from, results[:1], name="me/sft", license="cc-by-4.0")
    assert "## My own words\nKept." in str(completed)


def test_a_non_commercial_part_is_said_in_words(tmp_path, made):
    content = record(tmp_path / "sft", model_name_or_path="facebook/sam-vit-base", dataset=str(made / "data"))
    front, body = split_front(str(model_card(content)))
    assert front["license"] == "cc-by-nc-4.0" and "**Not for commercial use:**" in body
    assert not re.search(r"\bNone\b", body)


def test_a_push_does_not_change_what_a_directory_is(base):
    before = fingerprint(base)
    (base / "published.json").write_text('{"repo_id": "me/base"}')
    assert fingerprint(base) == before
    (base / "config.json").write_text("{}")
    assert fingerprint(base) != before
