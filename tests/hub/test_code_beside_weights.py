"""A LiteMedSAM is pushed with the code of its encoder: others load it with transformers alone, and nothing here runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_same_masks

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "models"))

from hubdouble import HubDouble
from small_models import mobile_config, random_model, vit_config
from stranger import photograph

from visionsam_hf.data.geometry import logits_to_original
from visionsam_hf.hub.checks import prepare
from visionsam_hf.hub.model_card import usage, write_model_card
from visionsam_hf.inference.prediction import encode_image, predict_at
from visionsam_hf.models import mobile_sam
from visionsam_hf.models.image_processing import make_processor
from visionsam_hf.models.loading import load_model, load_processor, save_model
from visionsam_hf.models.lora import add_adapter

PACKAGE = Path(mobile_sam.__file__).parent
CODE = {"image_processing.py", "mobile_sam.py", "mobile_sam_config.py", "tiny_vit.py"}
BOX = [[20.0, 14.0, 41.0, 35.0]]
PUSH = """
import sys
from visionsam_hf.cli.command_line import main
for name, *more in (["mobile"], ["lora", "--base_model", "tester/mobile"]):
    if code := main(["push", name, f"tester/{name}", "--public", "--license", "apache-2.0", *more]):
        sys.exit(code)
    print("-----")
"""
STRANGER = """
import sys
sys.modules["visionsam_hf"] = None
import json
import numpy as np
from transformers import AutoModel, AutoProcessor
from stranger import masks_of, photograph
(x1, y1, x2, y2), image, found = json.loads(sys.argv[1]), photograph(), {}
for name, lines in json.loads(sys.argv[2]).items():
    exec(lines, names := {"image": image, "x1": x1, "y1": y1, "x2": x2, "y2": y2})
    inputs = names["processor"](image, input_boxes=[[[x1, y1, x2, y2]]], return_tensors="pt")
    logits = names["model"](**inputs, multimask_output=False).pred_masks
    sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
    found[name] = names["processor"].post_process_masks(logits, *sizes)[0].numpy()
found |= masks_of("tester/mobile", (AutoModel, AutoProcessor), trust_remote_code=True)
np.savez(sys.argv[3], **found)
"""


def write_models(directory):
    """mobile and lora, an adapter of it that changes its masks."""
    mobile, lora = directory / "mobile", directory / "lora"
    processor = make_processor(64, 16, min_max=True)
    save_model(random_model(mobile_config(), seed=3), processor, mobile)
    adapted = add_adapter(load_model(str(mobile)), "all", r=2, alpha=8, dropout=0.0, seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    save_model(adapted, processor, lora)
    for path in (mobile, lora):
        write_model_card(path, {"stage": "merge", "settings": {"adapter": "me/adapter"}, "results": {}})
    return mobile, lora


def masks_here(path):
    model, size = load_model(str(path)).eval(), (48, 64)
    embedding = encode_image(model, load_processor(str(path)), photograph())
    logits, _ = predict_at(
        model, embedding, np.array(BOX, np.float32), np.zeros((1, 2, 2), np.float32), size, "box"
    )
    return (logits_to_original(logits[:, :1], size, 64) > 0).numpy()


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Both models pushed, and what another process makes of them by the lines that the pushes print."""
    directory = tmp_path_factory.mktemp("strangers")
    write_models(directory)
    with HubDouble() as hub:
        env = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_none", "HF_HUB_DISABLE_XET": "1"}
        env |= {"HF_HOME": str(directory / "hf"), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
        env |= {"PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parents[1])))}

        def python(code, *words):
            command = [sys.executable, "-c", code, *words]
            done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=directory)
            assert done.returncode == 0, done.stderr[-3000:]
            return done.stdout

        printed = python(PUSH).split("-----")
        lines = {name: text[text.index("from ") :] for name, text in zip(("model", "adapter"), printed)}
        python(STRANGER, json.dumps(BOX[0]), json.dumps(lines), str(directory / "found.npz"))
        files = {name: set(repo.commits[repo.find("main")]) for (_, name), repo in hub.state.repos.items()}
    return directory, lines, files


def test_others_get_the_same_masks_by_the_lines_that_a_push_prints(there):
    directory, lines, _ = there
    found, local = np.load(directory / "found.npz"), masks_here(directory / "mobile")
    assert local.any() and not local.all() and len(found["pipeline"]) > 1
    assert_same_masks(found["model"], local)
    assert_same_masks(found["box"], local)
    adapted = masks_here(directory / "lora")
    assert_same_masks(found["adapter"], adapted)
    assert (adapted != local).any()
    for text in lines.values():
        assert "trust_remote_code=True" in text and "visionsam_hf.load_model(" in text


def test_the_code_goes_along_and_no_other(there):
    files = there[2]
    assert {name for name in files["tester/mobile"] if name.endswith(".py")} == CODE
    # The encoder's code is beside the adapter's base.
    assert {name for name in files["tester/lora"] if name.endswith(".py")} == {"image_processing.py"}


def test_code_in_a_directory_is_neither_run_nor_sent(tmp_path):
    mobile, _ = write_models(tmp_path)
    assert {path.name for path in mobile.glob("*.py")} == CODE
    for name in (*CODE, "other.py"):
        (mobile / name).write_text(f"import os\nos.mkdir({str(tmp_path / 'trace')!r})\n")
    publication = prepare(mobile, "me/mobile", license="apache-2.0")
    assert not (tmp_path / "trace").exists()
    sent = {name: path.read_bytes() for name, path in publication.files.items() if name.endswith(".py")}
    assert sent == {name: (PACKAGE / name).read_bytes() for name in CODE}
    assert publication.left_out == ["other.py"]
    card = publication.files["README.md"].decode()
    lines = usage("model", "me/mobile", needs_code=True)
    assert lines in card and "trust_remote_code=True" in lines


def test_a_plain_sam_brings_no_code(tmp_path):
    save_model(random_model(vit_config()), make_processor(64, 16), tmp_path)
    write_model_card(tmp_path, {"stage": "merge", "settings": {"adapter": "me/adapter"}, "results": {}})
    publication = prepare(tmp_path, "me/plain", license="apache-2.0")
    assert not list(tmp_path.glob("*.py")) and not any(name.endswith(".py") for name in publication.files)
    assert "trust_remote_code" not in publication.files["README.md"].decode()
