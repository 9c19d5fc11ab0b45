"""The checkpoints that can be tuned, by shape: ViT-B, -L and -H as published, and small random models of their kinds."""

import json
import re

import pytest
import torch
from conftest import initialise, tiny_processor
from transformers import SamConfig, SamModel

from visionsam_hf import SamSFTConfig, SamSFTTrainer
from visionsam_hf.data.errors import UserError
from visionsam_hf.models.decoder import predict_tokens
from visionsam_hf.models.loading import image_side, load_model, load_processor, mask_side, save_model
from visionsam_hf.models.lora import ADAPTED

# As in the published config.json; MedSAM is a ViT-B.
PUBLISHED = {
    "vit-base": dict(),
    "vit-large": dict(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        global_attn_indexes=[5, 11, 17, 23],
        mlp_dim=4096,
    ),
    "vit-huge": dict(
        hidden_size=1280,
        num_hidden_layers=32,
        num_attention_heads=16,
        global_attn_indexes=[7, 15, 23, 31],
        mlp_dim=5120,
    ),
}
# A window of 3 on a grid of 8 needs padding, as 14 on 64 does; heads of 5 channels for the 80 of ViT-H.
SMALL = {
    "base": dict(hidden_size=12, num_hidden_layers=3, num_attention_heads=3, global_attn_indexes=[2]),
    "large": dict(hidden_size=16, num_hidden_layers=6, num_attention_heads=4, global_attn_indexes=[2, 5]),
    "huge": dict(hidden_size=20, num_hidden_layers=4, num_attention_heads=4, global_attn_indexes=[3]),
    "no_relative_positions": dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, global_attn_indexes=[1], use_rel_pos=False
    ),
    "no_absolute_positions": dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, global_attn_indexes=[1], use_abs_pos=False
    ),
    "global": dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, global_attn_indexes=[0, 1], window_size=0
    ),
}


def small_model(**vision) -> SamModel:
    config = SamConfig(
        vision_config=dict(
            output_channels=16,
            num_pos_feats=8,
            image_size=64,
            patch_size=8,
            initializer_range=0.02,
            **{"window_size": 3, **vision},
        ),
        prompt_encoder_config=dict(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4),
        mask_decoder_config=dict(hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16),
    )
    return initialise(config, seed=0)


@pytest.fixture(params=SMALL)
def backbone_dir(request, tmp_path):
    processor = tiny_processor()
    processor.image_processor.mask_size = {"longest_edge": 32}
    processor.image_processor.mask_pad_size = {"height": 32, "width": 32}
    save_model(small_model(**SMALL[request.param]), processor, tmp_path / "backbone")
    return tmp_path / "backbone"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_what_the_trainers_look_for(name):
    with torch.device("meta"):
        model = SamModel(SamConfig(vision_config=PUBLISHED[name]))
    assert (image_side(model), mask_side(model)) == (1024, 256)
    layers = model.config.vision_config.num_hidden_layers
    adapted = {
        trainable: sum(bool(re.fullmatch(target, module)) for module, _ in model.named_modules())
        for trainable, target in ADAPTED.items()
    }
    # Query and value of three attentions in two layers and of the last one; the encoder's query-key-value in each layer.
    assert adapted == {"mask_decoder": 14, "all": 14 + layers}


def test_small_backbones_answer_and_train(backbone_dir, segmentation, tmp_path):
    model = load_model(str(backbone_dir))
    pixels, boxes = torch.randn(1, 3, 64, 64), torch.tensor([[[4.0, 6, 40, 50], [10, 10, 30, 60]]])
    with torch.no_grad():
        logits, scores = predict_tokens(
            model, pixel_values=pixels, boxes=boxes, points=torch.zeros(1, 2, 2, 2), kinds=["box"]
        )
        for tokens, multimask in ((slice(0, 1), False), (slice(1, 4), True)):
            plain = SamModel.forward(model, pixel_values=pixels, input_boxes=boxes, multimask_output=multimask)
            torch.testing.assert_close(logits[:, :, tokens], plain.pred_masks, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(scores[:, :, tokens], plain.iou_scores, rtol=1e-4, atol=1e-5)
    assert logits.shape[-2:] == (32, 32)
    for settings in (dict(embeddings=str(tmp_path / "cache")), dict(use_peft=True, trainable="all", lora_r=2)):
        args = SamSFTConfig(
            output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, learning_rate=1e-2,
            disable_tqdm=True, use_cpu=True, **settings,
        )
        trainer = SamSFTTrainer(str(backbone_dir), args, segmentation)
        before = {
            name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad
        }
        trainer.train()
        after = dict(trainer.model.named_parameters())
        assert before and all(not torch.equal(value, after[name]) for name, value in before.items())
    assert load_processor(str(backbone_dir)).image_processor.size["longest_edge"] == 64


@pytest.mark.parametrize(
    ("model_type", "shown"),
    [
        ("sam_hq", "SAM-HQ"),
        ("sam2", "SAM 2"),
        ("sam2_video", "SAM 2"),
        ("edgetam", "EdgeTAM"),
        ("bert", "a 'bert' model"),
    ],
)
def test_other_families_are_refused_by_name(tmp_path, segmentation, model_type, shown):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UserError) as caught:
        args = SamSFTConfig(output_dir=str(tmp_path / "out"), use_cpu=True)
        SamSFTTrainer(str(tmp_path), args, segmentation, processing_class=tiny_processor())
    message = str(caught.value)
    assert shown in message and "facebook/sam-vit-base" in message and "medsam" in message
    assert ("can measure" in message) == (model_type != "bert")
