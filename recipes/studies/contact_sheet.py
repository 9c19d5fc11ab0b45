"""Contact sheets: every product with its defects outlined, and every defect type painted on clean photographs.

python -m studies.contact_sheet docs/
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets_builders.world.scene import (
    ALL_DEFECTS,
    PRODUCTS,
    PaintSettings,
    Region,
    paint_defects,
    render_product,
    render_surface,
)

_RENDERED = 256
_PAPER, _INK, _LINE = (255, 255, 255), (30, 30, 34), (255, 0, 200)
_LABEL, _CAPTION = 120, 15  # width of the row labels, height of a caption line, pixels


def world_sheet(
    *, columns: int = 8, cell: int = 150, seed: int = 1, categories: Sequence[str] = PRODUCTS
) -> Image.Image:
    """One row a product, ``columns`` defective samples of ``cell`` pixels each, defects outlined and named below."""

    def draw(row: int, column: int) -> tuple[np.ndarray, tuple[Region, ...]]:
        scene = render_product(categories[row], size=_RENDERED, seed=seed, index=column)
        return scene.image, scene.defects

    return _sheet(list(categories), columns, cell, draw)


def painted_sheet(
    *, pairs: int = 4, cell: int = 150, seed: int = 2, defects: Sequence[str] = ALL_DEFECTS
) -> Image.Image:
    """One row a defect type, each sample twice: as painted, then outlined.

    Plain surfaces and products take turns; the second half of the samples spread over the part where the type can.
    """

    def draw(row: int, column: int) -> tuple[np.ndarray, tuple[Region, ...]]:
        sample = column // 2
        rng = np.random.default_rng([seed, row, sample])
        if sample % 2 == 0:
            image, foreground = render_surface(rng, (row + sample // 2) % 4, size=_RENDERED), None
        else:
            category = PRODUCTS[(3 * row + 5 * sample) % len(PRODUCTS)]
            scene = render_product(category, size=_RENDERED, seed=seed, index=row, defective=False)
            image, foreground = scene.image, scene.objects[0].mask
        settings = PaintSettings(
            defects=(defects[row],), count=(1, 2), size=0.1, contrast=0.22, expanse_share=float(sample >= pairs / 2)
        )
        painted, regions = paint_defects(image, rng=rng, settings=settings, foreground=foreground)
        return painted, regions if column % 2 else ()

    return _sheet(list(defects), 2 * pairs, cell, draw, captions=False)


def _sheet(
    labels: list[str],
    columns: int,
    cell: int,
    draw: Callable[[int, int], tuple[np.ndarray, tuple[Region, ...]]],
    *,
    captions: bool = True,
) -> Image.Image:
    gap, caption = 3, _CAPTION if captions else 0
    sheet = Image.new("RGB", (_LABEL + columns * (cell + gap), gap + len(labels) * (cell + caption + gap)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(14), ImageFont.load_default(10)
    for row, label in enumerate(labels):
        y = gap + row * (cell + caption + gap)
        pen.text((8, y + cell // 2 - 8), label.replace("_", " "), _INK, font=large)
        for column in range(columns):
            x = _LABEL + column * (cell + gap)
            image, regions = draw(row, column)
            sheet.paste(Image.fromarray(outlined(image, regions, cell)), (x, y))
            if not captions:
                continue
            names = ", ".join(dict.fromkeys(region.kind.replace("_", " ") for region in regions))
            pen.text((x + 2, y + cell + 1), _fitted(names, cell, small), _INK, font=small)
    return sheet


def _fitted(text: str, width: int, font: ImageFont.ImageFont) -> str:
    while text and font.getlength(text) > width - 4:
        text = text[:-2].rstrip(" ,") + "…"
    return text


def outlined(image: np.ndarray, regions: Sequence[Region], cell: int) -> np.ndarray:
    """The picture at ``cell`` pixels with a line round each region, a little off it so that the defect stays visible.

    Args:
        image: (H, W, 3) uint8 RGB.
        regions: masks of the same size.

    Returns:
        (cell, cell, 3) uint8.
    """
    small = cv2.resize(image, (cell, cell), interpolation=cv2.INTER_AREA)
    for region in regions:
        mask = cv2.resize(region.mask.astype(np.uint8) * 255, (cell, cell), interpolation=cv2.INTER_AREA) > 40
        grown = cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
        contours, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(small, contours, -1, _LINE, 1)
    return small


def write(sheet: Image.Image, path: Path) -> None:
    """Save as a PNG of 256 dithered colours, a third of the size."""
    palette = sheet.resize((sheet.width // 3, sheet.height // 3)).quantize(256, method=Image.Quantize.MAXCOVERAGE)
    sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def main() -> None:
    """Write synthetic_world.png and painted_defects.png into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    write(world_sheet(), folder / "synthetic_world.png")
    write(painted_sheet(), folder / "painted_defects.png")


if __name__ == "__main__":
    main()
