import json
import os
import time

import pytest

from visionsam_hf.cli.command_line import main
from visionsam_hf.data.errors import UserError
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.embeddings.shards import describe_cache, holdings, prune_cache


@pytest.fixture
def cache(tmp_path, model, processor, segmentation):
    cache = EmbeddingCache(tmp_path / "cache", model, processor)
    cache.add(segmentation)
    return cache


def test_info_counts_images_and_bytes(tmp_path, cache, capsys):
    assert main(["embed", "--info", str(tmp_path / "cache")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1].split()[0] == "6" and "float16" in lines[1] and str(cache.directory) in lines[1]
    (holding,) = holdings(tmp_path / "cache")
    assert holding.is_current and holding.images == 6


def test_prune_removes_what_nothing_reads(tmp_path, cache, model, processor, capsys):
    root = tmp_path / "cache"
    other = root / "0123"
    other.mkdir()
    (other / "meta.json").write_text(json.dumps({"transformers": "4.0.0", "layout": 1}))
    (cache.directory / ".x.safetensors.1234.tmp").write_bytes(b"half a shard")
    assert "another version" in describe_cache(root)
    assert main(["embed", "--prune", str(root)]) == 0
    assert "1 parts" in capsys.readouterr().out
    assert not other.exists() and len(list(cache.directory.iterdir())) == 2
    assert len(EmbeddingCache(root, model, processor)) == 6


def test_prune_knows_reference_logits(tmp_path, cache):
    """Those of preference optimisation, which lie beside the encoders' parts: used within the month they stay."""
    reference = tmp_path / "cache" / "reference"
    reference.mkdir()
    for name, days in (("reference_logits.old.npy", 40), ("reference_logits.new.npy", 5), (".reference_logits.x.npy.partial", 0)):
        (reference / name).write_bytes(b"logits")
        os.utime(reference / name, times=(time.time() - days * 86400,) * 2)
    assert "2 files of reference logits" in prune_cache(tmp_path / "cache")
    assert [path.name for path in reference.iterdir()] == ["reference_logits.new.npy"]


def test_prune_removes_damaged_shards(tmp_path, cache):
    (shard,) = cache.directory.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "1 damaged" in prune_cache(tmp_path / "cache")
    assert not shard.exists()


def test_another_directory_is_left_alone(tmp_path, capsys):
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(UserError, match="is no embedding cache"):
        prune_cache(tmp_path)
    assert main(["embed", "--info", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_encoding_needs_its_keys(capsys):
    assert main(["embed", "--dataset", "x"]) == 2
    assert "model_name_or_path" in capsys.readouterr().err
