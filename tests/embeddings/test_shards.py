import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from visionsam_hf.embeddings.shards import OpenShards, read_shard, verify, write_shard


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_is_written_is_read(tmp_path, dtype):
    values = [torch.full((2, 3, 3), float(number)).to(dtype) for number in range(4)]
    path = tmp_path / "one.safetensors"
    write_shard(path, ["a", "b", "c", "d"], values)
    shard = read_shard(path)
    verify(shard)
    assert shard.keys == ("a", "b", "c", "d")
    shards = OpenShards()
    for row in (2, 0, 3):
        assert torch.equal(shards.read(path, row), values[row])
    assert load_file(path)["embeddings"].shape == (4, 2, 3, 3)
    assert path.stat().st_mode & 0o044, "others may read what they share"


def test_a_header_that_speaks_of_another_number_is_found_out(tmp_path):
    path = tmp_path / "one.safetensors"
    save_file({"embeddings": torch.zeros(2, 1, 2, 2)}, path, {"images": json.dumps(["a"]), "crc32": "0"})
    with pytest.raises(ValueError, match="another number"):
        read_shard(path)


def test_another_image_s_name_is_found_out(tmp_path):
    path = tmp_path / "one.safetensors"
    write_shard(path, ["a", "b"], [torch.zeros(1, 2, 2)] * 2)
    path.write_bytes(path.read_bytes().replace(rb'\"a\"', rb'\"c\"'))
    assert read_shard(path).keys == ("c", "b")
    with pytest.raises(ValueError, match="checksum"):
        verify(read_shard(path))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of this process")
def test_reading_everything_keeps_little_mapped(tmp_path):
    """256 MB read in random order; less than an eighth is ever resident."""

    def resident_file_kb():
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssFile")).split()[1])

    path = tmp_path / "one.safetensors"
    write_shard(path, [str(row) for row in range(512)], list(torch.zeros(512, 64, 64, 64, dtype=torch.float16)))
    shards = OpenShards()
    shards.read(path, 0)
    before, most = resident_file_kb(), 0
    for row in np.random.default_rng(0).permutation(512):
        shards.read(path, int(row))
        most = max(most, resident_file_kb())
    assert most - before < 32 * 1024
