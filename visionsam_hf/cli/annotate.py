"""`visionsam annotate VERB`: settings and work of every verb."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from visionsam_hf.cli.annotate_copies import CopySettings, require_extra, run_backup, run_dump, run_restore
from visionsam_hf.cli.run import stage_run
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.settings import setting


@dataclasses.dataclass
class OracleSettings:
    """Simulated annotators rank every candidate set by the truth."""

    candidates: str = setting("", "candidate set: a directory or a Hub id", required=True, input=True)
    output_dir: str = setting("", "where the preference data set goes", required=True)
    splits: list[str] = setting([], "splits to annotate; empty means all that the candidate set has")
    annotators: int = setting(3, "number of simulated annotators")
    noise: float = setting(0.05, "standard deviation of the noise on each criterion (criteria lie between 0 and 1)")
    flip_rate: float = setting(0.0, "chance that an annotator reverses a task's ranking")
    seed: int = setting(0, "seed of noise and flips")
    store: str = setting("", "annotation store that takes the rankings too, marked as oracle; empty means none")

    def __post_init__(self) -> None:
        if self.annotators < 1:
            raise UserError(f"key 'annotators' is {self.annotators}; give at least 1")
        if self.noise < 0:
            raise UserError(f"key 'noise' is {self.noise}; give 0 or more")
        if not 0 <= self.flip_rate <= 1:
            raise UserError(f"key 'flip_rate' is {self.flip_rate}; give a chance between 0 and 1")


def run_oracle(settings: OracleSettings) -> None:
    """A candidate set in, a preference data set with the same splits out; `stage.json` says how they agreed.

    Raises:
        UserError: no split, a row without a truth, no row that leaves a pair.
    """
    from visionsam_hf.data.dataset_directory import write_card, write_preferences
    from visionsam_hf.data.schema import preference_features
    from visionsam_hf.data.settings import as_plain
    from visionsam_hf.preferences.preference_card import oracle_card
    from visionsam_hf.preferences.ranking_statistics import Tally

    with stage_run("annotate", settings) as run:
        datasets = _load_candidates(settings.candidates, settings.splits)
        tallies = {split: Tally() for split in datasets}
        categories = next(iter(datasets.values())).features["category"].names
        plain = as_plain(settings)
        written = write_preferences(
            run.directory,
            {split: _oracle_rows(dataset, split, settings, tallies[split]) for split, dataset in datasets.items()},
            categories,
            card=oracle_card(settings.candidates, plain, {}),
        )
        if not any(written.values()):
            raise UserError(
                f"{settings.candidates}: every task ties from top to bottom, so there is no pair; "
                "generate candidates that differ more"
            )
        summaries = {split: tally.summary() for split, tally in tallies.items()}
        card = oracle_card(settings.candidates, plain, summaries)
        write_card(run.directory, card, preference_features(categories), written)
        run.results["splits"] = summaries
        if settings.store:
            _oracle_into_store(settings, datasets)
        run.results.update(Tally.pooled(tallies.values()).summary())


def _oracle_rows(dataset: Any, split: str, settings: OracleSettings, tally: Any) -> Iterator[dict[str, Any]]:
    from visionsam_hf.preferences.oracle import oracle_row
    from visionsam_hf.preferences.preference_rows import truth_of

    for number, row in enumerate(dataset):
        truth = truth_of(row)
        if truth is None:
            raise UserError(
                f"{settings.candidates}: row {number} of split '{split}' ({row['image_id']}) has no truth for the oracle "
                "to judge by; let people rank it (visionsam annotate serve)"
            )
        preference = oracle_row(
            row,
            truth,
            task=f"{split}/{number}",
            annotators=settings.annotators,
            noise=settings.noise,
            flip_rate=settings.flip_rate,
            seed=settings.seed,
            tally=tally,
        )
        if preference is not None:
            yield preference


def _oracle_into_store(settings: OracleSettings, datasets: dict[str, Any]) -> None:
    require_extra()
    from visionsam_hf.annotation.database import open_engine
    from visionsam_hf.annotation.store import Store
    from visionsam_hf.annotation.tasks import import_tasks, rank_in_store
    from visionsam_hf.data.records import fingerprint

    engine = open_engine(settings.store, create=True)
    import_tasks(engine, settings.candidates, datasets, fingerprint(settings.candidates), overlap=settings.annotators)
    rank_in_store(
        Store(engine),
        datasets,
        annotators=settings.annotators,
        noise=settings.noise,
        flip_rate=settings.flip_rate,
        seed=settings.seed,
    )


def _load_candidates(name_or_path: str, splits: list[str]) -> dict[str, Any]:
    """The candidate set's splits, with images left as bytes: they pass through, and are decoded where looked at."""
    from datasets import Image

    from visionsam_hf.data.dataset_directory import load_split, split_names
    from visionsam_hf.data.records import looks_local

    if not splits and looks_local(name_or_path):
        splits = split_names(name_or_path)
        if not splits:
            raise UserError(f"{name_or_path}: holds no data set; give the directory that 'visionsam candidates' wrote")
    elif not splits:
        from datasets import get_dataset_split_names

        splits = get_dataset_split_names(name_or_path)
    found = {}
    for split in splits:
        dataset = load_split(name_or_path, split, kind="candidates")
        found[split] = dataset.cast_column("image", Image(decode=False)).cast_column("truth", Image(decode=False))
    return found


@dataclasses.dataclass
class ServeSettings:
    """The annotation page."""

    candidates: str = setting("", "candidate set: a directory or a Hub id", required=True, input=True)
    store: str = setting("annotations.sqlite", "the store: a SQLite file, made when missing, or a PostgreSQL URL")
    host: str = setting("127.0.0.1", "address to bind; any but this machine's own needs annotators with tokens")
    port: int = setting(8712, "port to bind")
    hostnames: list[str] = setting([], "further names by which browsers reach the server")
    overlap: int = setting(3, "how many annotators rank each task")
    rubric: str = setting(
        "quick", "quick: rankings; full: also marks from 1 to 5 in practice and on one task in twenty"
    )
    calibration: str = setting(
        "", "candidate set with truth for practice and hidden gold; empty means none", input=True
    )
    gate: float = setting(0.5, "mean tau-b with the truth that practice must reach")

    def __post_init__(self) -> None:
        if self.overlap < 1:
            raise UserError(f"key 'overlap' is {self.overlap}; give at least 1")
        if self.rubric not in ("quick", "full"):
            raise UserError(f"key 'rubric' is '{self.rubric}'; give quick or full")
        if not -1 <= self.gate <= 1:
            raise UserError(f"key 'gate' is {self.gate}; give a number from -1 to 1")
        if not 0 <= self.port <= 65535:
            raise UserError(f"key 'port' is {self.port}; give a number from 0 to 65535")


def run_serve(settings: ServeSettings) -> None:
    """Serve the page until interrupted; everything acknowledged is in the store."""
    require_extra()
    import uvicorn

    from visionsam_hf.annotation.access import admit, allowed_hosts, bind, read_secret
    from visionsam_hf.annotation.database import open_engine
    from visionsam_hf.annotation.server import make_app
    from visionsam_hf.annotation.store import Store
    from visionsam_hf.annotation.task_images import TaskImages
    from visionsam_hf.annotation.tasks import import_tasks
    from visionsam_hf.data.records import fingerprint

    datasets = _load_candidates(settings.candidates, [])
    calibration = _load_candidates(settings.calibration, []) if settings.calibration else None
    secret = read_secret()
    engine = open_engine(settings.store, create=True)
    token = admit(engine, secret, settings.host, settings.store)
    import_tasks(
        engine,
        settings.candidates,
        datasets,
        fingerprint(settings.candidates),
        overlap=settings.overlap,
        calibration=(settings.calibration, calibration) if calibration else None,
    )
    listener = bind(settings.host, settings.port)
    port = listener.getsockname()[1]
    app = make_app(
        Store(engine, gate=settings.gate),
        TaskImages(datasets, calibration),
        secret,
        allowed_hosts(settings.host, port, settings.hostnames),
        rubric=settings.rubric,
    )
    shown = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
    print(f"The annotation page is at {address}{f'#token={token}' if token else ''}", flush=True)
    print(f"Answers go to {_without_password(settings.store)}. Stop with Ctrl+C.", flush=True)
    config = uvicorn.Config(app, log_level="warning", proxy_headers=False, server_header=False, access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


@dataclasses.dataclass
class StatsSettings:
    """Agreement and speed, as a page and as JSON."""

    store: str = setting("", "the annotation store: a SQLite file or a URL", required=True)
    output_dir: str = setting("", "where agreement.html and agreement.json go", required=True)
    candidates: str = setting("", "the candidate set, to compare with its truth; empty: as the store remembers it")
    seed: int = setting(0, "seed of the bootstrap")


def run_stats(settings: StatsSettings) -> None:
    """Write agreement.html and agreement.json and print their figures."""
    import json
    from pathlib import Path

    figures, page = _statistics(settings)
    directory = Path(settings.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "agreement.json", json.dumps(figures, indent=2) + "\n")
    _write(directory / "agreement.html", page)
    for kind, of in figures.items():
        if of["rankings"]:
            print(f"{kind}: {of['rankings']} rankings of {of['tasks']} tasks, alpha {of['alpha']}, tau {of['tau']}")
    print(directory / "agreement.html")


@dataclasses.dataclass
class ExportSettings:
    """The store's rankings as a preference data set."""

    store: str = setting("", "the annotation store: a SQLite file or a URL", required=True)
    output_dir: str = setting("", "where the preference data set goes", required=True)
    candidates: str = setting("", "the candidate set; empty: as the store remembers it")
    kind: str = setting("human", "whose rankings decide: human or oracle; the others are listed in each row")
    min_votes: int = setting(1, "tasks with fewer rankings are left out")
    seed: int = setting(0, "seed of the bootstrap in the card")

    def __post_init__(self) -> None:
        if self.kind not in ("human", "oracle"):
            raise UserError(f"key 'kind' is '{self.kind}'; give human or oracle")
        if self.min_votes < 1:
            raise UserError(f"key 'min_votes' is {self.min_votes}; give at least 1")


def run_export(settings: ExportSettings) -> None:
    """Write the preference data set with its card, the agreement page, and the lassoed mistakes."""
    require_extra()
    from visionsam_hf.annotation.answers import load_answers
    from visionsam_hf.data.dataset_directory import write_preferences
    from visionsam_hf.preferences.preference_card import human_card
    from visionsam_hf.preferences.preference_rows import Exporter

    engine, known, datasets = _open_store(settings)
    figures, page = _statistics(settings)
    with stage_run("annotate", settings) as run:
        exporter = Exporter(load_answers(engine), settings.kind, settings.min_votes)
        categories = next(iter(datasets.values())).features["category"].names
        written = write_preferences(
            run.directory,
            {split: exporter.rows(split, dataset) for split, dataset in datasets.items()},
            categories,
            card=human_card(known.candidates, figures, settings.kind),
        )
        if not any(written.values()):
            raise UserError(
                f"{_without_password(settings.store)}: holds no pair ranked by '{settings.kind}' annotators with at least "
                f"{settings.min_votes} votes; rank first, or lower min_votes"
            )
        _write(run.directory / "agreement.html", page)
        exporter.write_regions(run.directory / "regions.jsonl")
        run.results.update(exporter.results() | {"statistics": figures[settings.kind]})


@dataclasses.dataclass
class UsersSettings:
    """Annotators and their tokens."""

    action: str = setting("list", "add, list or revoke", required=True)
    name: str = setting("", "the annotator's name; it stays in the store, exports use pseudonyms")
    store: str = setting("annotations.sqlite", "the annotation store: a SQLite file, made when missing, or a URL")

    def __post_init__(self) -> None:
        if self.action not in ("add", "list", "revoke"):
            raise UserError(f"action '{self.action}': give add, list or revoke")
        if self.action != "list" and not self.name:
            raise UserError(f"users {self.action}: give a name")


def run_users(settings: UsersSettings) -> None:
    """Add an annotator and print the token, once; list them; or shut one out."""
    require_extra()
    import time

    from visionsam_hf.annotation.access import add_user, list_users, read_secret, revoke_user
    from visionsam_hf.annotation.database import open_engine

    engine = open_engine(settings.store, create=settings.action == "add")
    if settings.action == "add":
        print(add_user(engine, read_secret(), settings.name))
    elif settings.action == "revoke":
        revoke_user(engine, settings.name)
    else:
        for user in list_users(engine):
            since = time.strftime("%Y-%m-%d", time.localtime(user["created"]))
            print(f"{user['name']}\t{user['kind']}\t{since}\t{'revoked' if user['revoked'] else 'active'}")


def _statistics(settings: StatsSettings | ExportSettings) -> tuple[dict[str, Any], str]:
    """The figures of a store, and the page about them."""
    require_extra()
    import datetime

    from visionsam_hf.annotation.agreement_page import render
    from visionsam_hf.annotation.answers import count_undone, load_answers
    from visionsam_hf.annotation.tasks import load_tasks, truth_rankings
    from visionsam_hf.preferences.ranking_statistics import describe

    engine, known, datasets = _open_store(settings)
    answers, tasks = load_answers(engine), load_tasks(engine)
    ranked = {answer.task_id for answer in answers if answer.task_kind == "ranked"}
    truths = truth_rankings(datasets, [tasks[task_id] for task_id in sorted(ranked)])
    figures = describe(answers, tasks, seed=settings.seed, undone=count_undone(engine), truth_rankings=truths)
    now = datetime.datetime.now(datetime.timezone.utc)
    return figures, render(figures, candidates=known.candidates, overlap=known.overlap, when=now)


def _open_store(settings: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The store's engine, its project and the candidate set that it is about."""
    from visionsam_hf.annotation.database import open_engine
    from visionsam_hf.annotation.tasks import load_project
    from visionsam_hf.data.records import fingerprint

    engine = open_engine(settings.store)
    known = load_project(engine)
    if known is None:
        raise UserError(f"{_without_password(settings.store)}: holds no tasks yet; start 'visionsam annotate serve'")
    name = settings.candidates or known.candidates
    if fingerprint(name) != known.fingerprint:
        raise UserError(
            f"{name}: is not the candidate set that was ranked ({known.candidates}); give that one as candidates"
        )
    return engine, known, _load_candidates(name, [])


def _write(path: Any, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _without_password(store: str) -> str:
    import re

    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", store)


VERBS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "serve": (ServeSettings, run_serve),
    "oracle": (OracleSettings, run_oracle),
    "stats": (StatsSettings, run_stats),
    "export": (ExportSettings, run_export),
    "users": (UsersSettings, run_users),
    "backup": (CopySettings, run_backup),
    "dump": (CopySettings, run_dump),
    "restore": (CopySettings, run_restore),
}
