import copy

import pytest
import torch
from conftest import tiny_processor

from visionsam_hf import SamDistilConfig, SamDistilTrainer
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.windows import Window, drawn_windows
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.training.losses import embedding_loss

SMALL = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}


def make(teacher, rows, tmp_path, **settings):
    defaults = dict(
        output_dir=str(tmp_path / "out"), embeddings=str(tmp_path / "cache"), vision_config=SMALL, max_steps=30,
        per_device_train_batch_size=6, learning_rate=1e-2, logging_steps=10, disable_tqdm=True, use_cpu=True, crops=1,
    )  # fmt: skip
    args = SamDistilConfig(**{**defaults, **settings})
    return SamDistilTrainer(teacher, args, rows, eval_dataset=rows, processing_class=tiny_processor())


def test_the_loss_in_closed_form():
    teacher = torch.tensor([[3.0, 0.0], [4.0, 1.0]]).view(1, 2, 1, 2).repeat(2, 1, 1, 1)
    distance, cosine = embedding_loss(torch.stack([teacher[0], -teacher[0]]), teacher)
    assert distance.tolist() == pytest.approx([0, 4]) and cosine.tolist() == pytest.approx([1, -1])
    distance, cosine = embedding_loss(torch.zeros(2, 2, 1, 2), teacher)
    assert distance.tolist() == [1, 1] and cosine.tolist() == [0, 0]
    # One cell of (3, 4) given as (0, 4): 9 of a squared norm of 26, and cosines of 0.8 and 1.
    given = teacher[:1].clone()
    given[0, 0, 0, 0] = 0
    distance, cosine = embedding_loss(given, teacher[:1])
    assert distance.item() == pytest.approx(9 / 26) and cosine.item() == pytest.approx(0.9)


def test_grids_of_different_sides_are_brought_to_the_students():
    """A finer grid's cells are averaged, two by two; a coarser one lies between its cells, half a cell from the border."""
    fine = torch.arange(1.0, 17).view(1, 1, 4, 4)
    averages = torch.tensor([[3.5, 5.5], [11.5, 13.5]]).view(1, 1, 2, 2)
    assert embedding_loss(averages, fine)[0].item() == pytest.approx(0, abs=1e-6)
    coarse = torch.tensor([[1.0, 5.0]]).view(1, 1, 1, 2).expand(-1, -1, 2, -1)
    between = torch.tensor([1.0, 2.0, 4.0, 5.0]).expand(1, 1, 4, 4)
    assert embedding_loss(between, coarse)[0].item() == pytest.approx(0, abs=1e-6)


def test_drawn_windows_are_squares_inside_and_the_same_for_everybody():
    windows = drawn_windows((60, 100), "a hash", 200)
    assert windows[:3] == drawn_windows((60, 100), "a hash", 3) != drawn_windows((60, 100), "another", 3)
    assert all(window.width == window.height and 15 <= window.width <= 60 for window in windows)
    assert all(0 <= window.x <= 100 - window.width and 0 <= window.y <= 60 - window.height for window in windows)
    assert drawn_windows((1, 1), "dot", 1) == [Window(0, 0, 1, 1)]


def test_the_encoder_learns_and_the_rest_stays(model, segmentation, tmp_path):
    teacher = copy.deepcopy(model)
    trainer = make(model, segmentation, tmp_path)
    assert len(trainer.train_dataset) == 12  # each image, and a window of it
    before = copy.deepcopy(trainer.model.state_dict())
    first = trainer.evaluate()
    trainer.train()
    last = trainer.evaluate()
    assert last["eval_cosine"] > max(0.8, first["eval_cosine"] + 0.1) and last["eval_loss"] < 0.6 * first["eval_loss"]
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("vision_encoder.")}
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_teacher_encodes_once(model, segmentation, tmp_path, monkeypatch):
    make(model, segmentation, tmp_path)
    monkeypatch.setattr(EmbeddingCache, "_encode", lambda *_: pytest.fail("the teacher encodes again"))
    make(model, segmentation, tmp_path, vision_config={**SMALL, "hidden_size": 32}, seed=1)


def test_a_window_is_compared_with_the_teachers_view_of_it(model, segmentation, tmp_path):
    """What the student sees and what the teacher's embedding is of are the same pixels."""
    trainer = make(model, segmentation, tmp_path, embedding_dtype="float32")
    item = next(i for i, (row, window) in enumerate(trainer.train_dataset.index) if window is not None)
    row, window = trainer.train_dataset.index[item]
    image = segmentation[row]["image"].convert("RGB").crop(window.corners)
    pixels = tiny_processor()(images=image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = model.vision_encoder(pixels).last_hidden_state[0]
    sample = trainer.train_dataset[item]
    torch.testing.assert_close(sample["image_embeddings"], wanted, rtol=1e-4, atol=1e-4)
    shown = trainer.processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(sample["pixel_values"], shown)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (dict(embeddings=None), "embeddings: name the directory"),
        (dict(student="visionsam-tiny"), "vision_config: the student starts as visionsam-tiny"),
        (dict(vision_config={"width": 3}), "vision_config: 'width' is no field"),
        (dict(vision_config={"hidden_size": 30}), "vision_config: hidden_size 30 is no multiple"),
        (dict(vision_config={"image_size": 100}), "vision_config: image_size 100 is not a multiple"),
        (dict(crops=-1), "crops: has the value -1"),
    ],
)
def test_what_cannot_be_is_one_line(model, segmentation, tmp_path, settings, told):
    with pytest.raises(UserError, match=told) as raised:
        make(model, segmentation, tmp_path, **settings)
    assert "\n" not in str(raised.value)
