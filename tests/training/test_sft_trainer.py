import copy
import json
import pickle
from typing import get_args, get_type_hints

import datasets
import pytest
import torch
from closeness import assert_close
from conftest import segmentation_rows, tiny_processor
from transformers import SamModel

from visionsam_hf import SamSFTConfig, SamSFTTrainer
from visionsam_hf.cli.train import SFTStage
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.prompts import PROMPT_KINDS
from visionsam_hf.data.settings import build_settings
from visionsam_hf.embeddings.shards import DTYPES
from visionsam_hf.models.freezing import MASK_OUTPUTS, TRAINABLE
from visionsam_hf.models.lora import ADAPTED
from visionsam_hf.training.hyperparameters import PromptKind, SFTSettings
from visionsam_hf.training.losses import mask_bce
from visionsam_hf.training.samples import PromptCollator, PromptSamples


def make(model, rows, tmp_path, *, eval_dataset=None, **settings):
    defaults = dict(
        output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, learning_rate=1e-2,
        logging_steps=1, disable_tqdm=True, use_cpu=True, max_grad_norm=0.0,
    )
    args = SamSFTConfig(**{**defaults, **settings})
    return SamSFTTrainer(model, args, rows, eval_dataset=eval_dataset, processing_class=tiny_processor())


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(mask_output="multi", w_dice=1.0, w_iou=0.1),
        dict(mask_output="both", w_iou=0.1, trainable="mask_decoder+prompt_encoder",
             prompt_mix={"box": 1, "point": 1, "point_pm": 1}, max_steps=8),
        dict(mask_output="both", w_iou=0.1, trainable="all", augment=True, prompts_per_image=2,
             prompt_mix={"box": 1, "point": 1, "point_pm": 1}, max_steps=8),
    ],
)
def test_frozen_parameters_stay_and_trainable_ones_move(model, segmentation, tmp_path, settings):
    before = copy.deepcopy(model.state_dict())
    trainer = make(model, segmentation, tmp_path, **settings)
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    trainer.train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert trainable and moved <= trainable
    # Of the three candidate tokens only the best one's own layers learn from a prompt; the others may never win here.
    candidates = {name for name in trainable if "hypernetworks" in name and "mlps.0" not in name}
    assert trainable - candidates <= moved
    assert not candidates or candidates & moved


def first_gradients(model, rows, tmp_path, **settings):
    trainer = make(copy.deepcopy(model), rows, tmp_path, max_steps=1, learning_rate=1.0, optim="sgd", **settings)
    start = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    return {
        name: start[name] - value.detach() for name, value in trainer.model.named_parameters() if value.requires_grad
    }


@pytest.mark.parametrize("prompts_per_image", [1, 3])
def test_accumulated_gradients_are_those_of_the_whole_batch(model, segmentation, tmp_path, prompts_per_image):
    """4 x batch 1 gives the gradients of batch 4, though images have different numbers of prompts."""
    settings = dict(prompts_per_image=prompts_per_image, box_jitter=0.1, w_dice=1.0)
    whole = first_gradients(model, segmentation, tmp_path, per_device_train_batch_size=4, **settings)
    pieces = first_gradients(
        model, segmentation, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=4, **settings
    )
    assert any(value.abs().max() > 1e-4 for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-3, atol=1e-6)


def test_accumulation_over_the_end_of_an_epoch_trains_as_the_whole_batch(model, segmentation, tmp_path):
    """9 samples in batches of 4, 4 and 1: the last accumulated batch has fewer pieces, none is divided twice."""
    settings = dict(max_steps=6, w_dice=1.0, lr_scheduler_type="constant")
    whole = make(copy.deepcopy(model), segmentation, tmp_path, per_device_train_batch_size=4, **settings)
    pieces = make(
        copy.deepcopy(model), segmentation, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=4,
        optim="adamw_torch", **settings,
    )  # fmt: skip
    assert losses(pieces) == pytest.approx(losses(whole), rel=1e-3)


def test_the_evaluation_loss_is_a_mean_over_prompts(model, segmentation, tmp_path):
    """Not over batches: images have one or two objects, and the last batch one image."""
    settings = dict(eval_dataset=segmentation, prompts_per_image=2, w_dice=1.0)
    trainer = make(model, segmentation, tmp_path, per_device_eval_batch_size=5, **settings)
    losses = trainer.prompt_losses(model.eval(), PromptCollator()([trainer.eval_dataset[index] for index in range(6)]))[0]
    assert len(losses) == 9
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(float(losses.detach().mean()), rel=1e-5)
    assert trainer.evaluate(metric_key_prefix="test")["test_loss"] == found["eval_loss"]


def test_metrics_are_read_only_when_they_are_logged(model, segmentation, tmp_path, monkeypatch):
    trainer = make(model, segmentation, tmp_path)
    losses = torch.tensor([1.0, 2.0], requires_grad=True)
    for name in ("item", "tolist", "__float__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_: pytest.fail("the step waits for the device"))
    trainer._record("train", {"iou": losses})
    trainer._record("train", {"iou": losses[:1]})
    monkeypatch.undo()
    assert trainer._take_means("train", "") == {"iou": pytest.approx(4 / 3)}
    assert trainer._take_means("train", "") == {}


def test_a_log_line_goes_on_from_a_checkpoint(model, segmentation, tmp_path):
    """Stopped between two log lines, a run shows the averages of one that was not stopped."""
    settings = dict(max_steps=4, save_strategy="steps", save_steps=2, logging_steps=3)
    whole = make(copy.deepcopy(model), segmentation, tmp_path, **settings)
    whole.train()
    resumed = make(copy.deepcopy(model), segmentation, tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    ours, theirs = (trainer.state.log_history[0] for trainer in (resumed, whole))
    assert ours["step"] == 3 and {"iou", "area_ratio", "loss"} <= set(ours)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_workers_that_persist_draw_prompts_anew(model, segmentation, tmp_path):
    settings = dict(max_steps=6, per_device_train_batch_size=5, box_jitter=0.3, dataloader_num_workers=1)
    fresh, persistent = (
        losses(make(copy.deepcopy(model), segmentation, tmp_path, dataloader_persistent_workers=persists, **settings))
        for persists in (False, True)
    )
    assert persistent == pytest.approx(fresh, rel=1e-5)


def losses(trainer):
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_cached_and_uncached_training_give_the_same_losses(model, segmentation, tmp_path):
    settings = dict(max_steps=4, w_dice=1.0, box_jitter=0.1)
    plain = losses(make(copy.deepcopy(model), segmentation, tmp_path, **settings))
    for dtype, tolerance in (("float32", 0.0), ("float16", 1e-3), ("bfloat16", 1e-3)):
        cached = losses(
            make(copy.deepcopy(model), segmentation, tmp_path, embeddings=str(tmp_path / "cache"),
                 embedding_dtype=dtype, **settings)
        )
        assert cached == pytest.approx(plain, rel=tolerance, abs=0.0)
    assert len(set(plain)) == 4


def test_the_fast_path_gives_the_losses_of_the_slow_one(model, segmentation, tmp_path):
    settings = dict(max_steps=4, w_dice=1.0, prompts_per_image=2)
    slow = losses(make(copy.deepcopy(model), segmentation, tmp_path, fast=False, **settings))
    assert losses(make(copy.deepcopy(model), segmentation, tmp_path, **settings)) == pytest.approx(slow, rel=1e-4)


def test_cached_variants_are_the_images_turned(model, segmentation, tmp_path):
    settings = dict(max_steps=6, w_dice=1.0, variants=4)
    plain = losses(make(copy.deepcopy(model), segmentation, tmp_path, **settings))
    assert plain != losses(make(copy.deepcopy(model), segmentation, tmp_path, **{**settings, "variants": 1}))
    cached = losses(
        make(copy.deepcopy(model), segmentation, tmp_path, embeddings=str(tmp_path / "cache"),
             embedding_dtype="float32", **settings)
    )
    assert_close(cached, plain)


def test_resident_embeddings_change_nothing(model, segmentation, tmp_path):
    settings = dict(max_steps=4, variants=2, embeddings=str(tmp_path / "cache"), eval_dataset=segmentation)
    read, kept = (
        make(copy.deepcopy(model), segmentation, tmp_path, embeddings_on_device=where, **settings)
        for where in ("never", "always")
    )
    # Images are in it once, though training and evaluation both use them.
    assert read._resident is None and kept._resident.shape == (12, 16, 4, 4)
    assert "image_places" in kept.train_dataset[0] and "image_embeddings" in read.train_dataset[0]
    assert_close(losses(kept), losses(read))
    assert_close(kept.evaluate()["eval_loss"], read.evaluate()["eval_loss"])


def test_the_loss_is_the_bce_of_token_0(model, segmentation, tmp_path):
    trainer = make(model, segmentation, tmp_path)
    batch = PromptCollator()([trainer.train_dataset[index] for index in range(3)])
    expected = []
    for row in range(3):
        with torch.no_grad():
            logits = SamModel.forward(
                model, pixel_values=batch["pixel_values"][row : row + 1], input_boxes=batch["boxes"][row : row + 1],
                multimask_output=False,
            ).pred_masks[:, 0, 0]
        expected.append(mask_bce(logits, batch["targets"][row], batch["valid"][row : row + 1]))
    got, metrics = trainer.prompt_losses(trainer.model, batch)
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-4, atol=1e-6)
    assert set(metrics) == {"iou", "area_ratio", "score_error"}


def test_fine_tuning_learns_the_discs(model, segmentation, tmp_path):
    trainer = make(
        model, segmentation, tmp_path, max_steps=60, w_dice=1.0, learning_rate=3e-3, trainable="all",
        per_device_train_batch_size=6, eval_dataset=segmentation,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.8 * before["eval_loss"]
    assert {"eval_iou", "eval_area_ratio", "eval_score_error"} <= set(after)


def test_prompts_are_drawn_anew_each_epoch_and_alike_for_one_seed(segmentation):
    def boxes(seed, epoch):
        samples = PromptSamples(
            segmentation, tiny_processor(), image_side=64, mask_side=16, box_jitter=0.2, seed=seed
        )
        samples.set_epoch(epoch)
        return samples[2]["boxes"]

    assert torch.equal(boxes(0, 1), boxes(0, 1))
    assert not torch.equal(boxes(0, 1), boxes(0, 2))
    assert not torch.equal(boxes(0, 1), boxes(1, 1))


def test_augmented_masks_follow_the_image(segmentation):
    samples = PromptSamples(
        segmentation, tiny_processor(), image_side=64, mask_side=16, augment=True, prompts_per_image=2
    )
    for epoch in range(4):
        samples.set_epoch(epoch)
        sample = samples[1]
        grey = torch.nn.functional.avg_pool2d(sample["pixel_values"].mean(0)[None], 4)[0]
        target = sample["targets"].amax(0)
        inside, outside = grey[target > 0.9], grey[(target == 0) & sample["valid"]]
        assert inside.mean() < outside.mean() - 0.5


def test_samples_of_one_image_share_it(segmentation):
    single = PromptSamples(segmentation, tiny_processor(), image_side=64, mask_side=16)
    shared = PromptSamples(segmentation, tiny_processor(), image_side=64, mask_side=16, prompts_per_image=8)
    assert (len(single), len(shared)) == (9, 6)
    assert shared[1]["boxes"].shape == (2, 4)


def test_metrics_are_logged_under_one_name_everywhere(model, segmentation, tmp_path):
    trainer = make(model, segmentation, tmp_path, eval_dataset=segmentation, eval_strategy="steps", eval_steps=1)
    trainer.train()
    names = {key for entry in trainer.state.log_history for key in entry}
    assert {"iou", "area_ratio", "score_error", "eval_iou", "eval_area_ratio", "eval_score_error"} <= names
    json.dumps(trainer.state.log_history)


def test_evaluation_needs_images(model, segmentation, tmp_path):
    with pytest.raises(UserError, match="eval_strategy: steps needs images to measure on; give eval_split"):
        make(model, segmentation, tmp_path, eval_strategy="steps", eval_steps=1)


def test_warns_when_masks_drift_away(model, segmentation, tmp_path, caplog):
    trainer = make(model, segmentation, tmp_path)
    trainer.state.max_steps, trainer.state.global_step = 10, 9
    trainer.check_metrics({"area_ratio": 0.1}, "")
    assert "0.10 times the area" in caplog.text


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (dict(trainable="decoder"), "trainable"),
        (dict(mask_output="best"), "mask_output"),
        (dict(w_bce=0.0), "w_bce"),
        (dict(prompt_mix={"scribble": 1.0}), "prompt_mix"),
        (dict(prompt_mix={}), "prompt_mix"),
        (dict(box_jitter=0.9), "box_jitter"),
        (dict(embeddings="x", augment=True), "embeddings"),
        (dict(variants=0), "variants"),
        (dict(variants=2, augment=True), "variants"),
        (dict(embeddings_on_device="gpu"), "embeddings_on_device"),
    ],
)
def test_wrong_settings_name_the_key(tmp_path, settings, key):
    with pytest.raises(UserError, match=key):
        SamSFTConfig(output_dir=str(tmp_path), **settings)
    with pytest.raises(UserError, match=key):
        build_settings(SamSFTConfig, {"output_dir": str(tmp_path), **settings})


def test_a_checkpoint_can_hold_the_stages_settings(tmp_path):
    settings = SFTStage(model_name_or_path="m", dataset="d", output_dir=str(tmp_path), w_dice=0.5)
    assert isinstance(settings, SamSFTConfig)
    assert pickle.loads(pickle.dumps(settings)).w_dice == 0.5


def test_choices_are_those_of_what_they_choose():
    hints = get_type_hints(SFTSettings)
    assert get_args(hints["trainable"]) == TRAINABLE and get_args(hints["mask_output"]) == MASK_OUTPUTS
    assert get_args(get_args(hints["embedding_dtype"])[0]) == DTYPES and get_args(PromptKind) == PROMPT_KINDS
    for trainable in TRAINABLE:
        settings = dict(trainable=trainable, use_peft=True, w_iou=1.0)
        if trainable in ADAPTED:
            SFTSettings(**settings)
        else:
            with pytest.raises(UserError, match="no attention for an adapter"):
                SFTSettings(**settings)


def test_stops_at_a_loss_that_is_not_a_number(model, segmentation, tmp_path):
    trainer = make(model, segmentation, tmp_path)
    with torch.no_grad():
        model.mask_decoder.upscale_conv1.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="nan"):
        trainer.train()


def test_refuses_rows_without_objects(model, segmentation, tmp_path):
    rows = segmentation_rows(2)
    for row in rows:
        row["objects"] = []
    empty = datasets.Dataset.from_list(rows, features=segmentation.features)
    with pytest.raises(UserError, match="no row has an object"):
        make(model, empty, tmp_path)
