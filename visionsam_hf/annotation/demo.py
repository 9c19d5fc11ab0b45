"""The demo page's server: one photograph, the boxes that somebody draws on it, and a model's masks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel

from visionsam_hf.annotation.access import AccessMiddleware
from visionsam_hf.annotation.answers import Coordinate
from visionsam_hf.annotation.server import read_static, static_response
from visionsam_hf.annotation.task_images import as_png, view_window

# A box in pixels of the photograph to (K, H, W) bool masks and their (K,) scores.
AnswerBox = Callable[[Sequence[float]], tuple[np.ndarray, np.ndarray]]


class Box(BaseModel, extra="forbid"):
    """What the model is asked."""

    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate]


def make_demo(photograph: np.ndarray, name: str, model: str, answer: AnswerBox, hosts: list[str]) -> Any:
    """The ASGI application.

    Args:
        photograph: (H, W, 3) uint8. name, model: what the page calls it and the model.
        answer: the model. hosts: as in `make_app`.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, title="visionsam demo")
    files, photo = read_static(), as_png(photograph)

    @app.get("/")
    def page() -> Response:
        return static_response("demo.html", files)

    @app.get("/static/{file}")
    def static_file(file: str) -> Response:
        return static_response(file, files)

    @app.get("/api/about")
    def about() -> dict[str, str]:
        return {"name": name, "model": model}

    @app.get("/api/photo.png")
    def whole() -> Response:
        return Response(photo, media_type="image/png")

    @app.post("/api/masks")
    def masks(body: Box) -> dict[str, Any]:
        (height, width), (x1, y1, x2, y2) = photograph.shape[:2], body.box
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise HTTPException(422, "the box is empty, or not on the photograph")
        found, scores = answer(body.box)
        left, top, right, bottom = view_window((height, width), body.box, found)
        return {
            "view": [left, top, right, bottom],
            "masks": [
                {"score": float(score), "area": int(mask.sum()), "runs": _runs(mask[top:bottom, left:right])}
                for mask, score in zip(found, scores, strict=True)
            ],
        }

    return AccessMiddleware(app, hosts=hosts)


def _runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of a mask, row by row, the first outside."""
    edges = np.flatnonzero(np.diff(mask.ravel(), prepend=False)).tolist()
    return [end - start for start, end in zip([0, *edges], [*edges, mask.size])]
