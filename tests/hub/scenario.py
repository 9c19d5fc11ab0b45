"""Everything that is done against the Hub's double, in one process: imports are slow. `python scenario.py DIRECTORY`.

Needs HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_DISABLE_XET=1 in the environment, set before it starts. Writes what it
saw to DIRECTORY/seen.json, for test_hub.py to judge. FAULTS=1 says that the double can be told to fail.
"""

import contextlib
import io
import json
import os
import sys
import urllib.request
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

import conftest  # noqa: F401  threads and caches
import numpy as np
import torch
from datasets import load_dataset
from huggingface_hub import DatasetCard, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from material import visionsam, write_all, write_base
from PIL import Image
from stranger import masks_of, photograph
from transformers import SamModel

from visionsam_hf.cli import command_line as cli
from visionsam_hf.models.loading import load_model

SEEN: dict = {}
ENDPOINT = os.environ["HF_ENDPOINT"]


def command(*words):
    """Exit code, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(word) for word in words])
    lines = [line for line in err.getvalue().splitlines() if line.startswith("visionsam:")]
    return {"code": code, "out": out.getvalue(), "err": "\n".join(lines)}


def commits(repo, kind="model"):
    return [commit.title for commit in HfApi().list_repo_commits(repo, repo_type=kind)]


def ask(path, content=None):
    data = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{ENDPOINT}{path}", data=data)) as answer:
        return json.loads(answer.read())


def same_weights(left, right):
    left, right = left.state_dict(), right.state_dict()
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def printed_lines(output):
    """The Python that a push prints last."""
    return output[output.index("from ") :] if "from peft" not in output else output[output.index("from peft") :]


def without_login():
    token = os.environ.pop("HF_TOKEN")
    SEEN["no token"] = command("push", "out/sft", "tester/sft")
    SEEN["dry run"] = command("push", "out/sft", "tester/sft", "--dry_run")
    os.environ["HF_TOKEN"] = token
    SEEN["bad name"] = command("push", "out/sft", "no spaces/here")


def models():
    SEEN["base"] = command("push", "base", "tester/base", "--public")
    SEEN["data"] = command("push", "data", "tester/data", "--revision", "v1")
    SEEN["model"] = command("push", "out/sft", "tester/sft", "--revision", "v1")
    before = commits("tester/sft")
    SEEN["model again"] = command("push", "out/sft", "tester/sft", "--revision", "v1")
    SEEN["model commits"] = [len(before), len(commits("tester/sft"))]
    SEEN["model private"] = HfApi().repo_info("tester/sft").private
    SEEN["base private"] = HfApi().repo_info("tester/base").private
    try:
        HfApi(token=False).repo_info("tester/sft")
        SEEN["stranger sees it"] = True
    except HfHubHTTPError:
        SEEN["stranger sees it"] = False
    SEEN["model files"] = HfApi().list_repo_files("tester/sft", revision="v1")
    local = SamModel.from_pretrained("out/sft")
    SEEN["model weights"] = same_weights(local, SamModel.from_pretrained("tester/sft", revision="v1"))
    names = {"image": photograph(), "x1": 20.0, "y1": 14.0, "x2": 41.0, "y2": 35.0}
    exec(printed_lines(SEEN["model"]["out"]), names)
    np.savez("local_masks.npz", **masks_of("out/sft"))
    SEEN["printed lines"] = bool((names["masks"][0].numpy() == np.load("local_masks.npz")["box"]).all())
    prompt = ("--image", save_photograph(), "--box", 20, 14, 41, 35)
    visionsam("predict", "--model", "out/sft", *prompt, "--output", "predicted")
    predicted = np.asarray(Image.open("predicted/mask.png"))
    SEEN["predict"] = bool((predicted == np.load("local_masks.npz")["box"][0, 0]).all())

    with torch.no_grad():
        next(local.parameters()).add_(1.0)
    local.save_pretrained("out/sft")
    SEEN["tag taken"] = command("push", "out/sft", "tester/sft", "--revision", "v1")
    SEEN["next tag"] = command("push", "out/sft", "tester/sft", "--revision", "v2")
    tagged = SamModel.from_pretrained("tester/sft", revision="v1")
    SEEN["tags differ"] = not same_weights(tagged, SamModel.from_pretrained("tester/sft", revision="v2"))
    SEEN["public by mistake"] = command("push", "base", "tester/base")
    SEEN["not two"] = command("push", "base", "tester/base", "--private", "--public")


def save_photograph():
    photograph().save("photograph.png")
    return "photograph.png"


def adapters():
    train = ("--use_cpu", "true", "--max_steps", 2, "--per_device_train_batch_size", 2, "--learning_rate", "1e-2")
    parts = ("--model_name_or_path", "base", "--dataset", "data", "--output_dir", "out/lora")
    visionsam("sft", *parts, "--use_peft", "true", *train)
    SEEN["adapter"] = command("push", "out/lora", "tester/lora", "--revision", "v1")
    SEEN["adapter again"] = command("push", "out/lora", "tester/lora", "--revision", "v1")
    SEEN["adapter files"] = HfApi().list_repo_files("tester/lora")
    names: dict = {}
    exec(printed_lines(SEEN["adapter"]["out"]), names)
    merged = names["model"].merge_and_unload()
    SEEN["adapter weights"] = same_weights(merged, load_model("out/lora"))
    SEEN["adapter moved"] = not same_weights(merged, load_model("base"))


def data_sets():
    SEEN["data again"] = command("push", "data", "tester/data", "--revision", "v1")
    SEEN["pairs"] = command("push", "pairs", "tester/pairs")
    SEEN["pairs again"] = command("push", "pairs", "tester/pairs")
    for name, revision in (("data", "v1"), ("pairs", None)):
        hub = load_dataset(f"tester/{name}", revision=revision)
        streamed = load_dataset(f"tester/{name}", revision=revision, streaming=True)
        local = load_dataset("parquet", data_files={split: f"{name}/data/{split}-*.parquet" for split in hub})
        SEEN[f"{name} splits"] = {split: len(rows) for split, rows in hub.items()}
        SEEN[f"{name} features"] = all(hub[split].features == local[split].features for split in hub)
        SEEN[f"{name} rows"] = all(list(hub[split]) == list(local[split]) for split in hub)
        SEEN[f"{name} streamed"] = all(list(streamed[split]) == list(local[split]) for split in hub)
        names: dict = {}
        exec(printed_lines(SEEN[name]["out"]), names)
        SEEN[f"{name} lines"] = isinstance(names["image"], Image.Image)
    # Shards of an earlier push, split otherwise, would be loaded with the new ones.
    stale = Path("data/data/train-00000-of-00001.parquet").read_bytes()
    place = {"path_in_repo": "data/train-00001-of-00002.parquet", "repo_id": "tester/data", "repo_type": "dataset"}
    HfApi().upload_file(path_or_fileobj=stale, **place)
    SEEN["stale shard"] = command("push", "data", "tester/data")
    SEEN["rows after stale"] = len(load_dataset("tester/data", split="train"))


def interrupted():
    """The process dies between the upload and the commit; the same command then finishes."""
    write_base(Path("late"))

    upload = HfApi.preupload_lfs_files

    def upload_and_die(*arguments, **named):
        upload(*arguments, **named)
        raise KeyboardInterrupt

    HfApi.preupload_lfs_files = upload_and_die
    SEEN["killed"] = command("push", "late", "tester/late", "--revision", "v1")
    HfApi.preupload_lfs_files = upload
    SEEN["killed files"] = HfApi().list_repo_files("tester/late")
    SEEN["killed tags"] = len(HfApi().list_repo_refs("tester/late").tags)
    SEEN["resumed"] = command("push", "late", "tester/late", "--revision", "v1")
    SEEN["resumed weights"] = same_weights(load_model("late"), load_model("tester/late", revision="v1"))
    if os.environ.get("FAULTS") != "1":
        return
    with torch.no_grad():
        model = SamModel.from_pretrained("late")
        next(model.parameters()).add_(1.0)
    model.save_pretrained("late")
    ask("/_fault", {"path": "PUT /_lfs/", "status": 503, "times": 1})
    ask("/_fault", {"path": "POST /api/models/tester/late/commit", "status": 507})
    SEEN["hub fails"] = command("push", "late", "tester/late", "--revision", "v2")
    uploads = sum(call.startswith("PUT /_lfs/") for call in ask("/_calls"))
    ask("/_fault", {"path": "POST /api/models/tester/late/tag", "status": 0, "times": 1})
    SEEN["hub dies"] = command("push", "late", "tester/late", "--revision", "v2")
    SEEN["hub is back"] = command("push", "late", "tester/late", "--revision", "v2")
    SEEN["sent twice"] = sum(call.startswith("PUT /_lfs/") for call in ask("/_calls")) - uploads
    SEEN["back weights"] = same_weights(model, load_model("tester/late", revision="v2"))
    SEEN["bad card"] = ""
    try:
        ModelCard("---\nlicense: mine-alone\n---\n# x\n").validate()
    except ValueError as error:
        SEEN["bad card"] = str(error)


def cards():
    SEEN["cards"] = {}
    for repo in ("sft", "lora", "auto", "data", "pairs"):
        card = DatasetCard if repo in ("data", "pairs") else ModelCard
        loaded = card.load(f"tester/{repo}")
        loaded.validate()
        SEEN["cards"][repo] = {"text": str(loaded), "data": loaded.data.to_dict()}


def trained_and_pushed():
    train = ("--use_cpu", "true", "--max_steps", 1, "--per_device_train_batch_size", 2)
    train += ("--save_strategy", "steps", "--save_steps", 1)
    base = ("sft", "--model_name_or_path", "base", "--dataset", "data", "--output_dir", "out/auto", *train)
    SEEN["no id"] = command(*base, "--push_to_hub", "true")
    where = ("--hub_model_id", "tester/auto", "--hub_token", os.environ["HF_TOKEN"])
    SEEN["auto"] = command(*base, "--push_to_hub", "true", *where)
    SEEN["auto commits"] = commits("tester/auto")
    SEEN["auto files"] = HfApi().list_repo_files("tester/auto")


def secrets():
    token = os.environ["HF_TOKEN"].encode()
    files = (path for path in Path(".").rglob("*") if path.is_file())
    SEEN["token written"] = [str(path) for path in files if token in path.read_bytes()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_all(Path(sys.argv[1]))
    try:
        for step in (without_login, models, adapters, data_sets, interrupted, trained_and_pushed, cards, secrets):
            step()
    finally:
        Path("seen.json").write_text(json.dumps(SEEN, indent=1, default=str))
