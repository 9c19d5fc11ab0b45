"""The annotation page's server: a few JSON endpoints, three pictures a task, and the static page."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Cookie, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from visionsam_hf.annotation.access import AccessMiddleware, find_user
from visionsam_hf.annotation.answers import Coordinate, Point, Submission
from visionsam_hf.annotation.store import Assignment, Refused, Store
from visionsam_hf.annotation.task_images import (
    TaskImage,
    TaskImages,
    feedback_numbers,
    mask_png,
    masks_png,
    photo_png,
    truth_png,
)
from visionsam_hf.preferences.rubric import CRITERIA

COOKIE = "visionsam_annotator"
PREFETCH = 4  # the task on the screen, and three behind it
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


# Kind, split and row of a task, a box, clicks and whether each is positive, in pixels of the image: its (H, W) bool mask.
AnswerClicks = Callable[[str, str, int, Sequence[float], Sequence[tuple[float, float]], Sequence[bool]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Service:
    """What the endpoints work on; the settings as in `make_app`."""

    store: Store
    images: TaskImages
    secret: bytes
    rubric: str
    answer_clicks: AnswerClicks | None
    # Everything that is handed out besides the data; no path of a request ever meets the file system.
    static_files: dict[str, bytes]

    def image(self, held: Assignment) -> TaskImage:
        """What there is to see of a task."""
        return self.images.load(held.kind, held.split, held.row)

    def shown(self, held: Assignment) -> dict[str, Any]:
        """What the page may know of a task: nothing of slots, scores, gold or repeats."""
        image = self.image(held)
        left, top, right, bottom = image.window
        is_calibration = held.kind == "calibration"
        return {
            "id": held.public,
            "category": image.category,
            "box": [image.box[0] - left, image.box[1] - top, image.box[2] - left, image.box[3] - top],
            "offset": [left, top],
            "size": [right - left, bottom - top],
            "twins": held.twins,
            "calibration": is_calibration,
            "mendable": self.answer_clicks is not None,
            "ratings": list(CRITERIA) if self.rubric == "full" and (is_calibration or held.is_audited) else [],
        }

    def next_tasks(self, annotator: int) -> dict[str, Any]:
        """What is to do next, and how far everyone is."""
        held = self.store.claim(annotator, PREFETCH)
        return {"tasks": [self.shown(one) for one in held], "progress": self.store.progress(annotator)}

    def take(self, annotator: int, raw: dict[str, Any]) -> dict[str, Any]:
        """One submission of a batch: a bad one must not keep the others from being saved."""
        try:
            submission = Submission.model_validate(raw)
            is_drawn = submission.regions or submission.correction is not None
            held = self.store.assignment(annotator, submission.assignment) if is_drawn else None
            if held is None:
                return {"ok": True} | self.store.submit(annotator, submission)
            image = self.image(held)
            return {"ok": True} | self.store.submit(annotator, submission, image.size, image.window)
        except Refused as refusal:
            reason = str(refusal)
        except ValueError as error:
            # pydantic's message quotes what was sent; the first line of its own words is enough.
            errors = getattr(error, "errors", None)
            reason = errors(include_url=False, include_input=False)[0]["msg"] if errors else "not a submission"
        return {"ok": False, "uuid": str(raw.get("uuid"))[:64], "reason": reason}


class Nothing(BaseModel, extra="forbid"):
    """An empty body."""


class Token(Nothing):
    """What logging in takes."""

    token: str = Field(min_length=1, max_length=200)


class Batch(Nothing):
    """Submissions, in the order they were made; answered with what is to do next."""

    events: list[dict[str, Any]] = Field(min_length=1, max_length=100)


class Click(Nothing):
    """A click, in pixels of the image, on the defect or beside it."""

    at: Point
    positive: bool


class Clicks(Nothing):
    """What the served model is asked: a box and clicks, in pixels of the image."""

    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    clicks: list[Click] = Field(max_length=50)


def read_static() -> dict[str, bytes]:
    """Pages, scripts and styles by name."""
    static = Path(__file__).parent / "static"
    return {file.name: file.read_bytes() for file in static.iterdir() if file.suffix in _MEDIA_TYPES}


def static_response(name: str, files: Mapping[str, bytes]) -> Response:
    """One of them, or 404."""
    if name not in files:
        raise HTTPException(404, "no such file")
    return Response(files[name], media_type=_MEDIA_TYPES[Path(name).suffix], headers={"cache-control": "no-cache"})


async def _service(request: Request) -> Service:
    return request.app.state.service


Served = Annotated[Service, Depends(_service)]


def _annotator(served: Served, visionsam_annotator: Annotated[str | None, Cookie()] = None) -> int:
    found = find_user(served.store.engine, served.secret, visionsam_annotator) if visionsam_annotator else None
    if found is None:
        raise HTTPException(401, "log in with your token")
    return found


CurrentAnnotator = Annotated[int, Depends(_annotator)]


def _held(public: str, served: Served, annotator: CurrentAnnotator) -> Assignment:
    held = served.store.assignment(annotator, public)
    if held is None:
        raise HTTPException(404, "no such task in your hands")
    return held


Held = Annotated[Assignment, Depends(_held)]


def _practised(held: Held, served: Served) -> tuple[Assignment, dict[str, Any]]:
    answer = served.store.answer(held.public)
    if held.kind != "calibration" or answer is None:
        raise HTTPException(404, "no such task in your hands")
    return held, answer


# A calibration task and its answer: only then may the truth be seen.
Practised = Annotated[tuple[Assignment, dict[str, Any]], Depends(_practised)]
router = APIRouter()


@router.get("/")
def index(served: Served) -> Response:
    """The page."""
    return static_file("index.html", served)


@router.get("/static/{name}")
def static_file(name: str, served: Served) -> Response:
    """Scripts, styles and the icon."""
    return static_response(name, served.static_files)


@router.post("/api/session")
def log_in(body: Token, served: Served, response: Response) -> dict[str, Any]:
    """A token for a cookie."""
    if find_user(served.store.engine, served.secret, body.token) is None:
        raise HTTPException(401, "this token is not known, or was revoked")
    response.set_cookie(COOKIE, body.token, httponly=True, samesite="strict", max_age=30 * 86400, path="/")
    return {"ok": True}


@router.post("/api/logout")
def log_out(_: Nothing, response: Response) -> dict[str, Any]:
    """Take the cookie back."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return {"ok": True}


@router.get("/api/progress")
def progress(served: Served, annotator: CurrentAnnotator) -> dict[str, Any]:
    """How far this annotator and everyone are."""
    return served.store.progress(annotator)


@router.post("/api/claim")
def claim(_: Nothing, served: Served, annotator: CurrentAnnotator) -> dict[str, Any]:
    """The next tasks."""
    return served.next_tasks(annotator)


@router.post("/api/heartbeat")
def heartbeat(_: Nothing, served: Served, annotator: CurrentAnnotator) -> dict[str, Any]:
    """Still here: what is in this annotator's hands stays there."""
    served.store.heartbeat(annotator)
    return {"ok": True}


@router.post("/api/events")
def events(body: Batch, served: Served, annotator: CurrentAnnotator) -> dict[str, Any]:
    """Answers in, the next tasks out."""
    return {"results": [served.take(annotator, raw) for raw in body.events]} | served.next_tasks(annotator)


@router.post("/api/calibration")
def calibrate_again(_: Nothing, served: Served, annotator: CurrentAnnotator) -> dict[str, Any]:
    """Another attempt at the practice tasks."""
    try:
        served.store.retry_calibration(annotator)
    except Refused as refusal:
        raise HTTPException(409, str(refusal)) from None
    return {"ok": True}


@router.get("/api/task/{public}")
def one_task(held: Held, served: Served) -> dict[str, Any]:
    """A task again, for undo behind a reload."""
    return served.shown(held)


@router.get("/api/task/{public}/photo.png")
def photo(held: Held, served: Served) -> Response:
    """Its photograph."""
    return _png(photo_png(served.image(held)))


@router.get("/api/task/{public}/masks.png")
def masks(held: Held, served: Served) -> Response:
    """Its masks, a channel each."""
    return _png(masks_png(served.image(held), held.order))


@router.post("/api/task/{public}/mask.png")
def answer_clicks(body: Clicks, held: Held, served: Served) -> Response:
    """The served model's answer to a box and clicks, as a grey picture of what is shown."""
    image = served.image(held)
    (height, width), (x1, y1, x2, y2) = image.size, body.box
    inside = [0 <= x <= width and 0 <= y <= height for x, y in (body.box[:2], body.box[2:], *(one.at for one in body.clicks))]
    if served.answer_clicks is None:
        raise HTTPException(404, "no model is served")
    if not (all(inside) and x1 < x2 and y1 < y2):
        raise HTTPException(422, "the box is empty, or something lies outside the photograph")
    points, positive = [one.at for one in body.clicks], [one.positive for one in body.clicks]
    mask = served.answer_clicks(held.kind, held.split, held.row, body.box, points, positive)
    return Response(mask_png(image, mask), media_type="image/png", headers={"cache-control": "no-store"})


@router.get("/api/task/{public}/truth.png")
def truth(practised: Practised, served: Served) -> Response:
    """The truth of an answered practice task."""
    return _png(truth_png(served.image(practised[0])))


@router.get("/api/task/{public}/feedback")
def feedback(practised: Practised, served: Served) -> dict[str, Any]:
    """An answered practice task: the ranking by the truth beside the annotator's, and the criteria of each mask."""
    held, answer = practised
    by_truth = served.store.truth_ranking(held.task_id)
    return {
        "truth": [by_truth[place] for place in held.order],
        "yours": None if answer["ranking"] is None else [answer["ranking"][place] for place in held.order],
        "numbers": feedback_numbers(served.image(held), held.order),
    }


def _png(content: bytes) -> Response:
    # An assignment's pictures never change, and its name is known to one person.
    return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600, immutable"})


async def _refuse_body(_: Request, error: Any) -> Response:
    # FastAPI's own answer repeats what was sent, which a NaN among it cannot be.
    return JSONResponse({"detail": error.errors()[0]["msg"]}, 422)


def make_app(
    store: Store,
    images: TaskImages,
    secret: bytes,
    hosts: list[str],
    *,
    rubric: str = "quick",
    answer_clicks: AnswerClicks | None = None,
) -> Any:
    """The ASGI application.

    Args:
        store: the filled annotation store.
        images: of the candidate sets that the store's tasks come from.
        secret: `access.read_secret()`.
        hosts: values of the Host header that are answered, such as "127.0.0.1:8712".
        rubric: "full" asks for marks of each mask in calibration and audits, "quick" never does.
        answer_clicks: lets the page mend masks; None, and it ranks only.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, title="visionsam annotate")
    app.state.service = Service(store, images, secret, rubric, answer_clicks, read_static())
    app.include_router(router)
    app.add_exception_handler(RequestValidationError, _refuse_body)
    return AccessMiddleware(app, hosts=hosts)
