"""From rows of a data set to samples (an image, or its cached embedding, with prompts and targets), and from those to batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import SamProcessor

from visionsam_hf.data.augmentation import Variant, variant_key, variant_of
from visionsam_hf.data.critiques import critique_signs, mended_choice
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.geometry import mask_to_target, to_square, valid_region
from visionsam_hf.data.masks import decode_mask, decode_rle, mask_box
from visionsam_hf.data.prompts import draw_kind, interior_point, jitter_box, negative_point, random_point
from visionsam_hf.data.windows import Window, WindowRule, crop, look_window, object_windows, window_key
from visionsam_hf.embeddings.cache import EmbeddingCache
from visionsam_hf.embeddings.decoding import decode_image, image_hash


class ImageSource:
    """The windows of a data set's images: their cached embeddings, their places among resident ones, or their pixels.

    Args:
        rows: with an image column.
        processor: the model's.
        cache: filled here, on all processes together; None gives pixels.
        windows: those of each row; None is every image as a whole.
        variants: looks of every window (`visionsam_hf.data.augmentation`).
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor: SamProcessor,
        cache: EmbeddingCache | None,
        *,
        windows: Sequence[Sequence[Window | None]] | None = None,
        variants: int = 1,
    ) -> None:
        self.processor, self.cache, self.windows, self.variants = processor, cache, windows, variants
        self.keys = cache.add(rows, windows=windows, variants=variants, together=True) if cache is not None else None
        self.images = rows.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
        self.places: dict[str, int] | None = None

    @property
    def entries(self) -> list[str]:
        """The cache's keys of all windows of all images in all variants."""
        return [
            variant_key(window_key(key, window), number)
            for row, key in enumerate(self.keys or [])
            for window in (self.windows[row] if self.windows is not None else (None,))
            for number in range(self.variants)
        ]

    def content_key(self, index: int) -> str:
        """A hash of row `index`'s image; the cache has it already."""
        return self.keys[index] if self.keys is not None else image_hash(self.images[index]["image"])

    def variant(self, index: int, number: int) -> Variant:
        """Look `number` of row `index`."""
        return variant_of(self.content_key(index), number) if number else Variant()

    def look(self, index: int, window: Window | None, original_size: Sequence[int], number: int) -> Window | None:
        """What look `number` of a window of row `index` shows."""
        return look_window(window, original_size, self.content_key(index), number) if number else window

    def __call__(
        self, index: int, window: Window | None = None, number: int = 0, variant: Variant = Variant()
    ) -> dict[str, torch.Tensor]:
        """A window of row `index` in look `number`, which is `variant` (without a cache any variant will do)."""
        if self.keys is None or self.cache is None:
            image = np.asarray(decode_image(self.images[index]["image"]))
            image = variant.look(crop(image, self.look(index, window, image.shape[:2], number)))
            return {"pixel_values": self.processor(images=image, return_tensors="pt")["pixel_values"][0]}
        key = variant_key(window_key(self.keys[index], window), number)
        if self.places is not None:
            return {"image_places": torch.tensor(self.places[key])}
        return {"image_embeddings": self.cache[key]}


class PromptSamples(Dataset):
    """Samples of supervised fine-tuning: an image with up to N of its objects, prompts drawn anew each epoch.

    Args:
        rows: a segmentation data set.
        processor: the model's.
        image_side, mask_side: sides of the encoder's square and of the logits' square.
        cache: embeddings instead of pixels.
        rule: which part of an image is shown for its prompts; those that share it are drawn together. Points are shown
            the whole image where the rule goes by the box.
        prompt_mix, box_jitter, prompts_per_image, target_resize, augment, variants, seed: as in `SFTSettings`.
        training: False draws no randomness: boxes as they are, the deepest points, the first kind of the mix.

    A sample is `{"pixel_values" | "image_embeddings" | "image_places", "kind": str, "boxes": (n, 4), "points": (n, 2, 2),
    "targets": (n, S, S) in [0, 1], "valid": (S, S) bool, "item": int}`, boxes and points in pixels of the encoder's square.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor: SamProcessor,
        *,
        image_side: int,
        mask_side: int,
        cache: EmbeddingCache | None = None,
        rule: WindowRule = WindowRule(),
        prompt_mix: Mapping[str, float] = {"box": 1.0},
        box_jitter: float = 0.0,
        prompts_per_image: int = 1,
        target_resize: str = "area",
        augment: bool = False,
        variants: int = 1,
        seed: int = 0,
        training: bool = True,
    ) -> None:
        self.objects = rows.select_columns(["objects"])
        self.image_side, self.mask_side = image_side, mask_side
        self.prompt_mix, self.box_jitter, self.target_resize = prompt_mix, box_jitter, target_resize
        self.augment, self.seed, self.training = augment, seed, training
        # Shared with the data loader's workers, which may live longer than an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.index: list[tuple[int, list[int], Window | None]] = []
        windows = []
        for row, values in enumerate(self.objects):
            of_objects = object_windows(values["objects"], rule)
            windows.append(list(dict.fromkeys(of_objects)))
            for window in windows[-1]:
                places = [place for place, of_object in enumerate(of_objects) if of_object == window]
                starts = range(0, len(places), prompts_per_image)
                self.index += [(row, places[start : start + prompts_per_image], window) for start in starts]
        # A point tells no size to zoom by.
        self.points_see_all = rule.window == "zoom"
        if self.points_see_all and set(prompt_mix) != {"box"}:
            windows = [[*of_row, None] if of_row else [] for of_row in windows]
        if not self.index:
            raise UserError("data set: no row has an object to prompt; build it with defects, or choose another split")
        whole = None if rule.window == "whole" else windows
        self.source = ImageSource(rows, processor, cache, windows=whole, variants=variants)
        self.names = rows.select_columns(["image_id"])

    def __len__(self) -> int:
        return len(self.index)

    def image_id(self, item: int) -> str:
        """The image that a sample shows."""
        return self.names[self.index[item][0]]["image_id"]

    def set_epoch(self, epoch: int) -> None:
        """Prompts are drawn per (seed, epoch, sample), so a resumed run draws the same."""
        self._epoch.fill_(epoch)

    def __getitem__(self, item: int) -> dict[str, Any]:
        row, places, window = self.index[item]
        objects = self.objects[row]["objects"]
        rng = np.random.default_rng([self.seed, int(self._epoch) if self.training else 0, item])
        kind = (
            draw_kind(self.prompt_mix, rng)
            if self.training
            else max(self.prompt_mix, key=lambda one: self.prompt_mix[one])
        )
        if kind != "box" and self.points_see_all:
            window = None
        number = int(rng.integers(self.source.variants)) if self.training and self.source.variants > 1 else 0
        variant = self.source.variant(row, number)
        if self.training and self.augment:
            variant = Variant(int(rng.integers(4)), bool(rng.integers(2)))
        shown = self.source.look(row, window, objects[0]["rle"]["size"], number)
        # From here on what is shown, turned, is the image.
        masks = [
            np.ascontiguousarray(variant.turn(crop(decode_rle(objects[place]["rle"]), shown))) for place in places
        ]
        size = masks[0].shape
        boxes = np.stack([np.array(mask_box(mask), np.float32) for mask in masks])
        points = np.zeros((len(masks), 2, 2), np.float32)
        for index, mask in enumerate(masks):
            if kind == "box" and self.training and self.box_jitter:
                boxes[index] = jitter_box(boxes[index], size, rng, fraction=self.box_jitter)
            elif kind != "box":
                points[index, 0] = random_point(mask, rng) if self.training else interior_point(mask)
                if kind == "point_pm":
                    points[index, 1] = negative_point(mask, boxes[index])
        targets = [mask_to_target(mask, self.mask_side, resize=self.target_resize)[0] for mask in masks]
        return {
            **self.source(row, window, number, variant),
            "kind": kind,
            "boxes": torch.from_numpy(to_square(boxes, size, self.image_side)),
            "points": torch.from_numpy(to_square(points, size, self.image_side)),
            "targets": torch.from_numpy(np.stack(targets)),
            "valid": torch.from_numpy(valid_region(size, self.mask_side)),
            "item": item,
        }


class PreferenceSamples(Dataset):
    """Samples of preference optimisation: an image, a box, and the masks that people ranked.

    Pairs whose masks are the same on the logits' grid teach nothing; they are dropped, and `dropped` counts them.

    A sample is `{"pixel_values" | "image_embeddings" | "image_places", "kind": "box", "boxes": (1, 4), "points": (1, 2, 2),
    "chosen", "rejected", "truth": (S, S) in [0, 1], "has_truth": bool, "ranks": (3,) ascending,
    "ranked_tokens": (3,) int64, "tokens_ranked": bool, "token": int, "valid": (S, S) bool, "item": int}`, with `rankings`
    "ranked": (3, S, S), best first, and with `regions` "signs": (S, S) in [-1, 1] (what circled mistakes say, as
    `critique_signs`) and "mended": (S, S), the chosen mask as they would have it.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor: SamProcessor,
        *,
        image_side: int,
        mask_side: int,
        cache: EmbeddingCache | None = None,
        rule: WindowRule = WindowRule(),
        target_resize: str = "area",
        rankings: bool = False,
        regions: bool = False,
    ) -> None:
        self.image_side, self.mask_side, self.target_resize = image_side, mask_side, target_resize
        self.rankings, self.regions = rankings, regions
        columns = ["box", "chosen", "rejected", "truth", "candidates"]
        self.masks = rows.select_columns(columns + [name for name in ("regions",) if name in rows.column_names])
        self.windows: list[Window | None] = [None] * len(rows)
        if rule.window != "whole":
            prompted = rows.select_columns(["box", "candidates"])
            self.windows = [rule.of_box(row["box"], row["candidates"][0]["rle"]["size"]) for row in prompted]
        self.index = [row for row in range(len(self.masks)) if self._differ(row)]
        self.dropped = len(self.masks) - len(self.index)
        if not self.index:
            raise UserError("preference data set: no pair has two different masks; rank candidates that differ")
        windows = None if rule.window == "whole" else [[window] for window in self.windows]
        self.source = ImageSource(rows, processor, cache, windows=windows)
        self.names = rows.select_columns(["image_id"])

    def __len__(self) -> int:
        return len(self.index)

    def image_id(self, item: int) -> str:
        """The image that a sample shows."""
        return self.names[self.index[item]]["image_id"]

    def content_key(self, row: int) -> str:
        """A hash of what row `row` shows: the image's, and its window."""
        return window_key(self.source.content_key(row), self.windows[row])

    def _differ(self, row: int) -> bool:
        masks, window = self.masks[row], self.windows[row]
        chosen, rejected = (self._target(decode_mask(masks[column]), window) for column in ("chosen", "rejected"))
        return bool((chosen != rejected).any())

    def _target(self, mask: np.ndarray, window: Window | None) -> np.ndarray:
        return mask_to_target(crop(mask, window), self.mask_side, resize=self.target_resize)[0]

    def __getitem__(self, item: int) -> dict[str, Any]:
        row, window = self.masks[self.index[item]], self.windows[self.index[item]]
        chosen, rejected = decode_mask(row["chosen"]), decode_mask(row["rejected"])
        truth = decode_mask(row["truth"]) if row["truth"] is not None else np.zeros_like(chosen)
        # Candidates are stored best first. Few objectives read all three masks, and decoding costs.
        ranked = {}
        if self.rankings:
            masks = [self._target(decode_rle(candidate["rle"]), window) for candidate in row["candidates"]]
            ranked = {"ranked": torch.from_numpy(np.stack(masks))}
        if self.regions:
            signs = critique_signs(row)
            come, go = (self._target(signs == sign, window) for sign in (1, -1))
            mended = self._target(mended_choice(row, signs), window)
            ranked |= {"signs": torch.from_numpy(come - go), "mended": torch.from_numpy(mended)}
        tokens = [int(candidate["token"]) for candidate in row["candidates"]]
        box = to_square(np.array([row["box"]], np.float32), chosen.shape, self.image_side, window)
        return {
            **self.source(self.index[item], window),
            "kind": "box",
            "boxes": torch.from_numpy(box),
            "points": torch.zeros(1, 2, 2),
            "chosen": torch.from_numpy(self._target(chosen, window)),
            "rejected": torch.from_numpy(self._target(rejected, window)),
            "truth": torch.from_numpy(self._target(truth, window)),
            "has_truth": row["truth"] is not None,
            **ranked,
            "ranks": torch.tensor([candidate["mean_rank"] for candidate in row["candidates"]], dtype=torch.float32),
            "ranked_tokens": torch.tensor(tokens),
            # A ranking speaks about the confidence of masks that each come from a token of their own.
            "tokens_ranked": len(set(tokens)) == len(tokens) and 0 not in tokens,
            "token": tokens[0],
            "valid": torch.from_numpy(valid_region(crop(chosen, window).shape, self.mask_side)),
            "item": item,
        }


@dataclass
class PromptCollator:
    """Stacks samples; images with fewer prompts are padded with their first one, which `prompt_valid` leaves out.

    >>> one = {"kind": "box", "boxes": torch.tensor([[0.0, 0, 2, 2]]), "points": torch.zeros(1, 2, 2),
    ...        "targets": torch.ones(1, 2, 2), "valid": torch.ones(2, 2, dtype=torch.bool), "item": 7,
    ...        "pixel_values": torch.zeros(3, 4, 4)}
    >>> two = {**one, "boxes": torch.tensor([[0.0, 0, 2, 2], [1, 1, 2, 2]]), "points": torch.zeros(2, 2, 2),
    ...        "targets": torch.ones(2, 2, 2)}
    >>> batch = PromptCollator()([one, two])
    >>> batch["boxes"].shape, batch["targets"].shape
    (torch.Size([2, 2, 4]), torch.Size([2, 2, 2, 2]))
    >>> batch["prompt_valid"]
    tensor([[ True, False],
            [ True,  True]])
    """

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        most = max(len(sample["boxes"]) for sample in samples)

        def padded(value: Tensor) -> Tensor:
            return torch.cat([value, value[:1].expand(most - len(value), *value.shape[1:])])

        batch = {
            key: torch.stack([padded(sample[key]) for sample in samples]) for key in ("boxes", "points", "targets")
        }
        valid = [torch.arange(most) < len(sample["boxes"]) for sample in samples]
        items = torch.tensor([sample["item"] for sample in samples])
        return {**batch, **_images(samples), "prompt_valid": torch.stack(valid), "item": items}


@dataclass
class PreferenceCollator:
    """Stacks preference samples, one prompt each.

    >>> sample = {"kind": "box", "boxes": torch.zeros(1, 4), "points": torch.zeros(1, 2, 2), "chosen": torch.ones(2, 2),
    ...           "rejected": torch.zeros(2, 2), "truth": torch.ones(2, 2), "has_truth": True, "ranked": torch.ones(3, 2, 2),
    ...           "ranks": torch.tensor([1.0, 2.0, 3.0]), "ranked_tokens": torch.tensor([2, 1, 3]), "tokens_ranked": True,
    ...           "token": 2, "item": 7, "valid": torch.ones(2, 2, dtype=torch.bool), "image_embeddings": torch.zeros(8, 2, 2)}
    >>> batch = PreferenceCollator()([sample, sample])
    >>> batch["chosen"].shape, batch["token"].tolist(), batch["prompt_valid"].tolist()
    (torch.Size([2, 2, 2]), [2, 2], [[True], [True]])
    """

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        stacked = ["boxes", "points", "chosen", "rejected", "truth", "ranks", "ranked_tokens"]
        stacked += [key for key in ("ranked", "signs", "mended") if key in samples[0]]
        listed = ("has_truth", "tokens_ranked", "token", "item")
        return {
            **{key: torch.stack([sample[key] for sample in samples]) for key in stacked},
            **{key: torch.tensor([sample[key] for sample in samples]) for key in listed},
            **_images(samples),
            "prompt_valid": torch.ones(len(samples), 1, dtype=torch.bool),
        }


def _images(samples: list[dict[str, Any]]) -> dict[str, Any]:
    image = next(key for key in ("image_places", "image_embeddings", "pixel_values") if key in samples[0])
    return {
        image: torch.stack([sample[image] for sample in samples]),
        "kinds": [sample["kind"] for sample in samples],
        "valid": torch.stack([sample["valid"] for sample in samples]),
    }
