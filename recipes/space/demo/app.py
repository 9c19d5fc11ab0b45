"""Click a box on a photograph, see the tuned mask and SAM's three candidates with their scores.

    python app.py [MODEL]

MODEL is a model's directory or Hub id; without it the environment's MODEL, or facebook/sam-vit-base. Runs as a Space too.
The code that a MobileSAM or LiteMedSAM brings beside its weights is run only where the environment has TRUST_REMOTE_CODE=1.
"""

import os
import sys
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import AutoModel, AutoProcessor, SamModel, SamProcessor

NAMES = ("tuned mask", "candidate 1", "candidate 2", "candidate 3")
COLOUR = (230, 159, 0)  # of predictions, everywhere
GUIDE = "Click one corner of a box round the defect, then the opposite one."


def box_of(first: tuple[int, int], second: tuple[int, int]) -> list[float] | None:
    """[x1, y1, x2, y2) from two opposite corners in pixels; None when they span nothing."""
    (left, right), (top, bottom) = sorted((first[0], second[0])), sorted((first[1], second[1]))
    return [float(left), float(top), float(right + 1), float(bottom + 1)] if left < right and top < bottom else None


def window_of(processor: SamProcessor, box: list[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part [x1, y1, x2, y2) of an image of `size` (width, height) to show the model for a box, as it was tuned.

    A square round the box, shifted into the image; all of the image where that says enough.
    """
    rule = getattr(processor.image_processor, "window", None) or {"window": "whole"}
    longer = max(box[2] - box[0], box[3] - box[1])
    side = max(round(rule["multiple"] * longer), rule["side"]) if rule["window"] == "zoom" else rule.get("side", 0)
    if rule["window"] == "whole" or side >= max(size) or side < longer:
        return 0, 0, *size
    starts = [
        min(max(round((low + high - side) / 2), 0), max(limit - side, 0))
        for low, high, limit in ((box[0], box[2], size[0]), (box[1], box[3], size[1]))
    ]
    ends = [min(start + side, limit) for start, limit in zip(starts, size)]
    return starts[0], starts[1], ends[0], ends[1]


@torch.inference_mode()
def encode(model: SamModel, processor: SamProcessor, image: Image.Image) -> torch.Tensor:
    """The (1, C, h, w) embedding of an image: the slow half, once an image."""
    return model.get_image_embeddings(processor(image, return_tensors="pt")["pixel_values"].to(model.device))


@torch.inference_mode()
def segment(
    model: SamModel, processor: SamProcessor, image: Image.Image, embedding: torch.Tensor, box: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """(4, H, W) bool masks and (4,) scores of a box: SAM's single mask, then its three candidates."""
    inputs = processor(image, input_boxes=[[box]], return_tensors="pt")
    masks, scores = [], []
    for multimask in (False, True):
        output = model(
            image_embeddings=embedding,
            input_boxes=inputs["input_boxes"].float().to(model.device),
            multimask_output=multimask,
        )
        sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        masks.append(processor.post_process_masks(output.pred_masks.cpu(), *sizes)[0][0])
        scores.append(output.iou_scores[0, 0].cpu())
    return torch.cat(masks).numpy(), torch.cat(scores).numpy()


def answer(
    model: SamModel, processor: SamProcessor, image: Image.Image, box: list[float], kept: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """`segment` for a box of the image, from its window. `kept` holds the last window and its embedding."""
    window = window_of(processor, box, image.size)
    part = image.crop(window)
    if kept.get("window") != window:
        kept.update(window=window, embedding=encode(model, processor, part))
    left, top, right, bottom = window
    moved = [box[0] - left, box[1] - top, box[2] - left, box[3] - top]
    found, scores = segment(model, processor, part, kept["embedding"], moved)
    masks = np.zeros((4, image.height, image.width), bool)
    masks[:, top:bottom, left:right] = found
    return masks, scores


def with_box(image: Image.Image, first: tuple[int, int], box: list[float] | None) -> Image.Image:
    """The image with the box, or with its first corner while the second is missing."""
    shown = image.copy()
    width = max(2, max(image.size) // 300)
    x, y = first
    outline = (
        [box[0], box[1], box[2] - 1, box[3] - 1]
        if box
        else [x - 2 * width, y - 2 * width, x + 2 * width, y + 2 * width]
    )
    ImageDraw.Draw(shown).rectangle(outline, outline=COLOUR, width=width)
    return shown


def with_mask(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The image with the mask tinted."""
    pixels = np.asarray(image, np.float32).copy()
    pixels[mask] = 0.45 * pixels[mask] + 0.55 * np.array(COLOUR, np.float32)
    return Image.fromarray(pixels.astype(np.uint8))


def around(box: list[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of an image of `size` (width, height) to show: three times the box, at least 64 pixels, cut to the image."""
    cut = []
    for low, high, limit in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        half = max(1.5 * (high - low), 32)
        cut.append((max(0, int((low + high) / 2 - half)), min(limit, int((low + high) / 2 + half))))
    return cut[0][0], cut[1][0], cut[0][1], cut[1][1]


def page(model: SamModel, processor: SamProcessor) -> Any:
    """The Gradio page."""
    import gradio as gr

    def take(image: Image.Image | None) -> tuple:
        """A new photograph: forget everything about the last one."""
        return {"image": image, "corner": None}, [], GUIDE

    def click(kept: dict, event: gr.SelectData) -> tuple:
        image, corner = kept["image"], (int(event.index[0]), int(event.index[1]))
        if image is None:
            return kept, gr.skip(), [], "The photograph is still being read; click again in a moment."
        if kept["corner"] is None:
            return {**kept, "corner": corner}, with_box(image, corner, None), [], "Now the opposite corner."
        box = box_of(kept["corner"], corner)
        kept = {**kept, "corner": None}
        if box is None:
            return kept, image, [], "The two corners span no box. " + GUIDE
        masks, scores = answer(model, processor, image, box, kept)
        gallery = [
            (with_mask(image, mask).crop(around(box, image.size)), f"{name}: {score:.2f}")
            for name, mask, score in zip(NAMES, masks, scores)
        ]
        return kept, with_box(image, corner, box), gallery, GUIDE

    with gr.Blocks(title="Defect segmentation") as blocks:
        gr.Markdown("# Defect segmentation\nUpload a photograph and click two corners of a box round a defect.")
        kept = gr.State({"image": None, "corner": None})
        with gr.Row():
            with gr.Column():
                photograph = gr.Image(type="pil", image_mode="RGB", sources=["upload", "clipboard"], label="photograph")
                guide = gr.Markdown(GUIDE)
            masks = gr.Gallery(label="masks and predicted IoU", columns=2, object_fit="contain")
        photograph.upload(take, photograph, [kept, masks, guide])
        photograph.clear(take, photograph, [kept, masks, guide])
        photograph.select(click, kept, [kept, photograph, masks, guide])
    return blocks


def load(name: str) -> tuple[SamModel, SamProcessor]:
    """A model's directory or Hub id to the model and its processor."""
    trust = os.environ.get("TRUST_REMOTE_CODE") == "1"
    # Weights may be stored in half precision; the processor's pixels are float32.
    model = AutoModel.from_pretrained(name, dtype=torch.float32, trust_remote_code=trust)
    return model.eval(), AutoProcessor.from_pretrained(name, trust_remote_code=trust)


def main(arguments: list[str]) -> None:
    model, processor = load(arguments[0] if arguments else os.environ.get("MODEL", "facebook/sam-vit-base"))
    if torch.cuda.is_available():
        model = model.to("cuda")
    page(model, processor).launch()


if __name__ == "__main__":
    main(sys.argv[1:])
