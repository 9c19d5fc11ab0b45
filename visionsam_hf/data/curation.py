"""Which images to demonstrate with: those that show the anomaly clearly and little else, of every kind.

The scores are relative to the images of the same product, because a board has more edges than a lens, always. They go
into a manifest that a person edits, and onto a contact sheet: what was picked above, what was refused below.
"""

import csv
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import rankdata

from visionsam_hf.data.errors import UserError

MANIFEST = "manifest.csv"
_COLUMNS = ("keep", "image_id", "category", "score", "clarity", "clutter", "scale", "shape", "reason")
# All is measured at one size, or a camera's resolution would decide what an edge is.
_SIDE = 256
_RING = 9
_EDGE = 24.0
_SCALES = ((0.001, "tiny"), (0.01, "small"), (0.05, "medium"), (1.0, "large"))
_ELONGATED = 3.0


@dataclass(frozen=True)
class Scored:
    """An image and what speaks for it.

    Attributes:
        image_id, category: as in the data set.
        clarity: contrast of the defects with the ring round them, in standard deviations of both.
        clutter: share of the pixels outside the defects that lie on an edge.
        scale: "tiny", "small", "medium" or "large": the largest defect's share of the image (0.1, 1, 5%).
        shape: "compact" or "elongated" (three times longer than wide).
        score: 0 to 1, among the images of its category; mean of its ranks by clarity and by lack of clutter.
        keep: whether it is picked.
        reason: "number 3 of 12 in tiny compact"; or the weaker side, "cluttered; 4 of its kind picked".
    """

    image_id: str
    category: str
    clarity: float
    clutter: float
    scale: str
    shape: str
    score: float = 0.0
    keep: bool = False
    reason: str = ""


def measure(image_id: str, category: str, pixels: np.ndarray, mask: np.ndarray) -> Scored:
    """Measure one image.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, the union of its defects; not empty.
    """
    largest, elongation = _largest_region(mask)
    size = tuple(max(1, round(side * _SIDE / max(mask.shape))) for side in mask.shape[::-1])
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    inside = share >= min(0.5, float(share.max()))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _RING + 1, 2 * _RING + 1))
    near = cv2.dilate((share > 0).astype(np.uint8), disc).astype(bool)
    ring = near & (share == 0)
    scale = next(name for limit, name in _SCALES if largest / mask.size <= limit)
    shape = "elongated" if elongation >= _ELONGATED else "compact"
    return Scored(image_id, category, _contrast(small, inside, ring), _edge_share(small, ~near), scale, shape)


def _largest_region(mask: np.ndarray) -> tuple[int, float]:
    """Area in pixels and length over width (of its ellipse of inertia) of the largest region."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    label = 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    points = np.argwhere(labels == label).astype(np.float64)
    spread = np.cov(points.T, bias=True) + np.eye(2) / 12 if len(points) > 1 else np.eye(2)
    short, long = np.linalg.eigvalsh(spread)
    return len(points), float(np.sqrt(long / short))


def _contrast(pixels: np.ndarray, inside: np.ndarray, ring: np.ndarray) -> float:
    if not inside.any() or not ring.any():
        return 0.0
    defect, around = pixels[inside], pixels[ring]
    gap = np.linalg.norm(defect.mean(0) - around.mean(0))
    # A grey level of noise at least: a rendered image without any would have infinite contrast.
    spread = np.sqrt((defect.var(0).sum() + around.var(0).sum()) / 2 + 3.0)
    return float(gap / spread)


def _edge_share(pixels: np.ndarray, outside: np.ndarray) -> float:
    if not outside.any():
        return 0.0
    grey = cv2.GaussianBlur(pixels.mean(-1), (0, 0), 1.0)
    slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=3))
    return float((slope[outside] > _EDGE).mean())


def pick(images: Iterable[Scored], count: int) -> list[Scored]:
    """Score the images and keep `count` of them, taking turns between categories, scales and shapes.

    A category's turn goes to its kind (scale and shape) with the fewest picks, and to that kind's best image. So
    every category has its share as long as it has images, and inside it every kind of defect.

    Returns:
        All images, in the order given, with score, keep and reason.
    """
    scored = _with_scores(list(images))
    kinds: dict[str, dict[tuple[str, str], list[int]]] = defaultdict(lambda: defaultdict(list))
    for place in sorted(range(len(scored)), key=lambda place: (-scored[place].score, scored[place].image_id)):
        kinds[scored[place].category][scored[place].scale, scored[place].shape].append(place)
    sizes = {(category, kind): len(places) for category, of in kinds.items() for kind, places in of.items()}
    taken: dict[tuple[str, tuple[str, str]], int] = defaultdict(int)
    result = list(scored)
    left = min(count, len(scored))
    while left:
        for category in sorted(kinds):
            queues = {kind: places for kind, places in kinds[category].items() if places}
            if not queues or not left:
                continue
            kind = min(queues, key=lambda kind: (taken[category, kind], -scored[queues[kind][0]].score))
            place = queues[kind].pop(0)
            taken[category, kind] += 1
            left -= 1
            reason = f"number {taken[category, kind]} of {sizes[category, kind]} in {' '.join(kind)}"
            result[place] = replace(scored[place], keep=True, reason=reason)
    for category, of in kinds.items():
        for kind, places in of.items():
            for place in places:
                reason = f"{scored[place].reason}; {taken[category, kind]} of its kind picked"
                result[place] = replace(scored[place], reason=reason)
    return result


def _with_scores(images: list[Scored]) -> list[Scored]:
    by_category: dict[str, list[int]] = defaultdict(list)
    for place, image in enumerate(images):
        by_category[image.category].append(place)
    result = list(images)
    for places in by_category.values():
        clarity = _ranks([images[place].clarity for place in places])
        calm = _ranks([-images[place].clutter for place in places])
        for place, first, second in zip(places, clarity, calm):
            weaker = "unclear" if first <= second else "cluttered"
            flaw = weaker if min(first, second) < 0.5 else "good, but enough"
            result[place] = replace(images[place], score=round((first + second) / 2, 4), reason=flaw)
    return result


def _ranks(values: Sequence[float]) -> list[float]:
    """The share of the others that each value beats, ties counting half; 1 for a single value."""
    return [1.0] if len(values) == 1 else list((rankdata(values) - 1) / (len(values) - 1))


def write_manifest(path: Path, images: Iterable[Scored]) -> None:
    """Write a CSV that a spreadsheet opens and a person edits: picked ones first, best first."""
    order = sorted(images, key=lambda image: (not image.keep, image.category, -image.score, image.image_id))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for image in order:
            figures = (image.score, round(image.clarity, 3), round(image.clutter, 4))
            row = ("yes" if image.keep else "no", image.image_id, image.category, *figures)
            writer.writerow((*row, image.scale, image.shape, image.reason))


def read_kept(path: str | Path) -> list[str]:
    """The ids that a manifest keeps. Only its columns `keep` (yes or no) and `image_id` count; more may be missing.

    Raises:
        UserError: no such file, a column or a value missing, an id twice, nothing kept.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give the manifest that curate wrote") from None
    # A spreadsheet in a country of decimal commas writes semicolons.
    header = text.split("\n", 1)[0]
    rows = csv.DictReader(text.splitlines(), delimiter=";" if header.count(";") > header.count(",") else ",")
    for column in ("keep", "image_id"):
        if column not in (rows.fieldnames or ()):
            raise UserError(f"{path}: has no column '{column}'; keep the header that curate wrote")
    kept: list[str] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        image_id, word = (row["image_id"] or "").strip(), (row["keep"] or "").strip().lower()
        if not image_id or word not in ("yes", "no"):
            raise UserError(f"{path}:{number}: needs an image_id, and yes or no under keep, not {row['keep']!r}")
        if image_id in seen:
            raise UserError(f"{path}:{number}: the image '{image_id}' is listed twice; remove one line")
        seen.add(image_id)
        if word == "yes":
            kept.append(image_id)
    if not kept:
        raise UserError(f"{path}: keeps no image; put yes under keep for those to use")
    return kept


_ACROSS, _ROWS = 8, 4
_CELL, _CAPTION, _GAP, _HEAD = 160, 58, 14, 46
_PAPER, _INK, _FAINT = (250, 250, 250), (25, 25, 30), (105, 105, 115)


def choose_for_sheet(images: Sequence[Scored], *, seed: int) -> list[Scored]:
    """Up to 32 picked and 32 refused images, drawn by seed, each group best first."""
    shown: list[Scored] = []
    for keep in (True, False):
        group = [image for image in images if image.keep == keep]
        rng = np.random.default_rng([seed, int(keep)])
        places = sorted(rng.permutation(len(group))[: _ACROSS * _ROWS])
        shown += sorted((group[place] for place in places), key=lambda image: -image.score)
    return shown


def draw_sheet(
    shown: Sequence[Scored], pictures: Mapping[str, Image.Image], *, picked: int, refused: int
) -> Image.Image:
    """Draw the sheet.

    Args:
        shown: from `choose_for_sheet`.
        pictures: by image_id, at most 160 pixels a side.
        picked, refused: the totals, for the headings.
    """
    groups = [("picked", picked, [image for image in shown if image.keep])]
    groups.append(("refused", refused, [image for image in shown if not image.keep]))
    heights = [_HEAD + -(-len(group) // _ACROSS) * (_CELL + _CAPTION + _GAP) for _, _, group in groups]
    sheet = Image.new("RGB", (_GAP + _ACROSS * (_CELL + _GAP), sum(heights) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    heading, text = ImageFont.load_default(20), ImageFont.load_default(11)
    top = 0
    for (word, total, group), height in zip(groups, heights):
        more = f", {len(group)} of them shown" if total > len(group) else ""
        draw.text((_GAP, top + 14), f"{total} {word}{more}", _INK, heading)
        for place, image in enumerate(group):
            x = _GAP + place % _ACROSS * (_CELL + _GAP)
            y = top + _HEAD + place // _ACROSS * (_CELL + _CAPTION + _GAP)
            picture = pictures[image.image_id]
            sheet.paste(picture, (x + (_CELL - picture.width) // 2, y + (_CELL - picture.height) // 2))
            lines = [
                f"{image.category}  {image.score:.2f}",
                f"clarity {image.clarity:.1f}, clutter {image.clutter:.0%}",
                *textwrap.wrap(image.reason, 27)[:2],
            ]
            for number, line in enumerate(lines):
                draw.text((x, y + _CELL + 3 + 13 * number), line, _INK if number == 0 else _FAINT, text)
        top += height
    return sheet
