"""Saved adapters: found, named by their base, and refused in one line when they cannot be used."""

import json

import pytest
import torch
from closeness import assert_close
from conftest import disc, initialise, photograph, tiny_config
from safetensors.torch import save_file
from transformers import SamModel

from visionsam_hf.cli import command_line as cli
from visionsam_hf.data.errors import UserError
from visionsam_hf.models.loading import load_model, load_processor, save_model
from visionsam_hf.models.lora import add_adapter, find_adapter


@pytest.fixture
def adapter_dir(tmp_path, model_dir, processor):
    """An adapter of `model_dir` that changes something."""
    adapted = add_adapter(load_model(str(model_dir)), "mask_decoder", r=2, alpha=4, dropout=0.0, seed=0)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    save_model(adapted, processor, tmp_path / "adapter")
    return tmp_path / "adapter"


def change(directory, **values):
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_new_adapter_changes_nothing_and_is_drawn_from_the_seed(model):
    pixels, boxes = torch.zeros(1, 3, 64, 64), torch.tensor([[[4.0, 6, 40, 50]]])
    with torch.no_grad():
        before = model(pixel_values=pixels, input_boxes=boxes).pred_masks
        state = torch.random.get_rng_state()
        adapted = add_adapter(model, "mask_decoder", r=2, alpha=4, dropout=0.0, seed=3)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert_close(adapted(pixel_values=pixels, input_boxes=boxes).pred_masks, before)
    again = add_adapter(initialise(tiny_config(), seed=0), "mask_decoder", r=2, alpha=4, dropout=0.0, seed=3)
    other = add_adapter(initialise(tiny_config(), seed=0), "mask_decoder", r=2, alpha=4, dropout=0.0, seed=4)
    first = {name: value for name, value in adapted.named_parameters() if "lora_A" in name}
    assert first and all(torch.equal(value, again.state_dict()[name]) for name, value in first.items())
    assert not any(torch.equal(value, other.state_dict()[name]) for name, value in first.items())


def test_whole_models_are_no_adapters(model_dir, tmp_path):
    assert find_adapter(str(model_dir)) is None
    assert find_adapter(str(tmp_path / "nothing")) is None
    assert find_adapter("visionsam-tiny") is None


def test_the_packaged_base_is_saved_by_name(tmp_path):
    base = load_model("visionsam-tiny")
    save_model(
        add_adapter(base, "mask_decoder", r=1, alpha=1, dropout=0.0, seed=0), load_processor("visionsam-tiny"), tmp_path
    )
    assert find_adapter(str(tmp_path)).base_model_name_or_path == "visionsam-tiny"
    assert type(load_model(str(tmp_path))) is SamModel


def test_merge_writes_a_plain_model(adapter_dir, model_dir, tmp_path, capsys):
    assert cli.main(["merge", str(adapter_dir), "--output_dir", str(tmp_path / "merged")]) == 0
    merged, base = (SamModel.from_pretrained(path).state_dict() for path in (tmp_path / "merged", model_dir))
    moved = {name for name, value in merged.items() if not torch.equal(value, base[name])}
    assert moved and all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in moved)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    record = json.loads((tmp_path / "merged" / "stage.json").read_text())
    assert record["results"] == {"base_model": str(model_dir), "window": "the whole photograph"}
    assert cli.main(["merge", str(model_dir), "--output_dir", str(tmp_path / "no")]) == 2
    assert "nothing to merge" in capsys.readouterr().err


def test_commands_take_an_adapter_where_they_take_a_model(adapter_dir, tmp_path, capsys):
    photograph(disc(48, 64, 30, 24, 10), 0).save(tmp_path / "part.png")
    arguments = ["--image", str(tmp_path / "part.png"), "--box", "10", "5", "40", "45"]
    answers = []
    for name, model in (("adapted", adapter_dir), ("merged", tmp_path / "merged")):
        if name == "merged":
            assert cli.main(["merge", str(adapter_dir), "--output_dir", str(model)]) == 0
        assert cli.main(["predict", "--model", str(model), *arguments, "--output", str(tmp_path / "answers" / name)]) == 0
        answer = json.loads(capsys.readouterr().out)
        answers.append({key: value for key, value in answer.items() if key != "output"})
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda d: (d / "adapter_config.json").write_text("{}"), "cannot be read"),
        (lambda d: (d / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
        (lambda d: (d / "adapter_model.safetensors").write_bytes(b"xx" * 50), "damaged"),
        (lambda d: change(d, base_model_name_or_path=None), "names no base model"),
        (lambda d: change(d, base_model_name_or_path="./gone"), "adapter of ./gone, which is not here"),
        (lambda d: change(d, base_model_name_or_path=str(d)), "itself an adapter"),
        (lambda d: change(d, peft_type="IA3"), "IA3"),
    ],
)
def test_bad_adapters_get_one_line(adapter_dir, damage, message):
    damage(adapter_dir)
    with pytest.raises(UserError) as caught:
        load_model(str(adapter_dir))
    assert message in str(caught.value) and str(adapter_dir) in str(caught.value)


def test_an_adapter_of_another_size_does_not_fit(adapter_dir, model_dir):
    from safetensors.torch import load_file

    path = adapter_dir / "adapter_model.safetensors"
    save_file({name: torch.cat([value, value]) for name, value in load_file(path).items()}, path)
    with pytest.raises(UserError, match="does not fit its base model"):
        load_model(str(adapter_dir))
