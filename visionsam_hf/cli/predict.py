"""`visionsam predict`: masks for photographs, from boxes, points, a list of prompts, a COCO file, or no prompt."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from tqdm.auto import tqdm

from datasets_builders.photographs import read_photograph
from visionsam_hf.cli.options import PredictSettings
from visionsam_hf.cli.predict_found import run_found
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import encode_mask
from visionsam_hf.data.windows import choose_rule
from visionsam_hf.embeddings.decoding import decode_image
from visionsam_hf.inference.mask_generation import generate_masks
from visionsam_hf.inference.prediction import Look, answer_prompts, look_at, prompt_windows
from visionsam_hf.inference.prediction_files import (
    CATEGORY,
    Asked,
    Predicted,
    PredictionWriter,
    Prompt,
    checked,
    predicted,
    prompt_words,
    read_prompts,
    replaced_directory,
    same_prompt,
)
from visionsam_hf.models.loading import load_model, load_processor, to_best_device

_CANDIDATES = ("candidate_1", "candidate_2", "candidate_3")
_BATCH = 16  # prompts of one photograph a decoder call,
_BATCH_PIXELS = 1 << 27  # or fewer, whose masks have so many


class _Segmenter:
    """Answers the prompts of one photograph after another."""
    def __init__(self, model: Any, processor: Any, settings: PredictSettings) -> None:
        self.model, self.processor, self.settings = model, processor, settings
        self.rule = choose_rule(settings, processor)

    def segment(self, prompts: Sequence[Prompt], image: Image) -> list[Predicted]:
        """The single mask of every prompt, or the generated ones of a prompt for everything."""
        look, size = look_at(self.model, self.processor, image), (image.height, image.width)
        if prompts[0].kind == "everything":
            keys = ("points_per_side", "min_score", "min_stability")
            options = {key: getattr(self.settings, key) for key in keys}
            masks = generate_masks(self.model, look, size, rule=self.rule, **options)
            return [predicted(prompts[0], generated.mask, generated.score) for generated in masks]
        answers: dict[int, Predicted] = {}
        batch_size = max(1, min(_BATCH, _BATCH_PIXELS // (image.height * image.width)))
        for kind in ("box", "point"):
            places = [place for place, prompt in enumerate(prompts) if prompt.kind == kind]
            for start in range(0, len(places), batch_size):
                batch = places[start : start + batch_size]
                masks, scores = self.tokens(look, [prompts[place] for place in batch], size, tokens=1)
                for place, mask, score in zip(batch, masks, scores):
                    answers[place] = predicted(prompts[place], mask[0], float(score[0]))
        return [answers[place] for place in range(len(prompts))]

    def four(self, prompt: Prompt, image: Image) -> list[Predicted]:
        """The single mask and the three candidates of one prompt."""
        look = look_at(self.model, self.processor, image)
        masks, scores = self.tokens(look, [prompt], (image.height, image.width), tokens=4)
        return [predicted(prompt, mask, float(score)) for mask, score in zip(masks[0], scores[0])]

    def tokens(
        self, look: Look, prompts: Sequence[Prompt], size: tuple[int, int], *, tokens: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(N, tokens, H, W) masks and (N, tokens) scores of the first mask tokens, for N prompts of one kind."""
        kind = prompts[0].kind
        boxes = np.array([prompt.box or [0, 0, 0, 0] for prompt in prompts], np.float32)
        points = np.zeros((len(prompts), 2, 2), np.float32)
        points[:, 0] = [prompt.point or (0, 0) for prompt in prompts]
        windows = prompt_windows(self.rule, boxes, points, size, kind)
        return answer_prompts(self.model, look, boxes, points, size, kind, windows, tokens=tokens)


def run(settings: PredictSettings) -> None:
    """Write masks, their scores and overlays; one box or point on one photograph gets the three candidates too."""
    image = Path(settings.image)
    if not image.exists():
        raise UserError(f"{image}: no such image or folder")
    if settings.finder:
        run_found(settings, read_image)
        return



    if settings.prompts:
        asked, categories = read_prompts(Path(settings.prompts), image)
    else:
        prompt = Prompt(tuple(settings.box), tuple(settings.point))
        kind = next(key for key in ("box", "point", "no_box") if getattr(settings, key))
        asked, categories = same_prompt(image, prompt, kind), {CATEGORY: 1}
    asked = list(checked(asked))
    segmenter = _Segmenter(to_best_device(load_model(settings.model)), load_processor(settings.model), settings)
    if settings.no_box:
        side = settings.points_per_side
        told = f"no box: masks of whatever is there, by SAM's automatic mask generation ({side} x {side} points)"
        print(told, file=sys.stderr)
    with replaced_directory(Path(settings.output)) as directory:
        if image.is_file() and not settings.no_box:
            answer = _write_one(segmenter, asked[0], categories, directory)
        else:
            answer = _write_many(segmenter, asked, categories, directory)
    if settings.no_box and not answer["masks"]:
        print("no mask was sure and stable enough; lower --min_score or --min_stability to see more", file=sys.stderr)
    print(json.dumps(answer | {"output": settings.output}))


def _write_one(segmenter: _Segmenter, asked: Asked, categories: dict[str, int], directory: Path) -> dict[str, Any]:
    """One prompt on one photograph: its four masks under short names."""
    prompt, image = asked.prompts[0][0], read_image(asked.path)
    found = segmenter.four(prompt, image)
    with PredictionWriter(directory, categories, model=segmenter.settings.model, short_names=True) as writer:
        writer.add(asked, np.asarray(image), found[:1])
    for name, candidate in zip(_CANDIDATES, found[1:]):
        encode_mask(candidate.mask).save(directory / f"{name}.png")
    answer = {
        "image": str(asked.path),
        "prompt": prompt_words(prompt),
        "scores": {name: round(one.score, 4) for name, one in zip(("mask", *_CANDIDATES), found)},
        "area": int(found[0].mask.sum()),
    }
    (directory / "prediction.json").write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    return answer


def _write_many(
    segmenter: _Segmenter, asked: list[Asked], categories: dict[str, int], directory: Path
) -> dict[str, Any]:
    interval = 0.2 if sys.stderr.isatty() else 30
    with PredictionWriter(directory, categories, model=segmenter.settings.model) as writer:
        for entry in tqdm(asked, desc="predict", unit="image", mininterval=interval):
            image = read_image(entry.path)
            writer.add(entry, np.asarray(image), segmenter.segment([prompt for prompt, _ in entry.prompts], image))
    return {"images": len(asked), "masks": len(writer.annotations), "empty": writer.empty}


def read_image(path: Path) -> Image:
    """A photograph, upright and 8-bit, as data sets store it."""
    return decode_image(read_photograph(path).stored)
