"""What the annotation commands can be told; apart from the other settings, as their room is."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import Count, NotNegative, Share, setting
from visionsam_hf.embeddings.cache_settings import CacheSettings


@dataclass
class OracleSettings:
    """Simulated annotators rank every candidate set by the truth."""

    candidates: str = setting("", "candidate set: a directory or a Hub id", required=True, input=True)
    output_dir: str = setting("", "where the preference data set goes", required=True)
    splits: list[str] = setting([], "splits to annotate; empty means all that the candidate set has")
    annotators: Count = setting(3, "number of simulated annotators")
    noise: NotNegative = setting(0.05, "standard deviation of the noise on each criterion (which lies between 0 and 1)")
    flip_rate: Share = setting(0.0, "chance that an annotator reverses a task's ranking")
    circles: Annotated[int, Field(ge=0)] = setting(0, "mistakes of the best mask that an annotator circles at most")
    circle_error: Share = setting(0.0, "chance that a circle is drawn beside its mistake")
    mended: Annotated[int, Field(ge=0)] = setting(0, "the largest mistakes of the best mask that an annotator mends")
    order: Literal["id", "uncertain", "diverse"] = setting("id", "what is ranked first, as in annotate serve")
    minutes: NotNegative = setting(0.0, "stop when so many minutes of an annotator are spent on a split; 0: rank all")
    seconds_per_ranking: NotNegative = setting(3.0, "assumed time to rank three masks")
    seconds_per_circle: NotNegative = setting(5.0, "assumed time to circle a mistake and say what it is")
    seconds_per_correction: NotNegative = setting(12.0, "assumed time to mend a mask")
    seed: int = setting(0, "seed of noise, flips and circles")
    store: str = setting("", "annotation store that takes the rankings too, marked as oracle; empty means none")


@dataclass
class ServeSettings(CacheSettings):
    """The annotation page."""

    candidates: str = setting("", "candidate set: a directory or a Hub id", required=True, input=True)
    model: str = setting(
        "", "model that mends masks by clicks, e.g. the one that proposed them; empty: the page ranks only", input="model"
    )
    store: str = setting("annotations.sqlite", "the store: a SQLite file, made when missing, or a PostgreSQL URL")
    host: str = setting("127.0.0.1", "address to bind; any but this machine's own needs annotators with tokens")
    port: Annotated[int, Field(ge=0, le=65535)] = setting(8712, "port to bind")
    hostnames: list[str] = setting([], "further names by which browsers reach the server")
    overlap: Count = setting(3, "how many annotators rank each task")
    order: Literal["id", "uncertain", "diverse"] = setting(
        "id", "what is ranked first: id, uncertain (masks disagree, scores are close), diverse (looks unlike those before)"
    )
    rubric: Literal["quick", "full"] = setting(
        "quick", "quick: rankings; full: also marks from 1 to 5 in practice and on one task in twenty"
    )
    calibration: str = setting(
        "", "candidate set with truth for practice and hidden gold; empty means none", input=True
    )
    gate: Annotated[float, Field(ge=-1, le=1)] = setting(0.5, "mean tau-b with the truth that practice must reach")
    online: bool = setting(False, "train on the rankings in the background, and propose the next tasks from the newer model")
    online_every: Count = setting(60, "online: a new round after so many rankings")

    def __post_init__(self) -> None:
        if self.online and not self.model:
            raise UserError("online: needs the model to start from; add --model DIR")


@dataclass
class StatsSettings:
    """Agreement and speed, as a page and as JSON."""

    store: str = setting("", "the annotation store: a SQLite file or a URL", required=True)
    output_dir: str = setting("", "where agreement.html and agreement.json go", required=True)
    candidates: str = setting("", "the candidate set, to compare with its truth; empty: as the store remembers it")
    seed: int = setting(0, "seed of the bootstrap")


@dataclass
class ExportAnnotationsSettings:
    """The store's rankings as a preference data set."""

    store: str = setting("", "the annotation store: a SQLite file or a URL", required=True)
    output_dir: str = setting("", "where the preference data set goes", required=True)
    candidates: str = setting("", "the candidate set; empty: as the store remembers it")
    kind: Literal["human", "oracle"] = setting("human", "whose rankings decide; the others are listed in each row")
    min_votes: Count = setting(1, "tasks with fewer rankings are left out")
    seed: int = setting(0, "seed of the bootstrap in the card")


@dataclass
class UsersSettings:
    """Annotators and their tokens."""

    action: Literal["add", "list", "revoke"] = setting("list", "what to do", required=True)
    name: str = setting("", "the annotator's name; it stays in the store, exports use pseudonyms")
    store: str = setting("annotations.sqlite", "the annotation store: a SQLite file, made when missing, or a URL")

    def __post_init__(self) -> None:
        if self.action != "list" and not self.name:
            raise UserError(f"users {self.action}: give a name")


@dataclass
class BackupSettings:
    """Copy a SQLite store, also while it is in use."""

    store: str = setting("", "the annotation store: a SQLite file or a URL", required=True)
    file: str = setting("", "the file to write (restore: to read)", required=True)


@dataclass
class DumpSettings(BackupSettings):
    """Write a store as JSON lines."""


@dataclass
class RestoreSettings(BackupSettings):
    """Fill a new store from a dump."""
