import logging

import datasets
import numpy as np
import pytest
import torch
from conftest import segmentation_rows
from PIL import Image

from visionsam_hf.data.augmentation import variant_key, variant_of
from visionsam_hf.data.errors import UserError
from visionsam_hf.embeddings import cache as embeddings
from visionsam_hf.embeddings import shards
from visionsam_hf.embeddings.cache import EmbeddingCache, open_cache
from visionsam_hf.embeddings.cache_settings import CacheSettings
from visionsam_hf.embeddings.decoding import image_hash
from visionsam_hf.inference.prediction import iterate_predictions

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 of one processor in batches of different sizes


def test_a_cached_embedding_is_the_encoders(tmp_path, model, processor, segmentation):
    cache = EmbeddingCache(tmp_path, model, processor, dtype="float32")
    keys = cache.add(segmentation, batch_size=1)
    for row, key in zip(segmentation, keys):
        pixels = processor(images=row["image"].convert("RGB"), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(cache[key], model.get_image_embeddings(pixels)[0], **CLOSE)


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
    (shard,) = cache.directory.glob("*.safetensors")
    values = 6 * 16 * 4 * 4
    assert 2 * values <= shard.stat().st_size <= 2 * values + 6 * 40 + 300


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


@pytest.mark.parametrize("damage", ["flip", "truncate", "header"])
def test_a_damaged_shard_is_set_aside_and_encoded_again(tmp_path, model, processor, segmentation, damage, caplog):
    cache = EmbeddingCache(tmp_path, model, processor)
    keys = cache.add(segmentation)
    expected = cache[keys[0]]
    (shard,) = cache.directory.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[-5] ^= 255
        shard.write_bytes(content)
    elif damage == "truncate":
        shard.write_bytes(content[:-50])
    else:
        content[12] ^= 255
        shard.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        fresh = EmbeddingCache(tmp_path, model, processor)
        fresh.add(segmentation)
    assert "damaged" in caplog.text and len(fresh) == 6
    torch.testing.assert_close(fresh[keys[0]], expected, rtol=1e-2, atol=1e-3)
    assert not shard.exists()


def test_a_damaged_shard_is_never_read(tmp_path, model, processor, segmentation):
    cache = EmbeddingCache(tmp_path, model, processor)
    keys = cache.add(segmentation)
    (shard,) = cache.directory.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-5] ^= 255
    shard.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        EmbeddingCache(tmp_path, model, processor)[keys[0]]


def test_a_killed_run_keeps_the_shards_it_finished(tmp_path, model, processor, segmentation, monkeypatch):
    monkeypatch.setattr(embeddings, "_SHARD_BYTES", 1)
    cache = EmbeddingCache(tmp_path, model, processor, batch_size=1)
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
    monkeypatch.setattr(shards, "_MAPPED_BYTES", 2 * shards._AROUND)
    cache = EmbeddingCache(tmp_path, model, processor, batch_size=1)
    keys = cache.add(segmentation)
    assert len(list(cache.directory.glob("*.safetensors"))) == 6
    whole = EmbeddingCache(tmp_path / "other", model, processor, dtype="float32")
    whole.add(segmentation)
    for key in [*keys, *reversed(keys)]:
        torch.testing.assert_close(cache[key].float(), whole[key], rtol=2e-2, atol=1e-2)
        assert len(cache._open._maps) <= 3


def test_variants_are_cached_beside_the_image(tmp_path, model, processor, segmentation):
    cache = EmbeddingCache(tmp_path, model, processor, dtype="float32")
    keys = cache.add(segmentation, variants=3)
    assert len(cache) == 18
    variant = variant_of(keys[1], 2)
    look = Image.fromarray(variant.look(np.asarray(segmentation[1]["image"].convert("RGB"))))
    pixels = processor(images=look, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(cache[variant_key(keys[1], 2)], model.get_image_embeddings(pixels)[0], **CLOSE)
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
    left, held = (cache.directory / f".{name}.safetensors.0123.tmp" for name in ("left", "held"))
    left.write_bytes(b"half a shard")
    with open(held, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        cache.add(segmentation)
        assert held.exists() and not left.exists()
    assert len(EmbeddingCache(tmp_path, model, processor)) == 6


def test_a_hash_follows_the_bytes(segmentation):
    rows = segmentation_rows()
    undecoded = segmentation.cast_column("image", datasets.Image(decode=False))
    hashes = {image_hash(row["image"]) for row in undecoded}
    assert len(hashes) == len(rows)


def test_what_is_left_open_is_what_the_directory_holds(tmp_path, model, processor, segmentation, caplog):
    exact = EmbeddingCache(tmp_path, model, processor, dtype="float32")
    exact.add(segmentation)
    found = open_cache(CacheSettings(embeddings=str(tmp_path)), model, processor)
    assert (found.dtype, found.fast, len(found)) == ("float32", False, 6)
    assert open_cache(CacheSettings(), model, processor) is None and not caplog.records
    # Another encoder has nothing there.
    with torch.no_grad():
        model.vision_encoder.neck.conv1.weight *= 1.01
    assert EmbeddingCache(tmp_path, model, processor).dtype == "float16" and not caplog.records


def test_a_second_set_is_said_in_a_line(tmp_path, model, processor, caplog):
    EmbeddingCache(tmp_path, model, processor, dtype="float32")
    EmbeddingCache(tmp_path, model, processor, dtype="bfloat16")
    (record,) = caplog.records
    assert "float32 by float32 arithmetic; bfloat16 by 16 bit makes another set" in record.getMessage()
    with pytest.raises(UserError, match="say which, with embedding_dtype"):
        EmbeddingCache(tmp_path, model, processor)
    assert EmbeddingCache(tmp_path, model, processor, dtype="float32").dtype == "float32"
    assert EmbeddingCache(tmp_path, model, processor, fast=True, dtype="bfloat16").fast


def test_another_version_s_embeddings_are_never_read(tmp_path, model, processor, segmentation, caplog, monkeypatch):
    monkeypatch.setattr(embeddings, "LAYOUT", 2)
    EmbeddingCache(tmp_path, model, processor).add(segmentation)
    monkeypatch.undo()
    assert len(EmbeddingCache(tmp_path, model, processor)) == 0
    (record,) = caplog.records
    assert "another version" in record.getMessage()


def test_pieces_fill_shards_together_with_one_encoder(tmp_path, model, processor, segmentation, monkeypatch):
    encoders = []
    real = embeddings.ImageEncoder
    monkeypatch.setattr(embeddings, "ImageEncoder", lambda *args, **kwargs: encoders.append(1) or real(*args, **kwargs))
    cache = EmbeddingCache(tmp_path, model, processor)
    with cache.filling():
        for row in range(6):
            (key,) = cache.add(segmentation.select([row]))
            assert key in cache and cache[key].shape == (16, 4, 4)
        assert len(cache) == 6 and not list(cache.directory.glob("*.safetensors"))
    assert len(encoders) == 1 and len(list(cache.directory.glob("*.safetensors"))) == 1
    assert len(cache) == len(EmbeddingCache(tmp_path, model, processor)) == 6


@pytest.mark.parametrize(("given", "sizes"), [({}, [2, 2, 2]), ({"batch_size": 4}, [4, 2])])
def test_images_are_encoded_in_batches(tmp_path, model, processor, segmentation, monkeypatch, given, sizes):
    cache = EmbeddingCache(tmp_path, model, processor, dtype="float32", **given)
    real, seen = cache._encode, []
    monkeypatch.setattr(cache, "_encode", lambda encoder, pixels: seen.append(len(pixels)) or real(encoder, pixels))
    cache.add(segmentation)
    assert seen == sizes


def test_only_images_that_are_asked_about_are_encoded(tmp_path, model, processor, segmentation):
    cache = EmbeddingCache(tmp_path, model, processor)
    without = segmentation.map(lambda row, index: {"objects": row["objects"] if index else []}, with_indices=True)
    assert {result.row for result in iterate_predictions(model, processor, without, cache=cache)} == {1, 2, 3, 4, 5}
    assert len(cache) == 5
    few = EmbeddingCache(tmp_path / "few", model, processor)
    assert len(list(iterate_predictions(model, processor, segmentation, cache=few, max_prompts=1))) == 1
    assert len(few) == 1


def test_bad_settings_and_images(tmp_path, model, processor, segmentation):
    with pytest.raises(UserError, match="embedding_dtype"):
        EmbeddingCache(tmp_path, model, processor, dtype="int8")
    with pytest.raises(UserError, match="embedding_batch_size"):
        EmbeddingCache(tmp_path, model, processor, batch_size=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        EmbeddingCache(tmp_path / "file", model, processor)
    broken = datasets.Dataset.from_list(
        [{"image": {"bytes": b"not an image", "path": "a b.jpg"}}],
        features=datasets.Features({"image": datasets.Image()}),
    )
    with pytest.raises(UserError, match="a b.jpg"):
        EmbeddingCache(tmp_path, model, processor).add(broken)


def test_float16_keeps_the_masks(tmp_path, model, processor, segmentation):
    cache = EmbeddingCache(tmp_path, model, processor)
    overlap = union = 0
    for cached, plain in zip(
        iterate_predictions(model, processor, segmentation, cache=cache),
        iterate_predictions(model, processor, segmentation),
    ):
        overlap += np.logical_and(cached.masks, plain.masks).sum()
        union += np.logical_or(cached.masks, plain.masks).sum()
    assert union and overlap / union >= 0.995
