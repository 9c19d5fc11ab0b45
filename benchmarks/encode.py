"""Encoding an image for the cache, against the library's `get_image_embeddings` in float32 and in bfloat16.

    python benchmarks/encode.py [--short] [--batch 1]
"""

import copy

import torch
from measuring import alternate, arguments, compared, device, machine_rates, medians, report
from shapes import sam
from transformers import SamVisionConfig

from visionsam_hf.models.encoder import ImageEncoder

_TARGETS = {"stock float32": 3.0, "stock bfloat16": 1.3}


def encoder_gflop(config: SamVisionConfig) -> float:
    """GFLOP of one image: every matrix product and convolution; torch's counter leaves attention on CPUs out."""
    side, width = config.image_size // config.patch_size, config.hidden_size
    cells = side**2
    total = cells * width * 3 * config.patch_size**2
    for layer in range(config.num_hidden_layers):
        window = 0 if layer in config.global_attn_indexes else config.window_size
        # Windows pad the grid, and their padding is computed too.
        padded, seen = ((-(-side // window) * window) ** 2, window**2) if window else (cells, cells)
        total += padded * 4 * width**2 + 2 * padded * seen * width + cells * 2 * width * config.mlp_dim
        if config.use_rel_pos:
            total += 2 * padded * int(seen**0.5) * width
    out = config.output_channels
    total += cells * out * (width + 9 * out)
    return 2 * total / 1e9


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1, help="images a call")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    shape = "small" if options.short else "vit-base"
    model, _ = sam(shape)
    model = model.to(device())
    side = model.config.vision_config.image_size
    pixels = torch.randn(options.batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device())
    halved = copy.deepcopy(model).bfloat16()
    fast = ImageEncoder(model)

    def autocast():
        with torch.autocast(device().type, dtype=torch.bfloat16):
            model.get_image_embeddings(pixels)

    with torch.inference_mode():
        seconds = alternate(
            {
                "fast": lambda: fast(pixels),
                "stock float32": lambda: model.get_image_embeddings(pixels),
                "stock bfloat16": lambda: halved.get_image_embeddings(pixels.bfloat16()),
                "stock bfloat16 autocast": autocast,
            },
            options.repeats,
        )
        exact = model.get_image_embeddings(pixels)
        error = float((fast(pixels) - exact).norm() / exact.norm())
    middle = medians(seconds, per=options.batch)
    rates = machine_rates()
    gflop = encoder_gflop(model.config.vision_config)
    report(
        "encode",
        options,
        {
            "shape": shape,
            "batch": options.batch,
            "seconds_an_image": middle,
            "rows": [
                compared("encode, s an image", middle["fast"], name, middle[name], target=_TARGETS.get(name))
                for name in middle
                if name != "fast"
            ],
            "relative_error": round(error, 5),
            "gflop_an_image": round(gflop, 1),
            "rates": rates,
            "floor_seconds": {name: round(gflop / rates[f"{name}_gflops"], 3) for name in ("float32", "bfloat16")},
        },
    )


if __name__ == "__main__":
    main()
