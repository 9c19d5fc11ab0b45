import pytest
import torch
from closeness import assert_close
from conftest import initialise, tiny_config

from visionsam_hf.models import encoder as encoding
from visionsam_hf.models.encoder import ImageEncoder, biased_attention, cell_places, has_bfloat16, relative_positions


def random_positions(model):
    generator = torch.Generator().manual_seed(1)
    for layer in model.vision_encoder.layers:
        for table in (layer.attn.rel_pos_h, layer.attn.rel_pos_w):
            table.data.copy_(0.5 * torch.randn(table.shape, generator=generator))
    return model


@pytest.mark.parametrize("room", [1, 2000, 10**9])
def test_the_bias_in_pieces_is_the_bias(monkeypatch, room):
    monkeypatch.setattr(encoding, "_BIAS_BYTES", room)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 2, 12, 8, generator=generator) for _ in range(3))
    by_row, by_column = (torch.randn(3, 2, 12, side, generator=generator) for side in (4, 3))
    bias = (by_row[..., :, None] + by_column[..., None, :]).flatten(-2)
    expected = (query @ key.transpose(2, 3) / 8**0.5 + bias).softmax(-1) @ value
    read = biased_attention(query, key, value, torch.cat([by_row, by_column], -1), cell_places(4, 3))
    torch.testing.assert_close(read, expected)


def test_relative_positions_are_the_librarys():
    attention = random_positions(initialise(tiny_config(), seed=0)).vision_encoder.layers[1].attn
    query = torch.randn(2, 2, 16, 8)
    expected = attention.get_decomposed_rel_pos(
        query.flatten(0, 1), attention.rel_pos_h, attention.rel_pos_w, (4, 4), (4, 4)
    )
    tables = [
        attention.get_rel_pos(4, 4, table).transpose(1, 2) for table in (attention.rel_pos_h, attention.rel_pos_w)
    ]
    bias = relative_positions(query, *tables) @ cell_places(4, 4)
    torch.testing.assert_close(bias, expected.reshape(2, 2, 16, 16))


def test_places_of_a_grid():
    assert cell_places(2, 3).tolist() == [
        [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1], [1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 1],
    ]


@pytest.mark.parametrize("batch", [1, 3])
def test_fast_embeddings_are_the_encoders_to_16_bits(batch):
    model = random_positions(initialise(tiny_config(), seed=0))
    pixels = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = ImageEncoder(model, fast=False)(pixels)
    assert_close(exact, model.get_image_embeddings(pixels))
    fast = ImageEncoder(model, fast=True)(pixels)
    assert fast.dtype == torch.float32 and fast.shape == exact.shape
    assert (fast - exact).norm() < 1e-2 * exact.norm()
    if has_bfloat16(torch.device("cpu")):
        assert not torch.equal(fast, exact)


def test_the_rearranged_layers_are_exact_but_for_16_bits(monkeypatch):
    """With the conversions taken out, what is left is the library's encoder."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor)
    monkeypatch.setattr(encoding, "has_bfloat16", lambda device: True)
    model = random_positions(initialise(tiny_config(), seed=0))
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ImageEncoder(model)(pixels), model.get_image_embeddings(pixels), rtol=1e-4, atol=1e-5)
