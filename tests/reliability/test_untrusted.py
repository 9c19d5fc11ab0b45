"""Models, checkpoints and files from strangers: no code of theirs runs, and their text stays text."""

import os
import pickle
import shutil
import tarfile
import zipfile

import pytest
import torch

from tests.reliability.fixtures import project  # noqa: F401
from tests.reliability.forked import fork
from tests.reliability.test_full_disks import one_line
from tests.reliability.test_interrupts import patched
from visionsam_hf.cli import command_line as cli
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import read_yaml
from visionsam_hf.models.loading import load_model, load_processor
from visionsam_hf.training.resuming import vouch_for

# ruff: noqa: F811


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def plant(path, trace, *, kind):
    """A file that runs code when it is read as a pickle: as torch writes it now, as it once did, or plain."""
    if kind == "plain":
        path.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        torch.save({"weight": Bomb(trace)}, path, _use_new_zipfile_serialization=kind == "zip")


def test_the_bomb_goes_off_where_pickles_are_trusted(tmp_path):
    plant(tmp_path / "x.bin", tmp_path / "trace", kind="zip")
    torch.load(tmp_path / "x.bin", weights_only=False)
    assert (tmp_path / "trace").is_dir()


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model.pt", "adapter_model.bin", "model.ckpt", "model.pkl"]
)
def test_a_model_directory_with_pickles_runs_nothing(name, kind, project, tmp_path):
    for with_weights in (False, True):
        model = tmp_path / f"model{with_weights}"
        shutil.copytree(project.model, model)
        if not with_weights:
            (model / "model.safetensors").unlink()
        plant(model / name, tmp_path / "trace", kind=kind)
        try:
            load_model(str(model))
            load_processor(str(model))
        except UserError as error:
            assert not with_weights and "safetensors" in str(error)
    assert not (tmp_path / "trace").exists()


def test_a_model_may_not_bring_code(project, tmp_path):
    """`auto_map` names Python files beside the weights; nothing here reads them."""
    import json

    model = tmp_path / "model"
    shutil.copytree(project.model, model)
    for name in ("config.json", "processor_config.json"):
        values = json.loads((model / name).read_text())
        values["auto_map"] = {
            key: "stranger.Model" for key in ("AutoModel", "AutoConfig", "AutoProcessor", "AutoImageProcessor")
        }
        (model / name).write_text(json.dumps(values))
    (model / "stranger.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'trace')!r})\n")
    try:
        load_model(str(model))
        load_processor(str(model))
    except UserError:
        pass
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin"]
)
def test_a_checkpoint_of_a_stranger_runs_nothing(name, project, tmp_path):
    """Even one whose hashes are right: only tensors and numbers are read."""
    out = tmp_path / "out"
    command = project.commands(out)["sft"]
    first = fork(patched(command, 5, lambda *_: os.kill(os.getpid(), 9)), log=tmp_path / "log")
    checkpoint = out / "result.partial" / "checkpoint-4"
    assert first.code == -9 and checkpoint.is_dir(), first.text
    plant(checkpoint / name, tmp_path / "trace", kind="zip")
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    vouch_for(checkpoint)
    ending = fork(lambda: cli.main(command), log=tmp_path / "log")
    assert not (tmp_path / "trace").exists()
    if ending.code:
        one_line(ending, "damaged, or holds code")
    else:
        assert name == "training_args.bin"  # which nobody reads


def test_yaml_makes_no_objects(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path / 'trace'}']\n")
    with pytest.raises(UserError):
        read_yaml(config)
    assert not (tmp_path / "trace").exists()


def test_a_numpy_file_in_the_cache_makes_no_objects(project, tmp_path):
    import numpy as np

    out = tmp_path / "out"
    command = project.commands(out)["embed"]
    assert fork(lambda: cli.main(command), log=tmp_path / "log").code == 0
    for shard in (out / "cache").rglob("*.npy"):
        np.save(shard, np.array([Bomb(tmp_path / "trace")], dtype=object), allow_pickle=True)
    ending = fork(lambda: cli.main(command), log=tmp_path / "log")
    assert ending.code == 0, ending.text  # damaged shards are encoded again
    assert not (tmp_path / "trace").exists()


def test_archives_that_lead_outside_write_nothing_there(tmp_path):
    from datasets_builders.photographs import unpack

    inside = tmp_path / "target"
    for number, name in enumerate(["../evil.json", "/evil.json", "a/../../evil.json", "..\\evil.json"]):
        archive = tmp_path / f"{number}.tar"
        with tarfile.open(archive, "w") as file:
            file.addfile(tarfile.TarInfo(name))
        with pytest.raises(UserError):
            unpack(archive, inside)
    link = tmp_path / "link.tar"
    with tarfile.open(link, "w") as file:
        entry = tarfile.TarInfo("a.json")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(entry)
    with pytest.raises(UserError):
        unpack(link, inside)
    with zipfile.ZipFile(tmp_path / "z.tar", "w") as file:
        file.writestr("../evil.json", "{}")
    with pytest.raises(UserError):
        unpack(tmp_path / "z.tar", inside)
    assert not list(tmp_path.rglob("*evil.json")) and not list(inside.iterdir())


SCRIPT = "<script>alert(1)</script>"


def test_names_with_markup_stay_text_on_every_page(tmp_path):
    """A category, a defect, an image name and a title that are scripts: report, inspection page, cards."""
    from conftest import segmentation_rows

    from visionsam_hf.data.dataset_directory import write_splits
    from visionsam_hf.data.schema import segmentation_features

    rows = segmentation_rows(4)
    for row in rows:
        row["category"], row["image_id"] = SCRIPT, f"{SCRIPT}/{row['image_id']}"
        for item in row["objects"]:
            item["defect"] = f"<img src=x onerror=alert(1)>{SCRIPT}"
    card = f"---\ntitle: '{SCRIPT}'\n---\n"
    write_splits(
        tmp_path / "data", {"train": rows, "heldout": rows}, segmentation_features([SCRIPT, "other"]), card=card
    )
    data = str(tmp_path / "data")
    for words in (
        ["inspect", data, "--output_dir", str(tmp_path / "inspect")],
        ["evaluate", "--model_name_or_path", "baseline:fill_box", "--dataset", data, "--output_dir", str(tmp_path / "evaluate")],
        ["report", "--systems", f"{{'{SCRIPT}': [{tmp_path / 'evaluate'}]}}", "--title", SCRIPT, "--dataset", data,
         "--output_dir", str(tmp_path / "report")],
        ["curate", "--dataset", data, "--output_dir", str(tmp_path / "curate"), "--count", "2"],
    ):  # fmt: skip
        ending = fork(lambda words=words: cli.main(words), log=tmp_path / "log")
        assert ending.code == 0, ending.text
    pages = [*tmp_path.rglob("*.html")]
    assert len(pages) == 2
    for page in pages:
        text = page.read_text()
        assert SCRIPT not in text and "<img src=x" not in text and "&lt;script&gt;alert(1)" in text, page
    for card in tmp_path.glob("*/README.md"):
        body = card.read_text().split("\n---\n", 1)[1]
        assert SCRIPT not in body and "<img src=x" not in body, card
