"""Three masks a prompt, for people to rank. Preferences can only teach where candidates differ.

Candidates come from one or several sources:

- `tokens`: SAM's three mask tokens (the paper);
- `thresholds`: the single mask cut at several probabilities: near misses, smaller and larger;
- `box_jitter`: the single mask for boxes drawn a little differently;
- `dropout`: the single mask with a tenth of the image embedding's channels switched off;
- `grabcut`: OpenCV's GrabCut in the box, no model at all: it can be right where the model's every mask is wrong;
- `otsu`: Otsu's threshold on the greys in the box, no model either;
- `shapes`: the box filled, and the ellipse in it, which only ask how the defect fills its box.

With `grabcut` or `otsu` a ridge filter's mask comes too where the box holds a thin line. Where the sources give more than
three, the three most different acceptable masks are kept, the model's own first.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from transformers import SamModel, SamProcessor

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.geometry import logits_to_original
from visionsam_hf.data.masks import decode_rle, encode_mask, encode_rle, mask_box, mask_iou, pairwise_iou
from visionsam_hf.data.prompts import jitter_box
from visionsam_hf.data.windows import Window, WindowRule, object_windows, rule_of
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.embeddings.decoding import decode_image, image_hash
from visionsam_hf.inference.baselines import BASELINES, shows_line
from visionsam_hf.inference.prediction import iterate_embeddings, predict_at
from visionsam_hf.models.loading import image_side

# Sources that owe nothing to the model, and what each draws.
_FOREIGN = {"grabcut": ("grabcut",), "otsu": ("otsu",), "shapes": ("fill_box", "fill_ellipse")}
SOURCES = ("tokens", "thresholds", "box_jitter", "dropout", *_FOREIGN)
# What the box's content brings by itself, with a source that looks at it.
_LINE = "ridge"
_LOOKING = ("grabcut", "otsu")
KEPT = 3
SAME_IOU = 0.98  # two masks this alike look the same to a person
_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
_JITTER = 0.15
_DROPPED = 0.1
_DRAWS = 4
# A mask less like the model's own than this is garbage, which teaches nothing; near misses do.
_ACCEPTABLE_IOU = 0.3
# The same for `shapes`, which know nothing of what is in the box, and would else be chosen for want of better ones.
_ACCEPTABLE_SHAPE_IOU = 0.7
# A mask drawn from the pixels may also be unlike the model's own where it fits the box better, by so much box IoU.
_BETTER_FIT = 0.1


@dataclass(frozen=True)
class Candidate:
    """One mask to rank: (H, W) bool, the source and decoder token it came from, and the predicted IoU.

    A mask that no token made has token 0, the one that learns from it, and that token's score.
    """

    mask: np.ndarray
    source: str
    token: int
    score: float


@dataclass
class Diversity:
    """How much the candidates of a set differ, and what choosing well among them would be worth."""

    prompts: int = 0
    distinct: int = 0
    pairwise_iou: float = 0.0
    best_iou: float = 0.0
    single_iou: float = 0.0
    sources: dict[str, int] = field(default_factory=dict)

    def add(self, candidates: Sequence[Candidate], single: np.ndarray, truth: np.ndarray) -> None:
        """Count one prompt's three candidates beside the model's single mask; all masks (H, W) bool."""
        ious = pairwise_iou(np.stack([candidate.mask for candidate in candidates]))
        upper = ious[np.triu_indices(len(candidates), 1)]
        self.prompts += 1
        self.distinct += bool(upper.min() < SAME_IOU)
        self.pairwise_iou += float(upper.mean())
        self.best_iou += max(mask_iou(candidate.mask, truth) for candidate in candidates)
        self.single_iou += mask_iou(single, truth)
        for candidate in candidates:
            self.sources[candidate.source] = self.sources.get(candidate.source, 0) + 1

    @classmethod
    def pooled(cls, parts: Iterable["Diversity"]) -> "Diversity":
        """That of all their prompts together."""
        total = cls()
        for part in parts:
            for name, value in vars(part).items():
                if name != "sources":
                    setattr(total, name, getattr(total, name) + value)
            total.sources = dict(Counter(total.sources) + Counter(part.sources))
        return total

    def summary(self) -> dict[str, Any]:
        """Means over the prompts, as reported in `stage.json`."""
        count = max(self.prompts, 1)
        return {
            "prompts": self.prompts,
            "mean_pairwise_iou": self.pairwise_iou / count,
            "share_distinct": self.distinct / count,
            "best_of_three_iou": self.best_iou / count,
            "single_iou": self.single_iou / count,
            "best_of_three_minus_single": (self.best_iou - self.single_iou) / count,
            "sources": dict(sorted(self.sources.items())),
        }


def generate_candidates(
    model: SamModel,
    processor: SamProcessor,
    dataset: datasets.Dataset,
    *,
    sources: Sequence[str] = ("tokens",),
    cache: EmbeddingCache | None = None,
    rule: WindowRule | None = None,
    max_prompts: int | None = None,
    seed: int = 0,
    diversity: Diversity | None = None,
    drawn: dict[tuple, dict[str, Any]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of the candidate schema (`visionsam_hf.data.schema.candidate_features`), one an object of a segmentation data set.

    Args:
        model, processor: the SAM that proposes.
        dataset: rows of the segmentation schema; an object's box is the prompt, its mask the truth.
        sources: of `SOURCES`.
        cache: embeddings to read and fill; None encodes every window.
        rule: which part of a photograph answers a prompt; None is as the model was tuned.
        max_prompts: stop after so many.
        seed: of jitter and dropout; drawn per (seed, row, object).
        diversity: is told of every prompt.
        drawn: masks that owe nothing to the model, as RLE by name, image and box; read and filled, for those who come
            back with another model: GrabCut takes longer than everything else together.

    Raises:
        UserError: an unknown source, or too few to give three masks.
    """
    _check_sources(sources)
    foreign = [(source, name) for source in sources for name in _FOREIGN.get(source, ())]
    rule, done = rule or rule_of(processor), 0
    windows = functools.partial(object_windows, rule=rule)
    for index, row, look in iterate_embeddings(model, processor, dataset, windows, cache=cache):
        # Without a caller who comes back for them they go with their image.
        drawings = _Drawings(row["image"], {} if drawn is None else drawn) if foreign else None
        for object_index, item in enumerate(row["objects"]):
            if max_prompts is not None and done >= max_prompts:
                return
            truth = decode_rle(item["rle"])
            rng = np.random.default_rng([seed, index, object_index])
            box = np.array(item["box"], np.float32)
            window = rule.of_box(item["box"], truth.shape)
            pool, single = propose(model, look(window), box, truth.shape, sources, rng, window)
            if drawings is not None:
                drawn_masks = [(source, drawings(name, tuple(item["box"]))) for source, name in foreign]
                if not set(_LOOKING).isdisjoint(sources):
                    drawn_masks.append((_LINE, drawings(_LINE, tuple(item["box"]))))
                pool += [Candidate(mask, source, 0, single.score) for source, mask in drawn_masks if mask is not None]
            chosen = choose_three(pool, single.mask, box)
            if diversity is not None:
                diversity.add(chosen, single.mask, truth)
            done += 1
            yield _candidate_row(row, object_index, truth, chosen)


def _check_sources(sources: Sequence[str]) -> None:
    unknown = [source for source in sources if source not in SOURCES]
    if unknown or not sources:
        raise UserError(f"candidate_source: {unknown or 'empty'}; choose from {', '.join(SOURCES)}")
    if all(source in _FOREIGN for source in sources):
        raise UserError(
            f"candidate_source: {', '.join(sources)} asks nothing of the model that is to learn; name another beside it"
        )


class _Drawings:
    """Masks of one undecoded image that owe nothing to the model, kept as RLE; the image is decoded for the first new one."""

    def __init__(self, image: dict[str, Any], kept: dict[tuple, dict[str, Any]]) -> None:
        self._image, self._kept = image, kept
        self._content = image_hash(image)
        self._pixels: np.ndarray | None = None

    def __call__(self, name: str, box: tuple[float, float, float, float]) -> np.ndarray | None:
        """The (H, W) bool mask of baseline `name` for a box; None for `ridge` where there is no line."""
        key = (name, self._content, *box)
        if key not in self._kept:
            if self._pixels is None:
                self._pixels = np.asarray(decode_image(self._image))
            mask = BASELINES[name](self._pixels, box)
            is_wanted = name != _LINE or shows_line(mask, self._pixels, box)
            self._kept[key] = encode_rle(mask & is_wanted)
        mask = decode_rle(self._kept[key])
        return mask if mask.any() else None


def _candidate_row(
    row: dict[str, Any], object_index: int, truth: np.ndarray, candidates: Sequence[Candidate]
) -> dict[str, Any]:
    copied = {key: row[key] for key in ("image", "image_id", "category")}
    return copied | {
        "box": row["objects"][object_index]["box"],
        "object_index": object_index,
        "truth": encode_mask(truth),
        "candidates": [
            {
                "rle": encode_rle(candidate.mask),
                "token": candidate.token,
                "source": candidate.source,
                "score": candidate.score,
            }
            for candidate in candidates
        ],
    }


def propose(
    model: SamModel,
    embedding: torch.Tensor,
    box: np.ndarray,
    original_size: tuple[int, int],
    sources: Sequence[str],
    rng: np.random.Generator,
    window: Window | None = None,
) -> tuple[list[Candidate], Candidate]:
    """Every candidate that the model's own sources give for one box, and token 0's single mask.

    Args:
        embedding: (C, h, w) of the window, or of the whole image. box: (4,) in original pixels. rng: of jitter and dropout.
    """

    def full(logits: torch.Tensor) -> np.ndarray:
        return logits_to_original(logits, original_size, image_side(model), window).cpu().numpy()

    def answer(image: torch.Tensor, boxes: np.ndarray, tokens: int = 1) -> tuple[np.ndarray, np.ndarray]:
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        points = np.zeros((len(boxes), 2, 2), np.float32)
        logits, scores = predict_at(model, image, boxes, points, original_size, "box", window)
        # Most of the time goes into the original size: only for the tokens that are asked for.
        return full(logits[:, :tokens]), scores.float().cpu().numpy()

    logits, scores = answer(embedding, box, tokens=4 if "tokens" in sources else 1)
    logits, scores = logits[0], scores[0]
    pool: list[Candidate] = []
    if "tokens" in sources:
        pool += [Candidate(logits[token] > 0, "tokens", token, float(scores[token])) for token in (1, 2, 3)]
    if "thresholds" in sources:
        cuts = [float(np.log(probability / (1 - probability))) for probability in _THRESHOLDS]
        pool += [Candidate(logits[0] > cut, "thresholds", 0, float(scores[0])) for cut in cuts]
    if "box_jitter" in sources:
        boxes = np.stack([jitter_box(box, original_size, rng, fraction=_JITTER) for _ in range(_DRAWS)])
        if window is not None:
            boxes = boxes.clip(2 * window.corners[:2], 2 * window.corners[2:])
        moved, moved_scores = answer(embedding, boxes)
        pool += [Candidate(z[0] > 0, "box_jitter", 0, float(score[0])) for z, score in zip(moved, moved_scores)]
    if "dropout" in sources:
        for _ in range(_DRAWS):
            keep = torch.from_numpy(rng.random((len(embedding), 1, 1)) >= _DROPPED).to(embedding)
            dropped, dropped_scores = answer(embedding * keep / (1 - _DROPPED), box)
            pool.append(Candidate(dropped[0, 0] > 0, "dropout", 0, float(dropped_scores[0, 0])))
    return pool, Candidate(logits[0] > 0, "single", 0, float(scores[0]))


def choose_three(pool: Sequence[Candidate], single: np.ndarray, box: np.ndarray) -> list[Candidate]:
    """The three of the pool to rank: the most like the model's single mask, then twice the most different from those kept.

    Empty masks and masks too unlike the single one are taken only when nothing else is left, repeats last. A mask drawn
    from the pixels may be unlike it where it fits the box (4,) better, a line always.
    """
    if len(pool) < KEPT:
        raise ValueError(f"a pool of {len(pool)} candidates; at least {KEPT} are needed")
    if len(pool) == KEPT:
        return list(pool)
    masks = np.stack([candidate.mask for candidate in pool])
    ious = pairwise_iou(np.concatenate([single[None], masks]))
    like_single, between = ious[0, 1:], ious[1:, 1:]
    acceptable = masks.any((1, 2)) & [
        like >= (_ACCEPTABLE_SHAPE_IOU if candidate.source == "shapes" else _ACCEPTABLE_IOU)
        or candidate.source == _LINE
        # What owes nothing to the model is worth most where the model's own is garbage.
        or (candidate.source in _LOOKING and _box_fit(candidate.mask, box) > _box_fit(single, box) + _BETTER_FIT)
        for candidate, like in zip(pool, like_single)
    ]
    kept = [int(like_single.argmax())]
    while len(kept) < KEPT:
        distance = 1 - between[:, kept].max(1)
        distance[kept] = -1
        # Unacceptable ones come after every acceptable one that is not a repeat.
        distance = np.where(acceptable | (distance < 0), distance, distance - 1 + 1e-3)
        kept.append(int(distance.argmax()))
    return [pool[index] for index in kept]


def _box_fit(mask: np.ndarray, box: np.ndarray) -> float:
    """IoU of a box (4,) with the box round a (H, W) bool mask, 0 for an empty one."""
    if not mask.any():
        return 0.0
    own = np.array(mask_box(mask))
    sides = np.minimum(own[2:], box[2:]) - np.maximum(own[:2], box[:2])
    shared = sides.clip(min=0).prod()
    return float(shared / ((own[2:] - own[:2]).prod() + (box[2:] - box[:2]).prod() - shared))
