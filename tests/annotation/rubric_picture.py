"""The picture of the annotators' protocol: each criterion of the rubric, kept and broken, on one rendered defect."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from datasets_builders.world.scene import render_product

_SIDE, _GAP, _HEAD = 250, 14, 62
_MASK = (86, 180, 233)


def rubric_picture() -> Image.Image:
    """Four columns, one a criterion: a mask that meets it above one that does not."""
    scene = render_product("wood", size=512, seed=5, index=2, defects=("stain",))
    truth = max(scene.defects, key=lambda defect: defect.mask.sum()).mask
    crop = _crop_round(truth, scene.image.shape[0])
    truth = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(truth, 8), iterations=4))[8:-8, 8:-8]
    columns = _examples(truth)
    width = 4 * _SIDE + 5 * _GAP
    sheet = Image.new("RGB", (width, _HEAD + 2 * (_SIDE + 30) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    title, plain = (ImageFont.load_default(size) for size in (20, 15))
    for number, (name, question, good, bad) in enumerate(columns):
        x = _GAP + number * (_SIDE + _GAP)
        draw.text((x, 10), name, fill="#1c2430", font=title)
        draw.text((x, 36), question, fill="#5b6573", font=plain)
        for row, (mask, word) in enumerate(((good, "yes"), (bad, "no"))):
            y = _HEAD + row * (_SIDE + 30)
            sheet.paste(_outlined(scene.image, mask, crop), (x, y))
            draw.text((x, y + _SIDE + 5), word, fill="#0072b2" if row == 0 else "#b34a00", font=plain)
    return sheet


def _examples(truth: np.ndarray) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    side = round(np.sqrt(truth.sum()) / 6)
    rng = np.random.default_rng(4)
    columns = np.flatnonzero(truth.any(0))
    half = truth.copy()
    half[:, columns[0] : int(columns.mean())] = False
    block = max(4, side)
    rows, places = np.indices(truth.shape) // block * block + block // 2
    ragged = truth[np.minimum(rows, truth.shape[0] - 1), np.minimum(places, truth.shape[1] - 1)]
    wide = ndimage.gaussian_filter(truth.astype(float), side * 1.6) > 0.12
    specks = ndimage.gaussian_filter(rng.standard_normal(truth.shape), 2.2)
    near = ndimage.binary_dilation(truth, iterations=side * 4)
    noisy = (truth & (specks < 0.16)) | (near & ~ndimage.binary_dilation(truth, iterations=4) & (specks > 0.3))
    return [
        ("Coverage", "Is all of the defect inside?", truth, half),
        ("Boundary", "Does the edge follow its edge?", truth, ragged),
        ("Over/under", "Is nothing else inside?", truth, wide),
        ("Noise", "Are there no specks, no holes?", truth, noisy),
    ]


def _crop_round(truth: np.ndarray, size: int) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(truth)
    half = int(max(np.ptp(rows), np.ptp(columns)) * 1.05) + 6
    x = int(np.clip(columns.mean(), half, size - half))
    y = int(np.clip(rows.mean(), half, size - half))
    return x - half, y - half, x + half, y + half


def _outlined(image: np.ndarray, mask: np.ndarray, crop: tuple[int, int, int, int]) -> Image.Image:
    photo = Image.fromarray(image).crop(crop).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    grown = np.asarray(Image.fromarray(mask).crop(crop).resize((_SIDE, _SIDE), Image.Resampling.NEAREST))
    edge = ndimage.binary_dilation(grown) & ~grown
    pixels = np.array(photo)
    pixels[ndimage.binary_dilation(edge, iterations=2)] = 0
    pixels[ndimage.binary_dilation(edge)] = _MASK
    return Image.fromarray(pixels)
