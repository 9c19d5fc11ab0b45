import copy
import os
import time

import numpy as np
import pytest
import torch
from closeness import assert_close
from conftest import tiny_processor

from visionsam_hf import SamDPOConfig, SamDPOTrainer
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import encode_rle
from visionsam_hf.training.losses import critique_loss, dice_loss, mask_bce, ranking_loss
from visionsam_hf.training.samples import PreferenceCollator

TRL_METRICS = {
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected",
}


def make(model, rows, tmp_path, *, eval_dataset=None, **settings):
    defaults = dict(
        output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, learning_rate=1e-2,
        logging_steps=1, disable_tqdm=True, use_cpu=True, max_grad_norm=0.0, loss_type="region",
    )
    args = SamDPOConfig(**{**defaults, **settings})
    return SamDPOTrainer(model, args, rows, eval_dataset=eval_dataset, processing_class=tiny_processor())


def batch_of(trainer, count=3):
    return PreferenceCollator()([trainer.train_dataset[index] for index in range(count)])


@pytest.mark.parametrize("loss_type", ["paper", "dpo", "region", "ipo", "hinge", "robust", "plackett_luce", "sft"])
@pytest.mark.parametrize("policy_token", ["single", "candidate"])
def test_frozen_parameters_stay_and_trainable_ones_move(model, preferences, tmp_path, loss_type, policy_token):
    before = copy.deepcopy(model.state_dict())
    trainer = make(model, preferences, tmp_path, loss_type=loss_type, policy_token=policy_token, max_steps=4)
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    trainer.train()
    for name, value in model.state_dict().items():
        if name not in trainable:
            assert torch.equal(value, before[name]), f"{name} moved"
        elif policy_token == "single" or "hypernetworks" not in name:
            assert not torch.equal(value, before[name]), f"{name} did not move"


def test_the_papers_loss_through_the_trainer(model, preferences, tmp_path):
    trainer = make(model, preferences, tmp_path, loss_type="paper")
    batch = batch_of(trainer)
    losses, metrics = trainer.prompt_losses(trainer.model, batch)
    logits = trainer.forward(trainer.model, batch)[0][:, 0]
    margin = mask_bce(logits, batch["rejected"], batch["valid"]) - mask_bce(logits, batch["chosen"], batch["valid"])
    torch.testing.assert_close(losses, -torch.nn.functional.logsigmoid(margin), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metrics["rewards/margins"], margin, rtol=1e-3, atol=1e-6)


def test_several_objectives_are_added_with_their_weights(model, preferences, tmp_path):
    def losses(name, **settings):
        trainer = make(copy.deepcopy(model), preferences, tmp_path / name, **settings)
        return trainer.prompt_losses(trainer.model.train(), batch_of(trainer))

    names = ["region", "plackett_luce", "sft"]
    alone = {name: losses(name, loss_type=name)[0] for name in names}
    found, metrics = losses("all", loss_type=names, loss_weights=[0.8, 0.5, 2])
    torch.testing.assert_close(found, 0.8 * alone["region"] + 0.5 * alone["plackett_luce"] + 2 * alone["sft"])
    torch.testing.assert_close(metrics["rewards/margins"], losses("first", loss_type="region")[1]["rewards/margins"])
    torch.testing.assert_close(losses("ones", loss_type=["paper", "sft"])[0], losses("p", loss_type="paper")[0] + alone["sft"])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"loss_type": ["sft", "sft"]}, "loss_type: is"),
        ({"loss_type": []}, "loss_type: is"),
        ({"loss_type": ["sft", "mse"]}, "loss_type: has the value"),
        ({"loss_type": ["sft", "dpo"], "loss_weights": [1]}, "loss_weights: is"),
        ({"loss_type": "sft", "loss_weights": [0]}, "not all 0"),
        ({"loss_type": ["sft", "ipo"], "label_smoothing": 0.1}, "label_smoothing: has no meaning"),
    ],
)
def test_objectives_that_cannot_be_are_told(settings, told, tmp_path):
    with pytest.raises(UserError, match=told):
        SamDPOConfig(output_dir=str(tmp_path), **settings)


@pytest.mark.parametrize("loss_type", ["dpo", "region", "robust"])
def test_starts_at_log_2_against_its_own_reference(model, preferences, tmp_path, loss_type):
    trainer = make(model, preferences, tmp_path, loss_type=loss_type, label_smoothing=0.0)
    losses, metrics = trainer.prompt_losses(trainer.model.train(), batch_of(trainer))
    torch.testing.assert_close(losses, torch.full((3,), float(np.log(2))), atol=2e-2, rtol=0)
    assert metrics["rewards/chosen"].abs().max() < 1e-3


@pytest.mark.parametrize("loss_type", ["dpo", "region", "plackett_luce"])
def test_training_prefers_the_chosen_masks(model, preferences, tmp_path, loss_type):
    trainer = make(
        model, preferences, tmp_path, loss_type=loss_type, max_steps=25, learning_rate=3e-3,
        per_device_train_batch_size=6, eval_dataset=preferences,
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_rewards/margins"] > 0.05 and metrics["eval_rewards/accuracies"] == 1.0


@pytest.mark.parametrize(("tokens", "learning"), [((0, 0, 0), {0}), ((0, 1, 2), {0, 1, 2, 3}), ((2, 1, 3), {1, 2, 3})])
def test_candidates_of_no_token_tune_token_0(model, preferences, tmp_path, tokens, learning):
    """With `policy_token: candidate` the layers of the tokens that are tuned learn, token 0's too where it stands in."""

    def retoken(row, index):
        token = tokens[index % 3]
        return {"candidates": [{**candidate, "token": token} for candidate in row["candidates"]]}

    rows = preferences.map(retoken, with_indices=True, features=preferences.features)
    trainer = make(model, rows, tmp_path, policy_token="candidate", max_steps=3)
    mlps = model.mask_decoder.output_hypernetworks_mlps
    assert {token for token in range(4) if next(mlps[token].parameters()).requires_grad} == learning
    before = copy.deepcopy(mlps.state_dict())
    trainer.train()
    for token in set(tokens):
        assert any(
            not torch.equal(value, before[name]) for name, value in mlps.state_dict().items() if name.startswith(f"{token}.")
        )


def test_logs_what_trl_logs(model, preferences, tmp_path):
    trainer = make(model, preferences, tmp_path, eval_dataset=preferences, eval_strategy="steps", eval_steps=1)
    trainer.train()
    names = {key for entry in trainer.state.log_history for key in entry}
    assert TRL_METRICS | {"region/size", "iou/chosen"} <= names
    assert {f"eval_{name}" for name in TRL_METRICS} <= names


def test_the_reference_follows_the_policy_token(model, preferences, tmp_path):
    for token in ("single", "candidate"):
        trainer = make(copy.deepcopy(model), preferences, tmp_path, policy_token=token)
        batch = batch_of(trainer)
        with torch.no_grad():
            logits = trainer.forward(trainer.model, batch)[0]
        used = logits[:, 0] if token == "single" else logits[torch.arange(3), batch["token"]]
        stored = torch.from_numpy(trainer._reference["train"][:3].astype(np.float32))
        torch.testing.assert_close(stored, used, rtol=1e-3, atol=1e-3)


def test_equal_masks_are_dropped_and_counted(model, preferences, tmp_path):
    def same(row, index):
        return {"rejected": row["chosen"]} if index < 2 else {}

    trainer = make(model, preferences.map(same, with_indices=True), tmp_path)
    assert trainer.dropped_pairs == 2 and len(trainer.train_dataset) == 4
    with pytest.raises(UserError, match="no pair has two different masks"):
        make(model, preferences.map(lambda row: {"rejected": row["chosen"]}), tmp_path)


def test_added_terms(model, preferences, tmp_path):
    def losses(**settings):
        trainer = make(copy.deepcopy(model), preferences, tmp_path, **settings)
        batch = batch_of(trainer)
        return trainer.prompt_losses(trainer.model.train(), batch)[0].detach(), trainer, batch

    plain, trainer, batch = losses()
    logits, scores, valid = trainer.forward(trainer.model, batch)
    with_sft, _, _ = losses(sft_weight=0.5)
    pull = mask_bce(logits[:, 0], batch["chosen"], valid) + dice_loss(logits[:, 0], batch["chosen"], valid)
    torch.testing.assert_close(with_sft - plain, 0.5 * pull.detach(), rtol=1e-3, atol=1e-5)
    with_kl, _, _ = losses(kl_weight=1.0)
    torch.testing.assert_close(with_kl, plain, rtol=0, atol=1e-3)  # nothing has moved yet
    with_scores, _, _ = losses(iou_weight=2.0, score_temperature=0.1)
    ranking = ranking_loss(10 * scores[:, [2, 1, 3]]).detach()
    torch.testing.assert_close(with_scores - plain, 2 * ranking, rtol=1e-3, atol=1e-5)


def test_region_with_exponent_0_is_dpo(model, preferences, tmp_path):
    def losses(**settings):
        trainer = make(copy.deepcopy(model), preferences, tmp_path, **settings)
        with torch.no_grad():  # away from the reference, where both are log 2
            trainer.model.mask_decoder.upscale_conv2.weight.mul_(2)
        return trainer.prompt_losses(trainer.model.train(), batch_of(trainer))[0]

    plain = losses(loss_type="dpo")
    torch.testing.assert_close(losses(loss_type="region", region_exponent=0.0), plain)
    assert (plain - np.log(2)).abs().max() > 0.01


def test_sft_is_the_chosen_mask_as_a_demonstration(model, preferences, tmp_path):
    trainer = make(model, preferences, tmp_path, loss_type="sft")
    batch = batch_of(trainer)
    logits, _, valid = trainer.forward(trainer.model, batch)
    expected = mask_bce(logits[:, 0], batch["chosen"], valid) + dice_loss(logits[:, 0], batch["chosen"], valid)
    torch.testing.assert_close(trainer.prompt_losses(trainer.model, batch)[0], expected)
    assert trainer.reference_files == []


def test_the_reference_is_computed_once_a_model_and_data(model, preferences, tmp_path):
    def files(start, rows=preferences, **settings):
        trainer = make(copy.deepcopy(start), rows, tmp_path, embeddings=str(tmp_path / "cache"), **settings)
        return trainer.reference_files[0], trainer.reference_files[0].stat().st_mtime_ns

    first = files(model)
    assert first[0].is_relative_to(tmp_path / "cache") and files(model, loss_type="dpo") == first
    assert files(model, policy_token="candidate")[0] != first[0]
    assert files(model, preferences.select(range(4)))[0] != first[0]
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.mask_decoder.upscale_conv2.weight.mul_(1.1)
    assert files(moved)[0] != first[0]


def test_known_image_keys_are_not_computed_again(model, preferences, tmp_path, monkeypatch):
    def refuse(image):
        raise AssertionError("an image was read for its key")

    settings = dict(embeddings=str(tmp_path / "cache"))
    first = make(copy.deepcopy(model), preferences, tmp_path, **settings).reference_files
    monkeypatch.setattr("visionsam_hf.training.samples.image_hash", refuse)
    monkeypatch.setattr("visionsam_hf.training.dpo_trainer.image_hash", refuse, raising=False)
    assert make(copy.deepcopy(model), preferences, tmp_path, **settings).reference_files == first


def test_reference_logits_that_nothing_uses_are_removed(model, preferences, tmp_path):
    """Beside the embeddings after a month, and unfinished ones after a day; in the output directory at once."""
    out, shared = tmp_path / "out", tmp_path / "cache" / "reference"

    def left(directory, *, days):
        names = [f"reference_logits.{days}.npy", f".reference_logits.{days}.npy.1234.partial"]
        directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            (directory / name).write_bytes(b"")
            os.utime(directory / name, times=(time.time() - days * 86400,) * 2)
        return {directory / name for name in names}

    old, recent, unfinished = left(shared, days=40), left(shared, days=2), left(out, days=2)
    used = make(copy.deepcopy(model), preferences, tmp_path, embeddings=str(tmp_path / "cache")).reference_files
    kept = shared / "reference_logits.2.npy"
    assert set(shared.iterdir()) == {kept, *used} and kept in recent and not old & set(shared.iterdir())
    # A file that is read counts as used, whatever the file system records.
    os.utime(used[0], times=(time.time() - 40 * 86400,) * 2)
    make(copy.deepcopy(model), preferences, tmp_path, embeddings=str(tmp_path / "cache"))
    assert used[0].exists() and time.time() - used[0].stat().st_atime < 86400
    own = make(copy.deepcopy(model), preferences, tmp_path).reference_files
    assert set(out.glob("*reference_logits*")) == set(own) and not unfinished & set(out.iterdir())


def test_scores_alone_leave_the_masks(model, preferences, tmp_path):
    trainer = make(model, preferences, tmp_path, trainable="iou_prediction_head", iou_weight=1.0, max_steps=5)
    batch = batch_of(trainer)
    logits, scores, _ = trainer.forward(trainer.model, batch)
    trainer.train()
    after, moved, _ = trainer.forward(trainer.model, batch)
    assert_close(after, logits)
    assert not torch.equal(scores, moved)


def test_scores_learn_the_ranking(model, preferences, tmp_path):
    trainer = make(
        model, preferences, tmp_path, iou_weight=1.0, max_steps=40, learning_rate=5e-3, per_device_train_batch_size=6
    )
    trainer.train()
    with torch.no_grad():
        scores = trainer.forward(trainer.model, batch_of(trainer, 6))[1]
    assert (scores[:, 2] > scores[:, 1]).all() and (scores[:, 1] > scores[:, 3]).all()


def test_accumulated_gradients_are_those_of_the_whole_batch(model, preferences, tmp_path):
    def gradients(**settings):
        trainer = make(
            copy.deepcopy(model), preferences, tmp_path, max_steps=1, learning_rate=1.0, optim="sgd", sft_weight=0.3,
            **settings,
        )
        start = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
        trainer.train()
        return {name: start[name] - value.detach() for name, value in trainer.model.named_parameters()}

    whole = gradients(per_device_train_batch_size=4)
    pieces = gradients(per_device_train_batch_size=1, gradient_accumulation_steps=4)
    assert any(value.abs().max() > 1e-4 for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (dict(loss_type="kto"), "loss_type"),
        (dict(beta=0.0), "beta"),
        (dict(label_smoothing=0.6), "label_smoothing"),
        (dict(loss_type="paper", label_smoothing=0.1), "label_smoothing"),
        (dict(region_exponent=2.0), "region_exponent"),
        (dict(sft_weight=-1.0), "sft_weight"),
        (dict(score_loss="hinge"), "score_loss"),
        (dict(score_temperature=0.0), "score_temperature"),
        (dict(policy_token="best"), "policy_token"),
        (dict(trainable="iou_prediction_head"), "iou_weight"),
    ],
)
def test_wrong_settings_name_the_key(tmp_path, settings, key):
    with pytest.raises(UserError, match=key):
        SamDPOConfig(output_dir=str(tmp_path), **settings)


def test_circled_mistakes_are_a_term_and_mend_the_target(model, preferences, tmp_path):
    def circle(row):
        # Of the chosen mask the right half is said to be extra.
        loop = np.zeros(row["candidates"][0]["rle"]["size"], bool)
        loop[:, 30:] = True
        return {"regions": [{"candidate": 0, "label": "extra", "annotator": "a", "rle": encode_rle(loop)}]}

    rows = preferences.map(circle, features=preferences.features)
    plain = make(copy.deepcopy(model), rows, tmp_path, loss_type="sft")
    circled = make(copy.deepcopy(model), rows, tmp_path, loss_type="sft", region_weight=0.5)
    batch = batch_of(circled)
    assert "signs" not in batch_of(plain)
    logits = circled.forward(circled.model, batch)[0][:, 0]
    mended, valid = batch["mended"], batch["valid"]
    assert (mended <= batch["chosen"]).all() and (mended < batch["chosen"]).any()
    torch.testing.assert_close(mended, batch["chosen"] + batch["signs"])
    expected = mask_bce(logits, mended, valid) + dice_loss(logits, mended, valid)
    expected = expected + 0.5 * critique_loss(logits, batch["signs"], valid)
    torch.testing.assert_close(circled.prompt_losses(circled.model, batch)[0], expected, rtol=1e-4, atol=1e-6)
    # Beside a preference margin, whose masks stay as they were ranked.
    both = [make(copy.deepcopy(model), rows, tmp_path, loss_type="region", region_weight=weight) for weight in (0, 2.0)]
    without, with_term = (trainer.prompt_losses(trainer.model.train(), batch)[0] for trainer in both)
    torch.testing.assert_close(with_term - without, 2 * critique_loss(logits, batch["signs"], valid), rtol=1e-3, atol=1e-5)


def test_a_data_set_from_before_circles_trains_with_their_weight(model, preferences, tmp_path):
    trainer = make(model, preferences.remove_columns("regions"), tmp_path, loss_type="sft", region_weight=1.0)
    batch = batch_of(trainer)
    assert not batch["signs"].any() and torch.equal(batch["mended"], batch["chosen"])
    trainer.train()
