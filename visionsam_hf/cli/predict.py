"""`visionsam predict`: masks for photographs, from boxes, points, a list of prompts, a COCO file, or no prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import setting

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from visionsam_hf.inference.prediction_files import Asked, Predicted, Prompt

_CANDIDATES = ("candidate_1", "candidate_2", "candidate_3")
_BATCH = 16  # prompts of one photograph a decoder call


@dataclass
class PredictSettings:
    """What to segment, and where the masks go."""

    model: str = setting("", "model: a directory, a Hub id, or visionsam-tiny", required=True)
    image: str = setting("", "photograph, or a folder of them", required=True)
    box: list[float] = setting([], "X1 Y1 X2 Y2 in pixels of the photograph (of every photograph of a folder)")
    point: list[float] = setting([], "X Y in pixels of the photograph (of every photograph of a folder)")
    prompts: str = setting(
        "",
        'prompts for a folder\'s photographs: .jsonl with lines like {"image": "a.png", "box": [...]}, or COCO .json',
    )
    no_box: bool = setting(False, "no prompt: SAM's automatic mask generation finds masks of whatever is there")
    points_per_side: int = setting(32, "automatic: a grid of so many points a side")
    min_score: float = setting(0.88, "automatic: masks with a lower predicted IoU are dropped")
    min_stability: float = setting(0.95, "automatic: masks whose outline is less stable are dropped")
    output: str = setting("", "directory for masks, overlays, predictions.jsonl and coco.json", required=True)


def run(settings: PredictSettings) -> None:
    """Write masks, their scores and overlays; one box or point on one photograph gets the three candidates too."""
    given = [key for key in ("box", "point", "prompts", "no_box") if getattr(settings, key)]
    if len(given) != 1:
        raise UserError("predict: give one prompt: --box X1 Y1 X2 Y2, --point X Y, --prompts FILE, or --no-box")
    for key, count, words in (("box", 4, "X1 Y1 X2 Y2"), ("point", 2, "X Y")):
        if getattr(settings, key) and len(getattr(settings, key)) != count:
            raise UserError(f"{key}: has {len(getattr(settings, key))} numbers; give {words}")
    if settings.points_per_side < 1:
        raise UserError("points_per_side: must be 1 or more")
    image = Path(settings.image)
    if not image.exists():
        raise UserError(f"{image}: no such image or folder")

    import json
    import sys

    from visionsam_hf.inference.prediction_files import (
        CATEGORY,
        Prompt,
        checked,
        read_prompts,
        replaced_directory,
        same_prompt,
    )
    from visionsam_hf.models.loading import load_model, load_processor, to_best_device

    if settings.prompts:
        asked, categories = read_prompts(Path(settings.prompts), image)
    else:
        prompt = Prompt(tuple(settings.box), tuple(settings.point))
        asked, categories = same_prompt(image, prompt, given[0]), {CATEGORY: 1}
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


def _write_one(segmenter: "_Segmenter", asked: "Asked", categories: dict[str, int], directory: Path) -> dict[str, Any]:
    """One prompt on one photograph: its four masks under short names."""
    import json

    import numpy as np

    from visionsam_hf.data.masks import encode_mask
    from visionsam_hf.inference.prediction_files import PredictionWriter, prompt_words

    prompt, image = asked.prompts[0][0], _photograph(asked.path)
    found = segmenter.four(prompt, image)
    with PredictionWriter(directory, categories, short_names=True) as writer:
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
    segmenter: "_Segmenter", asked: "list[Asked]", categories: dict[str, int], directory: Path
) -> dict[str, Any]:
    import sys

    import numpy as np
    from tqdm.auto import tqdm

    from visionsam_hf.inference.prediction_files import PredictionWriter

    interval = 0.2 if sys.stderr.isatty() else 30
    with PredictionWriter(directory, categories) as writer:
        for entry in tqdm(asked, desc="predict", unit="image", mininterval=interval):
            image = _photograph(entry.path)
            writer.add(entry, np.asarray(image), segmenter.segment([prompt for prompt, _ in entry.prompts], image))
    return {"images": len(asked), "masks": len(writer.annotations), "empty": writer.empty}


def _photograph(path: Path) -> "Image":
    """Upright and 8-bit, as data sets store it."""
    from datasets_builders.photographs import read_photograph
    from visionsam_hf.embeddings.cache import decode_image

    return decode_image(read_photograph(path).stored)


class _Segmenter:
    """Answers the prompts of one photograph after another."""

    def __init__(self, model: Any, processor: Any, settings: PredictSettings) -> None:
        self.model, self.processor, self.settings = model, processor, settings

    def segment(self, prompts: "Sequence[Prompt]", image: "Image") -> "list[Predicted]":
        """The single mask of every prompt, or the generated ones of a prompt for everything."""
        from visionsam_hf.inference.prediction import encode_image, generate_masks
        from visionsam_hf.inference.prediction_files import Predicted

        embedding, size = encode_image(self.model, self.processor, image), (image.height, image.width)
        if prompts[0].kind == "everything":
            keys = ("points_per_side", "min_score", "min_stability")
            options = {key: getattr(self.settings, key) for key in keys}
            masks = generate_masks(self.model, embedding, size, **options)
            return [Predicted(prompts[0], generated.mask, generated.score) for generated in masks]
        answers: dict[int, Predicted] = {}
        for kind in ("box", "point"):
            places = [place for place, prompt in enumerate(prompts) if prompt.kind == kind]
            for start in range(0, len(places), _BATCH):
                batch = places[start : start + _BATCH]
                masks, scores = self.tokens(embedding, [prompts[place] for place in batch], size, tokens=1)
                for place, mask, score in zip(batch, masks, scores):
                    answers[place] = Predicted(prompts[place], mask[0], float(score[0]))
        return [answers[place] for place in range(len(prompts))]

    def four(self, prompt: "Prompt", image: "Image") -> "list[Predicted]":
        """The single mask and the three candidates of one prompt."""
        from visionsam_hf.inference.prediction import encode_image
        from visionsam_hf.inference.prediction_files import Predicted

        embedding = encode_image(self.model, self.processor, image)
        masks, scores = self.tokens(embedding, [prompt], (image.height, image.width), tokens=4)
        return [Predicted(prompt, mask, float(score)) for mask, score in zip(masks[0], scores[0])]

    def tokens(
        self, embedding: Any, prompts: "Sequence[Prompt]", size: tuple[int, int], *, tokens: int
    ) -> "tuple[np.ndarray, np.ndarray]":
        """(N, tokens, H, W) masks and (N, tokens) scores of the first mask tokens, for N prompts of one kind."""
        import numpy as np

        from visionsam_hf.data.geometry import logits_to_original
        from visionsam_hf.inference.prediction import predict_at
        from visionsam_hf.models.loading import image_side

        boxes = np.array([prompt.box or [0, 0, 0, 0] for prompt in prompts], np.float32)
        points = np.zeros((len(prompts), 2, 2), np.float32)
        points[:, 0] = [prompt.point or (0, 0) for prompt in prompts]
        logits, scores = predict_at(self.model, embedding, boxes, points, size, prompts[0].kind)
        masks = logits_to_original(logits[:, :tokens], size, image_side(self.model)) > 0
        return masks.cpu().numpy(), scores[:, :tokens].float().cpu().numpy()
