"""What a browser may send: checked word by word before it becomes an event."""

import uuid
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image, ImageDraw
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from visionsam_hf.data.masks import encode_rle
from visionsam_hf.preferences.rankings import dense, is_ranking
from visionsam_hf.preferences.rubric import CRITERIA

PANES = 3
Coordinate = Annotated[float, Field(ge=-1e5, le=1e5)]
# x, y in pixels of the original image
Point = tuple[Coordinate, Coordinate]


class Region(BaseModel):
    """A lasso round a mistake of one mask."""

    model_config = ConfigDict(extra="forbid")
    pane: int = Field(ge=0, lt=PANES)
    label: Literal["missed", "extra", "ragged", "speckle"]
    points: list[Point] = Field(min_length=3, max_length=500)


def _is_uuid(value: str) -> str:
    if str(uuid.UUID(value)) != value:
        raise ValueError("not a UUID in its usual form")
    return value


class Submission(BaseModel):
    """One answer, or taking one back. Everything by pane, as the annotator saw it."""

    model_config = ConfigDict(extra="forbid")
    uuid: Annotated[str, AfterValidator(_is_uuid)]
    assignment: str = Field(min_length=8, max_length=64)
    kind: Literal["submit", "undo", "skip", "flag"]
    ranking: list[int] | None = None
    unusable: bool = False
    criterion: Literal["coverage", "boundary", "over_under", "noise"] | None = None
    reason: Literal["bad_box", "bad_image", "no_anomaly"] | None = None
    seconds: float | None = Field(default=None, ge=0, le=86400)
    regions: list[Region] = Field(default=[], max_length=20)
    # Per pane four numbers from 1 to 5, in the order of the criteria.
    ratings: list[list[int]] | None = None

    @field_validator("ranking")
    @classmethod
    def _dense(cls, ranking: list[int] | None) -> list[int] | None:
        if ranking is not None and not is_ranking(ranking, PANES):
            raise ValueError(f"not the dense ranks of {PANES} masks")
        return ranking

    @field_validator("ratings")
    @classmethod
    def _one_to_five(cls, ratings: list[list[int]] | None) -> list[list[int]] | None:
        if ratings is not None and (
            [len(row) for row in ratings] != [len(CRITERIA)] * PANES
            or not all(1 <= v <= 5 for row in ratings for v in row)
        ):
            raise ValueError(f"not {PANES} times {len(CRITERIA)} numbers from 1 to 5")
        return ratings

    @model_validator(mode="after")
    def _complete(self) -> "Submission":
        if (self.kind == "submit") != (self.ranking is not None):
            raise ValueError("a ranking belongs to 'submit' and to nothing else")
        if (self.kind == "flag") != (self.reason is not None):
            raise ValueError("a reason belongs to 'flag' and to nothing else")
        if self.unusable and set(self.ranking or []) != {1}:
            raise ValueError("'unusable' is a tie of all masks")
        return self


def by_candidate(
    submission: Submission, order: list[int], twins: list[int], size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The payload of a submission's event, by candidate instead of by pane.

    Args:
        order: which candidate stood in which pane.
        twins: for each candidate the first that it is nearly identical to: they share the better of their ranks.
        size: height and width of the image, for its lassoed regions.
    """
    payload: dict[str, Any] = {"seconds": submission.seconds}
    if submission.kind == "undo":
        return {}
    if submission.kind == "flag":
        return payload | {"reason": submission.reason}
    if submission.kind == "skip":
        return payload
    if submission.ranking is None:
        raise ValueError("a submission without a ranking")
    ranks = [submission.ranking[order.index(place)] for place in range(PANES)]
    shared = [min(ranks[other] for other in range(PANES) if twins[other] == twins[place]) for place in range(PANES)]
    payload["ranking"] = dense(shared)
    payload["unusable"] = submission.unusable
    payload["criterion"] = submission.criterion
    payload["regions"] = [
        {"candidate": order[region.pane], "label": region.label, "rle": encode_rle(_inside(region.points, size))}
        for region in submission.regions
    ]
    if submission.ratings is not None:
        payload["ratings"] = [submission.ratings[order.index(place)] for place in range(PANES)]
    return payload


def _inside(points: list[tuple[float, float]], size: tuple[int, int] | None) -> np.ndarray:
    if size is None:
        raise ValueError("regions need the image's size")
    canvas = Image.new("1", (size[1], size[0]))
    ImageDraw.Draw(canvas).polygon(points, fill=1, outline=1)
    return np.asarray(canvas)
