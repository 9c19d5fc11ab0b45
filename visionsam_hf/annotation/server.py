"""The annotation page's server: a few JSON endpoints, three pictures a task, and the static page."""

import dataclasses
from importlib import resources
from typing import Annotated, Any

from fastapi import Cookie, Depends, FastAPI, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

from visionsam_hf.annotation.access import Door, find_user
from visionsam_hf.annotation.images import Pictures, feedback_numbers, masks_png, photo_png, truth_png
from visionsam_hf.annotation.store import Refused, Store, Work
from visionsam_hf.annotation.submission import Submission
from visionsam_hf.preferences.rubric import CRITERIA

COOKIE = "visionsam_annotator"
# The task on the screen, and three behind it.
PREFETCH = 4
# Everything the server hands out besides the data; no path of a request ever meets the file system.
_STATIC = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **{
        f"{name}.js": "text/javascript; charset=utf-8"
        for name in ("main", "outbox", "network", "panes", "outline", "screens", "chooser")
    },
}


class Token(BaseModel):
    """What logging in takes."""

    model_config = ConfigDict(extra="forbid")
    token: str = Field(min_length=1, max_length=200)


class Batch(BaseModel):
    """Submissions, in the order they were made; answered with what is to do next."""

    model_config = ConfigDict(extra="forbid")
    events: list[dict[str, Any]] = Field(min_length=1, max_length=100)


class Nothing(BaseModel):
    """An empty body."""

    model_config = ConfigDict(extra="forbid")


@dataclasses.dataclass(frozen=True)
class Page:
    """How the page is set up: `rubric` "quick" asks for ratings in calibration and audits never, "full" for both."""

    rubric: str = "quick"


def make_app(store: Store, pictures: Pictures, secret: bytes, hosts: list[str], page: Page = Page()) -> Any:
    """The ASGI application.

    Args:
        store: the filled annotation store.
        pictures: of the candidate sets that the store's tasks come from.
        secret: `users.read_secret()`.
        hosts: values of the Host header that are answered, such as "127.0.0.1:8712".
        page: settings of the page.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, title="visionsam annotate")
    static = resources.files("visionsam_hf.annotation") / "static"
    files = {name: (static / name).read_bytes() for name in _STATIC}

    def annotator(visionsam_annotator: Annotated[str | None, Cookie()] = None) -> int:
        found = find_user(store.engine, secret, visionsam_annotator) if visionsam_annotator else None
        if found is None:
            raise HTTPException(401, "log in with your token")
        return found

    Annotator = Annotated[int, Depends(annotator)]

    def work_of(annotator_id: int, public: str) -> Work:
        work = store.work(annotator_id, public)
        if work is None:
            raise HTTPException(404, "no such task in your hands")
        return work

    def next_tasks(me: int) -> dict[str, Any]:
        tasks = [_task(work, pictures, page) for work in store.claim(me, PREFETCH)]
        return {"tasks": tasks, "progress": store.progress(me)}

    @app.get("/")
    def index() -> Response:
        return _static("index.html", files)

    @app.get("/static/{name}")
    def static_file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such file")
        return _static(name, files)

    @app.post("/api/session")
    def log_in(body: Token, response: Response) -> dict[str, Any]:
        if find_user(store.engine, secret, body.token) is None:
            raise HTTPException(401, "this token is not known, or was revoked")
        response.set_cookie(COOKIE, body.token, httponly=True, samesite="strict", max_age=30 * 86400, path="/")
        return {"ok": True}

    @app.post("/api/logout")
    def log_out(_: Nothing, response: Response) -> dict[str, Any]:
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return {"ok": True}

    @app.get("/api/progress")
    def progress(me: Annotator) -> dict[str, Any]:
        return store.progress(me)

    @app.post("/api/claim")
    def claim(_: Nothing, me: Annotator) -> dict[str, Any]:
        return next_tasks(me)

    @app.post("/api/heartbeat")
    def heartbeat(_: Nothing, me: Annotator) -> dict[str, Any]:
        store.heartbeat(me)
        return {"ok": True}

    @app.post("/api/events")
    def events(body: Batch, me: Annotator) -> dict[str, Any]:
        results = [_take(store, pictures, me, raw) for raw in body.events]
        return {"results": results} | next_tasks(me)

    @app.post("/api/calibration")
    def calibrate_again(_: Nothing, me: Annotator) -> dict[str, Any]:
        try:
            store.retry_calibration(me)
        except Refused as refusal:
            raise HTTPException(409, str(refusal)) from None
        return {"ok": True}

    @app.get("/api/task/{public}")
    def one_task(public: str, me: Annotator) -> dict[str, Any]:
        return _task(work_of(me, public), pictures, page)

    @app.get("/api/task/{public}/photo.png")
    def photo(public: str, me: Annotator) -> Response:
        return _png(photo_png(_scene(work_of(me, public), pictures)))

    @app.get("/api/task/{public}/masks.png")
    def masks(public: str, me: Annotator) -> Response:
        work = work_of(me, public)
        return _png(masks_png(_scene(work, pictures), work.order))

    @app.get("/api/task/{public}/truth.png")
    def truth(public: str, me: Annotator) -> Response:
        return _png(truth_png(_scene(_answered_calibration(store, work_of(me, public)), pictures)))

    @app.get("/api/task/{public}/feedback")
    def feedback(public: str, me: Annotator) -> dict[str, Any]:
        work = _answered_calibration(store, work_of(me, public))
        answer = store.answer(work.public)
        truth_ranking = store.truth_ranking(work.task_id)
        if answer is None or truth_ranking is None:
            raise HTTPException(404, "nothing to compare with")
        return {
            "truth": [truth_ranking[place] for place in work.order],
            "yours": None if answer["ranking"] is None else [answer["ranking"][place] for place in work.order],
            "numbers": feedback_numbers(_scene(work, pictures), work.order),
        }

    return Door(app, hosts=hosts)


def _static(name: str, files: dict[str, bytes]) -> Response:
    return Response(files[name], media_type=_STATIC[name], headers={"cache-control": "no-cache"})


def _png(content: bytes) -> Response:
    # An assignment's pictures never change, and its name is known to one person.
    return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600, immutable"})


def _scene(work: Work, pictures: Pictures) -> Any:
    return pictures.scene(work.kind, work.split, work.row)


def _answered_calibration(store: Store, work: Work) -> Work:
    if work.kind != "calibration" or store.answer(work.public) is None:
        raise HTTPException(404, "no such task in your hands")
    return work


def _task(work: Work, pictures: Pictures, page: Page) -> dict[str, Any]:
    """What the page may know of a task: nothing of slots, scores, gold or repeats."""
    scene = _scene(work, pictures)
    left, top = scene.window[:2]
    is_calibration = work.kind == "calibration"
    return {
        "id": work.public,
        "category": scene.category,
        "box": [scene.box[0] - left, scene.box[1] - top, scene.box[2] - left, scene.box[3] - top],
        "offset": [left, top],
        "size": [scene.window[2] - left, scene.window[3] - top],
        "twins": work.twins,
        "calibration": is_calibration,
        "ratings": list(CRITERIA) if page.rubric == "full" and (is_calibration or work.is_audited) else [],
    }


def _take(store: Store, pictures: Pictures, annotator_id: int, raw: dict[str, Any]) -> dict[str, Any]:
    """One submission of a batch: a bad one must not keep the others from being saved."""
    uuid = str(raw.get("uuid"))[:64]
    try:
        submission = Submission.model_validate(raw)
        work = store.work(annotator_id, submission.assignment) if submission.regions else None
        size = _scene(work, pictures).size if work is not None else None
        return {"ok": True} | store.submit(annotator_id, submission, size)
    except Refused as refusal:
        return {"ok": False, "uuid": uuid, "reason": str(refusal)}
    except ValueError as error:
        # pydantic's message quotes what was sent; the first line of its own words is enough.
        errors = getattr(error, "errors", None)
        reason = errors(include_url=False, include_input=False)[0]["msg"] if errors else "not a submission"
        return {"ok": False, "uuid": uuid, "reason": reason}
