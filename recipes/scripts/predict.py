# /// script
# requires-python = ">=3.11"
# dependencies = ["visionsam_hf"]
# [tool.uv.sources]
# visionsam_hf = { path = "../.." }
# ///
"""A mask for a box on a photograph, in one file.

    uv run recipes/scripts/predict.py --model outputs/dpo --image part.png --box 10 5 60 50 --output mask.png
"""

import argparse

import numpy as np
from PIL import Image, ImageOps

from visionsam_hf import load_model
from visionsam_hf.data.windows import rule_of
from visionsam_hf.inference.prediction import answer_prompts, look_at
from visionsam_hf.models.loading import load_processor

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="visionsam-tiny")
parser.add_argument("--image", required=True)
parser.add_argument("--box", type=float, nargs=4, required=True, metavar=("X1", "Y1", "X2", "Y2"))
parser.add_argument("--output", default="mask.png")

if __name__ == "__main__":
    given = parser.parse_args()
    model, processor = load_model(given.model), load_processor(given.model)
    image = ImageOps.exif_transpose(Image.open(given.image)).convert("RGB")
    size, box = (image.height, image.width), np.array([given.box], np.float32)
    windows = [rule_of(processor).of_box(given.box, size)]
    look, points = look_at(model, processor, image), np.zeros((1, 2, 2), np.float32)
    masks, scores = answer_prompts(model, look, box, points, size, "box", windows)
    Image.fromarray(masks[0, 0].astype(np.uint8) * 255).save(given.output)
    print(f"{given.output}: {masks[0, 0].sum()} pixels, predicted IoU {scores[0, 0]:.2f}")
