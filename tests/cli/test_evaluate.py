import json
from pathlib import Path

import evaluate
import pytest
import torch
from closeness import assert_close
from defect_examples import write_discs
from transformers import SamConfig, SamImageProcessorPil, SamModel, SamProcessor

from visionsam_hf.cli import embed
from visionsam_hf.cli.command_line import main
from visionsam_hf.cli.evaluate import EvaluateSettings, run
from visionsam_hf.cli.stage import is_done
from visionsam_hf.data.dataset_directory import load_split
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.records import read_record
from visionsam_hf.data.settings import build_settings
from visionsam_hf.evaluation import segmentation_metric
from visionsam_hf.evaluation.evaluator import evaluate_model
from visionsam_hf.evaluation.metrics import COUNTS
from visionsam_hf.evaluation.per_sample import read_columns
from visionsam_hf.evaluation.segmentation_metric import SegmentationMetric


def write_model(directory):
    torch.manual_seed(0)
    config = SamConfig(
        vision_config=dict(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            output_channels=16,
            num_pos_feats=8,
            image_size=64,
            patch_size=8,
            window_size=0,
            global_attn_indexes=[0],
            mlp_dim=16,
            scale=1,
            initializer_range=0.02,
        ),
        prompt_encoder_config=dict(
            hidden_size=16, image_size=64, patch_size=8, image_embedding_size=8, mask_input_channels=4
        ),
        mask_decoder_config=dict(
            hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        ),
    )
    SamModel(config).save_pretrained(directory)
    SamProcessor(SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})).save_pretrained(
        directory
    )
    return str(directory)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    return {"dataset": str(write_discs(root / "data", test=6, heldout=7)), "model": write_model(root / "model")}


def settings(inputs, output, **values):
    values = {"model_name_or_path": inputs["model"], "dataset": inputs["dataset"], "output_dir": str(output), **values}
    return build_settings(EvaluateSettings, values)


def read(directory):
    return json.loads((Path(directory) / "metrics.json").read_text())


def test_model_on_every_prompt_kind_and_batch(inputs, tmp_path):
    for prompt in ("box", "point", "point_pm"):
        run(settings(inputs, tmp_path / prompt, prompt=prompt, batch_size=1))
        metrics = read(tmp_path / prompt)
        assert (metrics["prompt"], metrics["split"], metrics["model"]) == (prompt, "heldout", inputs["model"])
        assert metrics["n"] == len(read_columns(tmp_path / prompt / "per_sample.parquet")["row"]) == 9
    run(settings(inputs, tmp_path / "batched", batch_size=16))
    alone, batched = read(tmp_path / "box"), read(tmp_path / "batched")
    for name in ("n", "overall", "per_category", "calibration"):
        assert_close(batched[name], alone[name])
    streamed = settings(inputs, tmp_path / "streamed", streaming=True, batch_size=1)
    run(streamed)
    assert_close(read(tmp_path / "streamed"), read(tmp_path / "box"))
    assert is_done("evaluate", streamed)
    assert read_record(tmp_path / "box")["results"]["iou"] == read(tmp_path / "box")["overall"]["iou"]


def test_library_gives_what_the_stage_writes(inputs, tmp_path):
    run(settings(inputs, tmp_path / "out", embeddings=str(tmp_path / "cache")))
    wanted = read(tmp_path / "out")
    evaluation = evaluate_model(inputs["model"], load_split(inputs["dataset"], "heldout", kind="segmentation"))
    assert evaluation.metrics["split"] == "heldout"
    # The cache holds float16 embeddings.
    assert evaluation.metrics["overall"]["iou"] == pytest.approx(wanted["overall"]["iou"], abs=0.02)
    assert evaluation.per_sample.num_rows == wanted["n"]


def test_what_embed_encoded_is_what_is_evaluated(inputs, tmp_path):
    """The dtype of the cache is found there; nothing is encoded a second time in another one."""
    cache = tmp_path / "cache"
    given = {"model_name_or_path": inputs["model"], "dataset": inputs["dataset"], "splits": ["heldout"]}
    embed.run(
        build_settings(
            embed.EmbedSettings,
            {**given, "embeddings": str(cache), "embedding_dtype": "float32", "output_dir": str(tmp_path / "embed")},
        )
    )
    before = sorted(cache.rglob("*"))
    run(settings(inputs, tmp_path / "cached", embeddings=str(cache)))
    assert sorted(cache.rglob("*")) == before
    run(settings(inputs, tmp_path / "plain"))
    assert_close(read(tmp_path / "cached"), read(tmp_path / "plain"))


def test_an_unfilled_cache_gets_one_shard(tmp_path):
    """Sixteen rows are evaluated at a time; they are not sixteen rows a shard."""
    data = write_discs(tmp_path / "data", heldout=40)
    given = {"model": write_model(tmp_path / "model"), "dataset": str(data)}
    for streaming in (False, True):
        cache = tmp_path / f"cache{streaming}"
        run(settings(given, tmp_path / f"out{streaming}", embeddings=str(cache), streaming=streaming))
        assert len(list(cache.rglob("*.safetensors"))) == 1


def test_the_metric_of_evaluate_gives_the_numbers_of_the_stage(inputs, tmp_path, monkeypatch):
    used = []
    compute = SegmentationMetric._compute
    monkeypatch.setattr(SegmentationMetric, "_compute", lambda self, **rows: used.append(self) or compute(self, **rows))
    run(settings(inputs, tmp_path / "out"))
    assert len(used) == 3  # the three selections
    wanted, columns = read(tmp_path / "out"), read_columns(tmp_path / "out" / "per_sample.parquet")
    # As a user has it who knows only `evaluate`.
    metric = evaluate.load(segmentation_metric.__file__, cache_dir=str(tmp_path / "cache"))
    for row, category in enumerate(columns["category"]):
        metric.add(**{name: int(columns[name][row, 0]) for name in COUNTS}, category=category)
    found = metric.compute()
    assert {key: wanted[key] for key in ("n", "overall", "category_mean", "pooled", "per_category")} == found
    assert wanted["selections"]["single"]["overall"] == found["overall"]


@pytest.mark.parametrize("name", ["fill_box", "otsu", "grabcut"])
def test_baselines_share_the_result_files(inputs, tmp_path, name):
    done = settings(inputs, tmp_path / name, model_name_or_path=f"baseline:{name}", max_prompts=4)
    run(done)
    metrics = read(tmp_path / name)
    assert metrics["n"] == 4 and metrics["calibration"]["mae"] is None
    assert metrics["overall"]["iou"] > 0.6  # a bright disc fills 78% of its box
    assert is_done("evaluate", done)


def test_a_changed_model_is_evaluated_again(inputs, tmp_path):
    done = settings(inputs, tmp_path / "out", max_prompts=1)
    run(done)
    assert is_done("evaluate", done)
    other = write_model(tmp_path / "other")
    (Path(other) / "note.txt").write_text("changed")
    assert not is_done("evaluate", settings(inputs, tmp_path / "out", max_prompts=1, model_name_or_path=other))


@pytest.mark.parametrize(
    "values, words",
    [
        ({"prompt": "circle"}, "'prompt' is 'circle'; give 'box', 'point' or 'point_pm'"),
        ({"selection": "best"}, "'selection' is 'best'"),
        ({"split": "nights"}, "no split 'nights'"),
        ({"model_name_or_path": "baseline:sobel"}, "no such baseline"),
        ({"model_name_or_path": "./nowhere"}, "nowhere"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(inputs, tmp_path, values, words):
    with pytest.raises(UserError, match=words):
        run(settings(inputs, tmp_path / "out", **values))
    assert list(tmp_path.iterdir()) == []


def test_without_a_split_the_held_out_one_judges_else_the_test(inputs, tmp_path, capsys):
    model = write_model(tmp_path / "model")
    for splits, wanted in (({"test": 3, "heldout": 2}, "heldout"), ({"train": 2, "test": 3}, "test")):
        data = write_discs(tmp_path / wanted, **splits)
        words = ["evaluate", "--model_name_or_path", model, "--dataset", data, "--output_dir", tmp_path / f"{wanted}-out"]
        assert main([str(word) for word in words]) == 0
        assert f"of split '{wanted}', too few to conclude from" in capsys.readouterr().out
    data = write_discs(tmp_path / "only", train=2)
    words[4], words[6] = data, tmp_path / "none"
    assert main([str(word) for word in words]) == 2
    assert "has no split 'heldout' or 'test' (it has train)" in capsys.readouterr().err
