"""What needs no model: masks from the box alone, on the same prompts as every system."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from datasets import Dataset, IterableDataset
from scipy import ndimage

from visionsam_hf.data.errors import UserError
from visionsam_hf.inference import BASELINE_PREFIX, TOKENS
from visionsam_hf.inference.prediction import PromptResult, iterate_answers

_CONTEXT = 0.5  # of the box's sides, looked at around it
_GRABCUT_ROUNDS = 5
# Half widths, in pixels, of the lines that `ridge` looks for, and the extent of a piece of line that it keeps, as a share
# of the longest piece's.
_RIDGE_SIGMAS = (1.0, 2.0, 3.0)
_RIDGE_PIECE = 0.5
# A line is so many times longer than it is wide, spans so much of its box's diagonal, and differs from what lies beside it
# by so many of that strip's standard deviations. Set on magnetic tiles and drawn hairlines: it finds all lines and 1 in 10
# of the defects that are none.
_LINE_LENGTH, _LINE_SPAN, _LINE_CONTRAST = 10.0, 0.7, 1.0
_BESIDE = (1, 4)  # pixels


def fill_box(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Everything in the box: what any model must beat.

    Args:
        image: (H, W, 3) uint8 RGB. box: [x1, y1, x2, y2) in its pixels.

    Returns:
        (H, W) bool.
    """
    mask = np.zeros(image.shape[:2], bool)
    mask[_box_window(image.shape, box)] = True
    return mask


def fill_ellipse(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The ellipse that touches the box's four sides: what filling the box becomes for round defects.

    Arguments and result as in `fill_box`.
    """
    x1, y1, x2, y2 = box
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    across = (columns + 0.5 - (x1 + x2) / 2) / max((x2 - x1) / 2, 0.5)
    down = (rows + 0.5 - (y1 + y2) / 2) / max((y2 - y1) / 2, 0.5)
    mask = across**2 + down**2 <= 1
    # Between two pixels' centres there is none.
    return mask if mask.any() else fill_box(image, box)


def otsu(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Otsu's threshold on the greys in the box; the side less like the surroundings is the defect.

    Arguments and result as in `fill_box`.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    window, around = _box_window(image.shape, box), _box_window(image.shape, box, _CONTEXT)
    inside = grey[window]
    threshold, _ = cv2.threshold(inside, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    bright = inside > threshold
    mask = np.zeros(grey.shape, bool)
    if bright.all() or not bright.any():  # one grey only: nothing to part
        mask[window] = True
        return mask
    ring = np.ones(grey.shape, bool)
    ring[window] = False
    outside = grey[around][ring[around]]
    # A box as large as the image has no surroundings: its edge stands for them.
    edge = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    level = (outside if len(outside) else edge).mean()
    odd = abs(inside[bright].mean() - level) >= abs(inside[~bright].mean() - level)
    mask[window] = bright if odd else ~bright
    return mask


def grabcut(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """OpenCV's GrabCut, started from the box, with half a box of surroundings; the whole box where it finds nothing.

    Arguments and result as in `fill_box`.
    """
    window, around = _box_window(image.shape, box), _box_window(image.shape, box, _CONTEXT)
    labels = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    labels[window] = cv2.GC_PR_FGD
    patch, patch_labels = np.ascontiguousarray(image[around]), np.ascontiguousarray(labels[around])
    if not (patch_labels == cv2.GC_BGD).any():
        return fill_box(image, box)  # no background to learn from
    # Its clustering draws from OpenCV's own generator: seeded here, a prompt's mask does not depend on those before.
    cv2.setRNGSeed(0)
    cv2.grabCut(patch, patch_labels, None, np.zeros((1, 65)), np.zeros((1, 65)), _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    mask = np.zeros(image.shape[:2], bool)
    mask[around] = patch_labels == cv2.GC_PR_FGD
    return mask if mask.any() else fill_box(image, box)


def ridge(image: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Dark or bright lines in the box: Sato's ridge filter (Medical Image Analysis 2, 1998), cut by Otsu's threshold.

    Short pieces beside the longest one are left out. Arguments and result as in `fill_box`.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    window, around = _box_window(image.shape, box), _box_window(image.shape, box, _CONTEXT)
    best, longest = np.zeros(grey.shape, bool), 0.0
    for strength in _ridge_strengths(grey[around]):
        found = np.zeros(grey.shape, np.float32)
        found[around] = strength
        levels = cv2.normalize(found[window], None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
        threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        labels, extents = _pieces(levels > threshold)
        if len(extents) and extents.max() > longest:
            longest = float(extents.max())
            best[window] = np.isin(labels, 1 + np.flatnonzero(extents >= _RIDGE_PIECE * longest))
    return best if best.any() else fill_box(image, box)


def _ridge_strengths(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) strengths of dark and of bright lines: the larger curvature across them, over all widths, at least 0."""
    dark, bright = np.zeros_like(grey), np.zeros_like(grey)
    for sigma in _RIDGE_SIGMAS:
        down, across, both = (ndimage.gaussian_filter(grey, sigma, order) for order in ((2, 0), (0, 2), (1, 1)))
        mean, root = (down + across) / 2, np.hypot((down - across) / 2, both)
        dark = np.maximum(dark, sigma**2 * (mean + root))
        bright = np.maximum(bright, sigma**2 * (root - mean))
    return dark, bright


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 8-connected components of an (H, W) mask: their labels from 1, and the diagonals of their boxes, in pixels."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return labels, np.hypot(statistics[1:, cv2.CC_STAT_WIDTH], statistics[1:, cv2.CC_STAT_HEIGHT])


def shows_line(mask: np.ndarray, image: np.ndarray, box: tuple[float, float, float, float]) -> bool:
    """Whether a (H, W) mask of `ridge` is a line from end to end of its box, and not the grain of the ground."""
    around = _box_window(image.shape, box, _CONTEXT)
    mask, grey = mask[around], cv2.cvtColor(image[around], cv2.COLOR_RGB2GRAY).astype(np.float32)
    labels, extents = _pieces(mask)
    if not len(extents) or extents.max() < _LINE_SPAN * np.hypot(box[2] - box[0], box[3] - box[1]):
        return False
    line = labels == 1 + extents.argmax()
    width = 2 * cv2.distanceTransform(line.astype(np.uint8), cv2.DIST_L2, 5).max()
    # The edge of a blob is a ridge too, but goes round.
    if line.sum() < _LINE_LENGTH * width**2 or ndimage.binary_fill_holes(line).sum() > 2 * line.sum():
        return False
    near, far = (ndimage.binary_dilation(mask, iterations=pixels) for pixels in _BESIDE)
    beside = grey[far & ~near]
    return bool(beside.size) and abs(grey[mask].mean() - beside.mean()) > _LINE_CONTRAST * beside.std()


BASELINES: dict[str, Callable[[np.ndarray, tuple[float, float, float, float]], np.ndarray]] = {
    "fill_box": fill_box,
    "fill_ellipse": fill_ellipse,
    "otsu": otsu,
    "grabcut": grabcut,
    "ridge": ridge,
}


def _box_window(
    shape: tuple[int, ...], box: tuple[float, float, float, float], margin: float = 0
) -> tuple[slice, slice]:
    """The box in whole pixels, widened by a share of its sides (at least 4 pixels if at all), at least one pixel."""
    x1, y1, x2, y2 = box
    more_x, more_y = (max(4, margin * (high - low)) if margin else 0 for low, high in ((x1, x2), (y1, y2)))
    left = int(np.clip(np.floor(x1 - more_x), 0, shape[1] - 1))
    top = int(np.clip(np.floor(y1 - more_y), 0, shape[0] - 1))
    right = int(np.clip(np.ceil(x2 + more_x), left + 1, shape[1]))
    bottom = int(np.clip(np.ceil(y2 + more_y), top + 1, shape[0]))
    return slice(top, bottom), slice(left, right)


def find_baseline(name: str, prompt: str) -> str:
    """The baseline that `baseline:NAME` means. Raises `UserError` for an unknown one, or a prompt without a box."""
    baseline = name.removeprefix(BASELINE_PREFIX)
    if baseline not in BASELINES:
        known = ", ".join(BASELINE_PREFIX + known for known in BASELINES)
        raise UserError(f"{name}: no such baseline; use one of {known}")
    if prompt != "box":
        raise UserError(f"{name}: needs a box; set prompt to 'box', or evaluate a model with '{prompt}'")
    return baseline


def iterate_baseline(
    name: str, dataset: Dataset | IterableDataset, *, max_prompts: int | None = None
) -> Iterator[PromptResult]:
    """A baseline's answer to every object of a segmentation data set, in its order: four times the same mask, no score.

    Args:
        name: of `BASELINES`.
        dataset: rows of the segmentation schema.
        max_prompts: stop after so many.
    """
    segment = BASELINES[name]

    def rows() -> Iterator[tuple[int, dict[str, Any], np.ndarray]]:
        for index, row in enumerate(dataset):
            if row["objects"]:
                yield index, row, np.asarray(row["image"].convert("RGB"))

    def answer(image: np.ndarray, boxes: np.ndarray, truths: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        masks = np.stack([segment(image, tuple(box)) for box in boxes.tolist()])
        return np.repeat(masks[:, None], TOKENS, 1), np.full((len(masks), TOKENS), np.nan, np.float32)

    names = dataset.features["category"].names
    return iterate_answers(rows(), names, answer, prompt="box", batch_size=1, max_prompts=max_prompts)
