"""Original checkpoints to model directories, on small random ones under the original names."""

import pickle
import re

import pytest
import torch
from small_models import meta_weights, mobile_config, random_model, vit_config
from transformers import SamModel, SamProcessor

from visionsam_hf.data.errors import UserError
from visionsam_hf.models.checkpoint_names import fold_batch_norms
from visionsam_hf.models.conversion import convert_checkpoint
from visionsam_hf.models.mobile_sam import MobileSamModel

BOX = torch.tensor([[[8.0, 10.0, 40.0, 50.0]]])


def saved(path, weights):
    torch.save(weights, path)
    return path


def outputs(model, pixels):
    with torch.inference_mode():
        return model(pixel_values=pixels, input_boxes=BOX)


def refusal(source, tmp_path, **settings) -> str:
    with pytest.raises(UserError) as caught:
        convert_checkpoint(source, tmp_path / "out", **settings)
    message = str(caught.value)
    assert "\n" not in message and str(source) in message
    assert not (tmp_path / "out" / "model.safetensors").exists()
    return message


@pytest.mark.parametrize("depth", [1, 3])
def test_metas_vit_becomes_a_sam_model_with_equal_weights(tmp_path, depth):
    model, pixels = random_model(vit_config(depth)), torch.randn(1, 3, 64, 64)
    result = convert_checkpoint(saved(tmp_path / "any_name.pth", meta_weights(model)), tmp_path / "out")
    loaded = SamModel.from_pretrained(tmp_path / "out")
    assert type(loaded) is SamModel and result.model_type == "sam" and result.image_size == 64
    expected = model.state_dict()
    assert {name for name, tensor in loaded.state_dict().items() if not torch.equal(tensor, expected[name])} == set()
    # Equal but for the last bit, which depends on where in memory the weights lie.
    torch.testing.assert_close(outputs(loaded, pixels).pred_masks, outputs(model, pixels).pred_masks, atol=1e-6, rtol=1e-6)
    processor = SamProcessor.from_pretrained(tmp_path / "out").image_processor
    assert processor.size == {"longest_edge": 64} and processor.mask_size == {"longest_edge": 16}
    card = (tmp_path / "out" / "README.md").read_text()
    assert result.sources["any_name.pth"] in card and "license: apache-2.0" in card and "mobile_sam" not in card


@pytest.mark.parametrize("stem, image_size, trained", [(3, 64, 1024), (1, 16, 256)])
def test_a_tiny_vits_checkpoint_becomes_a_mobile_sam(tmp_path, stem, image_size, trained):
    model, pixels = random_model(mobile_config(image_size, stem=stem)), torch.randn(1, 3, image_size, image_size)
    weights = meta_weights(model)
    weights["image_encoder.head.weight"] = torch.zeros(10, 32)
    result = convert_checkpoint(saved(tmp_path / "x.pt", {"model": weights}), tmp_path / "out", image_size=image_size)
    loaded = MobileSamModel.from_pretrained(tmp_path / "out")
    assert result.unused == ("image_encoder.head.weight",) and "head.weight" in (tmp_path / "out/README.md").read_text()
    assert result.name == ("LiteMedSAM" if stem == 1 else "MobileSAM") and result.min_max == (stem == 1)
    for got, wanted in zip(outputs(loaded, pixels).to_tuple()[:2], outputs(model, pixels).to_tuple()[:2]):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    kind = type(SamProcessor.from_pretrained(tmp_path / "out").image_processor).__name__
    assert kind == ("MinMaxSamImageProcessor" if stem == 1 else "SamImageProcessorPil")
    assert convert_checkpoint(tmp_path / "x.pt", tmp_path / "trained").image_size == trained


def test_medsam_is_stretched_when_asked(tmp_path):
    source = saved(tmp_path / "x.pth", meta_weights(random_model(vit_config())))
    assert convert_checkpoint(source, tmp_path / "out", min_max=True).min_max
    assert type(SamProcessor.from_pretrained(tmp_path / "out").image_processor).__name__ == "MinMaxSamImageProcessor"


def test_a_batch_norm_folds_into_its_convolution():
    torch.manual_seed(0)
    convolution, norm = torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.1, 2)
        weights = {"a.c.weight": convolution.weight} | {f"a.bn.{name}": tensor for name, tensor in norm.state_dict().items()}
        folded, image = fold_batch_norms(weights), torch.randn(1, 3, 8, 8)
        assert set(folded) == {"a.c.weight", "a.c.bias"}
        got = torch.nn.functional.conv2d(image, folded["a.c.weight"], folded["a.c.bias"])
        torch.testing.assert_close(got, norm(convolution(image)), atol=1e-5, rtol=1e-5)


class Malicious:
    def __reduce__(self):
        return print, ("this would have run",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, capsys):
    source = saved(tmp_path / "bad.pth", {"weight": torch.zeros(1), "more": Malicious()})
    assert "holds more than weights" in refusal(source, tmp_path)
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Malicious(), protocol=2))
    refusal(plain, tmp_path)
    assert "this would have run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04broken"])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    source = tmp_path / "x.pth"
    source.write_bytes(content)
    refusal(source, tmp_path)


@pytest.mark.parametrize("content", [{}, {"a": 1}, [torch.zeros(1)], {"model": {"a": "b"}}, {3: torch.zeros(1)}])
def test_a_checkpoint_without_weights_by_name(tmp_path, content):
    refusal(saved(tmp_path / "x.pth", content), tmp_path)


@pytest.mark.parametrize("config", [vit_config(), mobile_config()], ids=["vit", "tiny_vit"])
def test_each_weight_that_is_missing_is_named(tmp_path, config):
    weights = meta_weights(random_model(config))
    # The constants of a batch norm that count, not the number of batches.
    names = [name for name in weights if not name.endswith("num_batches_tracked")]
    for name in [*names[::23], "mask_decoder.iou_token.weight", "prompt_encoder.no_mask_embed.weight"]:
        rest = {other: tensor for other, tensor in weights.items() if other != name}
        message = refusal(saved(tmp_path / "x.pth", rest), tmp_path, image_size=64)
        assert re.search(r"has no(thing| weight| image encoder)|is \(.*not \(|which no|make no SAM", message), message


def test_a_weight_too_many_is_named(tmp_path):
    for extra in ("image_encoder.blocks.1.attn.lora.weight", "mask_decoder.hf_token.weight", "something"):
        weights = {**meta_weights(random_model(vit_config())), extra: torch.zeros(2)}
        assert f"has {extra}, which no" in refusal(saved(tmp_path / "x.pth", weights), tmp_path)
    weights = {**meta_weights(random_model(mobile_config())), "image_encoder.neck.0.bn.beta": torch.zeros(2)}
    assert "neck.0.bn.beta, which no MobileSAM has" in refusal(saved(tmp_path / "x.pth", weights), tmp_path, image_size=64)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("image_encoder.blocks.0.attn.qkv.weight", (72, 23)),
        ("mask_decoder.transformer.layers.1.mlp.lin1.bias", (47,)),
        ("prompt_encoder.point_embeddings.2.weight", (1, 31)),
        ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", (3, 16)),
    ],
)
def test_a_weight_of_another_shape_is_named(tmp_path, name, shape):
    weights = {**meta_weights(random_model(vit_config())), name: torch.zeros(shape)}
    assert f"{name} is {shape}, not (" in refusal(saved(tmp_path / "x.pth", weights), tmp_path)


def test_values_that_are_no_numbers(tmp_path):
    weights = meta_weights(random_model(vit_config()))
    weights["image_encoder.neck.0.weight"] = weights["image_encoder.neck.0.weight"] * float("nan")
    assert "image_encoder.neck.0.weight holds values" in refusal(saved(tmp_path / "x.pth", weights), tmp_path)


def test_image_sizes_that_cannot_be(tmp_path):
    mobile = saved(tmp_path / "mobile.pt", meta_weights(random_model(mobile_config())))
    assert "image_size 100 is not a multiple of 16" in refusal(mobile, tmp_path, image_size=100)
    vit = saved(tmp_path / "vit.pth", meta_weights(random_model(vit_config())))
    assert "has positions for 64 pixels" in refusal(vit, tmp_path, image_size=128)


def test_sources_that_are_not_there_or_something_else(tmp_path):
    assert "no such file" in refusal(tmp_path / "nothing.pth", tmp_path)
    assert "no image encoder" in refusal(saved(tmp_path / "x.pth", {"layer.weight": torch.zeros(2, 2)}), tmp_path)


def test_directories_without_the_onnx_pair(tmp_path):
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'visionsam_hf[onnx]'")
    (tmp_path / "pair").mkdir()
    assert "holds no pair" in refusal(tmp_path / "pair", tmp_path)
    (tmp_path / "pair" / "encoder.onnx").write_bytes(b"\xff not a graph")
    assert "encoder.onnx: is damaged" in refusal(tmp_path / "pair", tmp_path)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    source = saved(tmp_path / "x.pth", meta_weights(random_model(vit_config())))
    with pytest.raises(UserError, match="cannot be written"):
        convert_checkpoint(source, tmp_path / "file")
