"""`visionsam predict`: a tuned model on one photograph."""

from dataclasses import dataclass
from pathlib import Path

from visionsam_hf.config import setting
from visionsam_hf.errors import UserError


@dataclass
class PredictSettings:
    """What to segment, and where the masks go."""

    model: str = setting("", "model: a directory, a Hub id, or visionsam-tiny", required=True)
    image: str = setting("", "photograph", required=True)
    box: list[float] = setting([], "X1 Y1 X2 Y2 in pixels of the photograph")
    point: list[float] = setting([], "X Y in pixels of the photograph")
    output: str = setting("", "directory for mask.png, candidate_1.png to 3, overlay.png and prediction.json", required=True)


def run(settings: PredictSettings) -> None:
    """Write the single mask, the three candidates, their scores, and an overlay."""
    if bool(settings.box) == bool(settings.point):
        raise UserError("predict: give one prompt, --box X1 Y1 X2 Y2 or --point X Y")
    if settings.box and len(settings.box) != 4:
        raise UserError(f"box: has {len(settings.box)} numbers; give X1 Y1 X2 Y2")
    if settings.point and len(settings.point) != 2:
        raise UserError(f"point: has {len(settings.point)} numbers; give X Y")
    path = Path(settings.image)
    if not path.is_file():
        raise UserError(f"{path}: no such image")

    import json

    import numpy as np

    from visionsam_hf.embeddings import decode_image
    from visionsam_hf.geometry import logits_to_original
    from visionsam_hf.inference import encode_image, predict_at
    from visionsam_hf.modeling import image_side, load_model, load_processor, to_best_device
    from visionsam_hf.schema import encode_mask

    image = decode_image({"path": str(path), "bytes": None})
    width, height = image.size
    _check_inside(settings, width, height)
    model, processor = to_best_device(load_model(settings.model)), load_processor(settings.model)
    boxes = np.array([settings.box or [0, 0, 0, 0]], np.float32)
    points = np.zeros((1, 2, 2), np.float32)
    if settings.point:
        points[0, 0] = settings.point
    kind = "box" if settings.box else "point"
    logits, scores = predict_at(model, encode_image(model, processor, image), boxes, points, (height, width), kind)
    masks = (logits_to_original(logits, (height, width), image_side(model))[0] > 0).cpu().numpy()

    output = Path(settings.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, mask in zip(("mask", "candidate_1", "candidate_2", "candidate_3"), masks):
            encode_mask(mask).save(output / f"{name}.png")
        _overlay(np.asarray(image), masks[0], settings.box).save(output / "overlay.png")
        answer = {
            "image": str(path),
            "prompt": {"box": settings.box} if settings.box else {"point": settings.point},
            "scores": {name: round(float(score), 4) for name, score in zip(("mask", "candidate_1", "candidate_2", "candidate_3"), scores[0])},
            "area": int(masks[0].sum()),
        }
        (output / "prediction.json").write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose another --output") from None
    print(json.dumps(answer))


def _check_inside(settings: PredictSettings, width: int, height: int) -> None:
    if settings.box:
        x1, y1, x2, y2 = settings.box
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise UserError(f"box: {settings.box} is not a box inside the {width} x {height} image; give X1 < X2 and Y1 < Y2")
    elif not (0 <= settings.point[0] < width and 0 <= settings.point[1] < height):
        raise UserError(f"point: {settings.point} is outside the {width} x {height} image")


def _overlay(image, mask, box):
    import cv2
    import numpy as np
    from PIL import Image

    shown = image.copy()
    thickness = max(1, round(max(mask.shape) / 400))
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, contours, -1, (255, 96, 0), thickness)
    if box:
        x1, y1, x2, y2 = (int(round(value)) for value in box)
        cv2.rectangle(shown, (x1, y1), (x2 - 1, y2 - 1), (0, 160, 255), thickness)
    return Image.fromarray(shown)
