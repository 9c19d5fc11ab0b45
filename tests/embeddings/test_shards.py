import json
from pathlib import Path

import numpy as np
import pytest
import torch

from visionsam_hf.embeddings.shards import MappedShard, read_index, verify, write_shard


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_is_written_is_read(tmp_path, dtype):
    values = [torch.full((2, 3, 3), float(number)).to(getattr(torch, dtype)) for number in range(4)]
    write_shard(tmp_path, "one", ["a", "b", "c", "d"], values, dtype)
    shard = read_index(tmp_path / "one.json")
    verify(shard)
    assert shard.keys == ("a", "b", "c", "d")
    stored = MappedShard(shard)
    for row in (2, 0, 3):
        assert torch.equal(torch.from_numpy(stored[row]).view(getattr(torch, dtype)), values[row])
    assert np.load(shard.path).shape == (4, 2, 3, 3)


def test_an_index_that_speaks_of_another_number_is_found_out(tmp_path):
    write_shard(tmp_path, "one", ["a", "b"], [torch.zeros(1, 2, 2)] * 2, "float16")
    index = json.loads((tmp_path / "one.json").read_text())
    (tmp_path / "one.json").write_text(json.dumps({**index, "images": ["a"]}))
    with pytest.raises(ValueError, match="another number"):
        verify(read_index(tmp_path / "one.json"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of this process")
def test_reading_everything_keeps_little_mapped(tmp_path):
    """32 MB read in random order; less than an eighth stays resident."""

    def resident_file_kb():
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssFile")).split()[1])

    write_shard(tmp_path, "one", [str(row) for row in range(1024)], [torch.zeros(64, 16, 16)] * 1024, "float16")
    shard = MappedShard(read_index(tmp_path / "one.json"))
    before = resident_file_kb()
    for row in np.random.default_rng(0).permutation(1024):
        shard[int(row)]
    assert resident_file_kb() - before < 4096
