"""The small pretrained SAMs beside sam-vit-base: encoding an image, and a training step of the decoder on cached embeddings.

    python benchmarks/backbones.py [--short] [--images 8]

Random weights of their shapes: what a step costs does not depend on what they say.
"""

import torch
from measuring import alternate, arguments, compared, device, machine_rates, medians, report
from shapes import sam
from transformers import SamModel

from visionsam_hf.models.decoder import predict_tokens
from visionsam_hf.models.encoder import ImageEncoder
from visionsam_hf.models.freezing import freeze, freeze_prompts_not_drawn

# Shape -> name. Square in pixels, grid in cells: 512 and 32, 1024 and 64, 256 and 64.
_SMALL = {"mobile-sam-512": "MobileSAM 512", "mobile-sam-1024": "MobileSAM 1024", "lite-medsam-256": "LiteMedSAM 256"}
_FASTER = 2.5  # 16-bit encoding against the same encoder's own float32
_CHEAPER = 3.0  # a decoder step of a 32 x 32 grid against one of sam-vit-base's 64 x 64


def decoder_step(model: SamModel, images: int):
    """A call that does forward and backward of `images` box prompts, one an image, as in SFT."""
    freeze(model, "mask_decoder", mask_output="both", scores=True)
    freeze_prompts_not_drawn(model, ["box"])
    side, grid = model.config.prompt_encoder_config.image_size, model.config.prompt_encoder_config.image_embedding_size
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(images, 256, grid, grid, generator=generator).to(device())
    boxes = (torch.rand(images, 1, 2, 2, generator=generator).sort(2).values * side).flatten(2).to(device())
    points = torch.zeros(images, 1, 2, 2, device=device())
    targets = (torch.rand(images, 1, 4 * grid, 4 * grid, generator=generator) > 0.5).float().to(device())

    def step() -> None:
        logits, scores = predict_tokens(
            model, boxes=boxes, points=points, kinds=["box"] * images, image_embeddings=embeddings
        )
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, :, 0].float(), targets)
        (loss + scores.float().mean()).backward()
        model.zero_grad()

    return step


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8, help="prompts a training step, and images a call of the encoder")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    shapes = ["mobile-sam-512"] if options.short else list(_SMALL)
    base = "small" if options.short else "vit-base"
    images = 2 if options.short else options.images
    rows, encoding, steps = [], {}, {base: decoder_step(sam(base)[0].to(device()), images)} if not options.short else {}
    for shape in shapes:
        model = sam(shape)[0].to(device())
        side = model.config.vision_config.image_size
        pixels = torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device())
        sides = {"16-bit": ImageEncoder(model), "its own float32": ImageEncoder(model, fast=False)}
        with torch.inference_mode():
            seconds = alternate({name: (lambda call=call: call(pixels)) for name, call in sides.items()}, options.repeats)
        middle = medians(seconds, per=images)
        encoding[shape] = middle
        what = f"{_SMALL[shape]}, encode, s an image"
        target = _FASTER if shape == "mobile-sam-512" else None
        rows.append(compared(what, middle["16-bit"], "its own float32", middle["its own float32"], target=target))
        steps[shape] = decoder_step(model, images)
    middle = medians(alternate(steps, options.repeats), per=images)
    rows += [
        compared(
            f"{_SMALL[shape]}, cached training step, s a prompt", middle[shape], "sam-vit-base", middle[base],
            target=_CHEAPER if shape == "mobile-sam-512" else None,
        )
        for shape in shapes
        if base in middle
    ]
    report(
        "backbones", options, {"encoder_seconds": encoding, "step_seconds": middle, "rows": rows, "rates": machine_rates()}
    )


if __name__ == "__main__":
    main()
