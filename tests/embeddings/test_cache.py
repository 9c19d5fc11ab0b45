import logging

import numpy as np
import pytest
import torch
from conftest import segmentation_rows
from PIL import Image

from visionsam_hf.data.augmentation import variant_key, variant_of
from visionsam_hf.data.errors import UserError
from visionsam_hf.embeddings import cache as embeddings
from visionsam_hf.embeddings.cache import EmbeddingCache, image_hash


def test_a_cached_embedding_is_the_encoders(tmp_path, model, processor, segmentation):
    cache = EmbeddingCache(tmp_path, model, processor, dtype="float32")
    keys = cache.add(segmentation, batch_size=1)
    for row, key in zip(segmentation, keys):
        pixels = processor(images=row["image"].convert("RGB"), return_tensors="pt")["pixel_values"]
        assert torch.equal(cache[key], model.get_image_embeddings(pixels)[0])


@pytest.mark.parametrize(
    ("dtype", "fast", "tolerance"),
    [("float16", False, 1e-3), ("bfloat16", False, 4e-3), ("float16", True, 1e-2), ("bfloat16", True, 1e-2)],
)
def test_sixteen_bits_are_near(tmp_path, model, processor, segmentation, dtype, fast, tolerance):
    exact = EmbeddingCache(tmp_path, model, processor, dtype="float32")
    keys = exact.add(segmentation)
    half = EmbeddingCache(tmp_path, model, processor, dtype=dtype, fast=fast)
    assert len(half) == 0
    half.add(segmentation, batch_size=4)
    for key in keys:
        assert half[key].dtype == getattr(torch, dtype)
        assert (half[key].float() - exact[key]).norm() < tolerance * exact[key].norm()


def test_an_entry_takes_two_bytes_a_value(tmp_path, model, processor, segmentation):
    cache = EmbeddingCache(tmp_path, model, processor)
    cache.add(segmentation)
    (shard,) = cache.directory.glob("*.npy")
    values = 6 * 16 * 4 * 4
    assert 2 * values <= shard.stat().st_size <= 2 * values + 256


def test_encodes_only_what_is_missing(tmp_path, model, processor, segmentation, monkeypatch):
    cache = EmbeddingCache(tmp_path, model, processor)
    cache.add(segmentation.select(range(4)))
    encoded = []
    again = EmbeddingCache(tmp_path, model, processor)
    real = again._encode
    monkeypatch.setattr(again, "_encode", lambda encoder, pixels: encoded.append(len(pixels)) or real(encoder, pixels))
    keys = again.add(segmentation)
    assert sum(encoded) == 2 and len(again) == 6 and all(key in again for key in keys)
    assert again.add(segmentation) == keys and sum(encoded) == 2


def test_repeated_images_are_stored_once(tmp_path, model, processor, preferences):
    cache = EmbeddingCache(tmp_path, model, processor)
    keys = cache.add(preferences.select([0, 0, 1]))
    assert len(cache) == 2 and keys[0] == keys[1]


def test_another_encoder_never_reads_a_stale_entry(tmp_path, model, processor, segmentation):
    keys = EmbeddingCache(tmp_path, model, processor).add(segmentation)
    with torch.no_grad():
        model.vision_encoder.neck.conv1.weight *= 1.01
    assert keys[0] not in EmbeddingCache(tmp_path, model, processor)
    processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    assert keys[0] not in EmbeddingCache(tmp_path, model, processor)


@pytest.mark.parametrize("damage", ["flip", "truncate", "index"])
def test_a_damaged_shard_is_set_aside_and_encoded_again(tmp_path, model, processor, segmentation, damage, caplog):
    cache = EmbeddingCache(tmp_path, model, processor)
    keys = cache.add(segmentation)
    expected = cache[keys[0]]
    (shard,) = cache.directory.glob("*.npy")
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[-5] ^= 255
        shard.write_bytes(content)
    elif damage == "truncate":
        shard.write_bytes(content[:-50])
    else:
        shard.with_suffix(".json").write_text("{")
    with caplog.at_level(logging.WARNING):
        fresh = EmbeddingCache(tmp_path, model, processor)
        fresh.add(segmentation)
    assert "damaged" in caplog.text and len(fresh) == 6
    assert torch.equal(fresh[keys[0]], expected)
    assert not shard.exists()


def test_a_damaged_shard_is_never_read(tmp_path, model, processor, segmentation):
    cache = EmbeddingCache(tmp_path, model, processor)
    keys = cache.add(segmentation)
    (shard,) = cache.directory.glob("*.npy")
    content = bytearray(shard.read_bytes())
    content[-5] ^= 255
    shard.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        EmbeddingCache(tmp_path, model, processor)[keys[0]]


def test_a_killed_run_keeps_the_shards_it_finished(tmp_path, model, processor, segmentation, monkeypatch):
    monkeypatch.setattr(embeddings, "_SHARD_BYTES", 1)
    cache = EmbeddingCache(tmp_path, model, processor)
    real, calls = cache._encode, []

    def die_at_the_fourth(encoder, pixels):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(encoder, pixels)

    monkeypatch.setattr(cache, "_encode", die_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        cache.add(segmentation)
    again = EmbeddingCache(tmp_path, model, processor)
    assert len(again) == 3
    again.add(segmentation)
    assert len(again) == 6


def test_reading_many_shards_keeps_few_open(tmp_path, model, processor, segmentation, monkeypatch):
    monkeypatch.setattr(embeddings, "_SHARD_BYTES", 1)
    monkeypatch.setattr(embeddings, "_OPEN_SHARDS", 2)
    cache = EmbeddingCache(tmp_path, model, processor)
    keys = cache.add(segmentation)
    whole = EmbeddingCache(tmp_path / "other", model, processor)
    whole.add(segmentation)
    for key in [*keys, *reversed(keys)]:
        assert torch.equal(cache[key], whole[key])
    assert len(cache._open) == 2


def test_variants_are_cached_beside_the_image(tmp_path, model, processor, segmentation):
    cache = EmbeddingCache(tmp_path, model, processor, dtype="float32")
    keys = cache.add(segmentation, variants=3)
    assert len(cache) == 18
    variant = variant_of(keys[1], 2)
    look = Image.fromarray(variant.look(np.asarray(segmentation[1]["image"].convert("RGB"))))
    pixels = processor(images=look, return_tensors="pt")["pixel_values"]
    assert torch.equal(cache[variant_key(keys[1], 2)], model.get_image_embeddings(pixels)[0])
    assert cache.add(segmentation) == keys and len(cache) == 18


def test_two_writers_share_a_directory(tmp_path, model, processor, segmentation):
    one, two = (EmbeddingCache(tmp_path, model, processor) for _ in range(2))
    one.add(segmentation.select(range(3)))
    two.add(segmentation.select(range(2, 6)))
    one.refresh()
    assert len(one) == 6 and not list(one.directory.glob(".*.tmp"))


def test_a_writer_removes_what_killed_writers_left_and_nothing_else(tmp_path, model, processor, segmentation):
    fcntl = pytest.importorskip("fcntl")
    cache = EmbeddingCache(tmp_path, model, processor)
    left, held = (cache.directory / f".{name}.npy.0123.tmp" for name in ("left", "held"))
    left.write_bytes(b"half a shard")
    with open(held, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        cache.add(segmentation)
        assert held.exists() and not left.exists()
    assert len(EmbeddingCache(tmp_path, model, processor)) == 6


def test_a_hash_follows_the_bytes(segmentation):
    rows = segmentation_rows()
    import datasets

    undecoded = segmentation.cast_column("image", datasets.Image(decode=False))
    hashes = {image_hash(row["image"]) for row in undecoded}
    assert len(hashes) == len(rows)


def test_bad_settings_and_images(tmp_path, model, processor, segmentation):
    with pytest.raises(UserError, match="embedding_dtype"):
        EmbeddingCache(tmp_path, model, processor, dtype="int8")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        EmbeddingCache(tmp_path / "file", model, processor)
    import datasets

    broken = datasets.Dataset.from_list(
        [{"image": {"bytes": b"not an image", "path": "a b.jpg"}}],
        features=datasets.Features({"image": datasets.Image()}),
    )
    with pytest.raises(UserError, match="a b.jpg"):
        EmbeddingCache(tmp_path, model, processor).add(broken)


def test_float16_keeps_the_masks(tmp_path, model, processor, segmentation):
    from visionsam_hf.inference.prediction import iterate_predictions

    cache = EmbeddingCache(tmp_path, model, processor)
    overlap = union = 0
    for cached, plain in zip(
        iterate_predictions(model, processor, segmentation, cache=cache),
        iterate_predictions(model, processor, segmentation),
    ):
        overlap += np.logical_and(cached.masks, plain.masks).sum()
        union += np.logical_or(cached.masks, plain.masks).sum()
    assert union and overlap / union >= 0.995
