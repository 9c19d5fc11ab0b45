"""A training step of prompt encoder and mask decoder on given embeddings, against stock `SamModel`.

    python benchmarks/decoder_step.py [--short] [--images 8] [--boxes 1] [--compile]
"""

import torch
from measuring import alternate, arguments, compared, device, machine_rates, medians, report
from shapes import sam
from torch.utils.flop_counter import FlopCounterMode
from transformers import SamModel

from visionsam_hf.models.decoder import decode_tokens, predict_tokens
from visionsam_hf.models.freezing import freeze, freeze_prompts_not_drawn


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8, help="images a step")
    parser.add_argument("--boxes", type=int, default=1, help="boxes an image")
    parser.add_argument("--compile", action="store_true", help="also compiled, which takes a minute or two first")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    shape = "vit-base"
    if options.short:
        options.images = min(options.images, 2)
    model = sam(shape)[0].to(device())
    freeze(model, "mask_decoder", mask_output="single", scores=False)
    freeze_prompts_not_drawn(model, ["box"])
    side, grid = model.config.vision_config.image_size, model.config.prompt_encoder_config.image_embedding_size
    channels = model.config.prompt_encoder_config.hidden_size
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(options.images, channels, grid, grid, generator=generator).to(device())
    corners = torch.rand(options.images, options.boxes, 2, 2, generator=generator).sort(2).values * side
    boxes = corners.flatten(2).to(device())
    points = torch.zeros(options.images, options.boxes, 2, 2, device=device())
    targets = (
        (torch.rand(options.images, options.boxes, 4 * grid, 4 * grid, generator=generator) > 0.5).float().to(device())
    )
    kinds = ["box"] * options.images
    compiled = torch.compile(decode_tokens)

    def step(logits) -> None:
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), targets).backward()
        model.zero_grad()

    def stock(dtype=None):
        with torch.autocast(device().type, dtype=torch.bfloat16, enabled=dtype is not None):
            output = SamModel.forward(model, input_boxes=boxes, image_embeddings=embeddings, multimask_output=False)
        step(output.pred_masks[:, :, 0])

    def fast(dtype=None, decode=decode_tokens):
        with torch.autocast(device().type, dtype=torch.bfloat16, enabled=dtype is not None):
            logits, _ = predict_tokens(
                model, boxes=boxes, points=points, kinds=kinds, image_embeddings=embeddings, decode=decode
            )
        step(logits[:, :, 0])

    half = torch.bfloat16
    sides = {
        "fast float32": fast,
        "fast bfloat16": lambda: fast(half),
        "stock float32": stock,
        "stock bfloat16": lambda: stock(half),
    }
    if options.compile:
        sides["fast compiled float32"] = lambda: fast(None, compiled)
        sides["fast compiled bfloat16"] = lambda: fast(half, compiled)
    seconds = alternate(sides, options.repeats, warm=2)
    middle = medians(seconds)
    flops = {}
    for name, call in (("fast", fast), ("stock", stock)):
        with FlopCounterMode(display=False) as counter:
            call()
        flops[name] = round(counter.get_total_flops() / 1e9, 2)
    rates = machine_rates()
    report(
        "decoder_step",
        options,
        {
            "shape": shape,
            "images": options.images,
            "boxes": options.boxes,
            "seconds_a_step": middle,
            "rows": [
                compared(
                    f"decoder training step, {name}, s", middle[name], against, middle[against],
                    target=2.0 if against == "stock float32" else None,
                )
                for name in middle
                for against in ("stock float32", "stock bfloat16")
                if name.startswith("fast") and (against == "stock float32" or "bfloat16" in name)
            ],
            "gflop_a_step": flops,
            "rates": rates,
            "floor_seconds": {
                f"{name} {dtype}": round(flops[name] / rates[f"{dtype}_gflops"], 4)
                for name in flops
                for dtype in ("float32", "bfloat16")
            },
        },
    )


if __name__ == "__main__":
    main()
