"""`visionsam annotate VERB`: the page on which people rank candidates, its store, and what comes of it."""

import contextlib
import datetime
import json
import re
import time
from pathlib import Path
from typing import Any

import uvicorn

from visionsam_hf.annotation import archive
from visionsam_hf.annotation.access import (
    add_user,
    admit,
    allowed_hosts,
    bind,
    list_users,
    read_secret,
    revoke_user,
)
from visionsam_hf.annotation.agreement_page import render
from visionsam_hf.annotation.answers import count_undone, load_answers
from visionsam_hf.annotation.database import open_engine
from visionsam_hf.annotation.rounds import load_rounds, rows_of_rounds
from visionsam_hf.annotation.server import make_app
from visionsam_hf.annotation.store import Store
from visionsam_hf.annotation.task_images import TaskImages
from visionsam_hf.annotation.tasks import import_tasks, load_project, load_tasks, order_tasks, truth_rankings
from visionsam_hf.cli.annotation_options import (
    BackupSettings,
    ExportAnnotationsSettings,
    ServeSettings,
    StatsSettings,
    UsersSettings,
)
from visionsam_hf.cli.candidates import NoPairs, load_candidates, told_pairs
from visionsam_hf.cli.online import training_online
from visionsam_hf.cli.stage import stage_run
from visionsam_hf.data.dataset_directory import write_preferences
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.files import write_text
from visionsam_hf.data.records import fingerprint, same_fingerprint
from visionsam_hf.data.windows import choose_rule
from visionsam_hf.embeddings.cache import open_cache
from visionsam_hf.inference.interactive import ClickAnswerer
from visionsam_hf.models.loading import load_model, load_processor, to_best_device
from visionsam_hf.preferences.preference_card import human_card
from visionsam_hf.preferences.preference_rows import Exporter
from visionsam_hf.preferences.store_statistics import describe


def run_serve(settings: ServeSettings) -> None:
    """Serve the page until interrupted; everything acknowledged is in the store."""
    datasets = load_candidates(settings.candidates)
    calibration = load_candidates(settings.calibration) if settings.calibration else None
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
    rows = rows_of_rounds(engine, datasets, load_candidates)
    order_tasks(engine, rows, settings.order)
    listener = bind(settings.host, settings.port)
    port = listener.getsockname()[1]
    app = make_app(
        Store(engine, gate=settings.gate),
        TaskImages(rows, calibration),
        secret,
        allowed_hosts(settings.host, port, settings.hostnames),
        rubric=settings.rubric,
        answer_clicks=_click_answerer(settings, datasets, calibration) if settings.model else None,
    )
    shown = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
    print(f"The annotation page is at {address}{f'#token={token}' if token else ''}", flush=True)
    print(f"Answers go to {_without_password(settings.store)}. Stop with Ctrl+C.", flush=True)
    config = uvicorn.Config(app, log_level="warning", proxy_headers=False, server_header=False, access_log=False)
    with training_online(settings, engine, rows) if settings.online else contextlib.nullcontext():
        uvicorn.Server(config).run(sockets=[listener])


def _click_answerer(settings: ServeSettings, datasets: dict[str, Any], calibration: dict[str, Any] | None) -> Any:
    model, processor = to_best_device(load_model(settings.model)), load_processor(settings.model)
    practice = calibration or {}
    sets = {"ranked": datasets, "gold": practice, "calibration": practice}
    cache = open_cache(settings, model, processor)
    return ClickAnswerer(model, processor, choose_rule(settings, processor), sets, cache)


def run_stats(settings: StatsSettings) -> None:
    """Write agreement.html and agreement.json and print their figures."""
    figures, page = _statistics(settings)
    directory = Path(settings.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "agreement.json", json.dumps(figures, indent=2) + "\n")
    write_text(directory / "agreement.html", page)
    for kind, of in figures.items():
        if of["rankings"]:
            print(f"{kind}: {of['rankings']} rankings of {of['tasks']} tasks, alpha {of['alpha']}, tau {of['tau']}")
    print(directory / "agreement.html")


def run_export(settings: ExportAnnotationsSettings) -> None:
    """Write the preference data set with its card, the agreement page, and the lassoed mistakes."""
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
            if exporter.results()["tasks"]:
                raise NoPairs(f"{_without_password(settings.store)}: every ranking ties; rank masks that differ more")
            raise UserError(
                f"{_without_password(settings.store)}: holds no pair ranked by '{settings.kind}' annotators with at least "
                f"{settings.min_votes} votes; rank first, or lower min_votes"
            )
        write_text(run.directory / "agreement.html", page)
        exporter.write_regions(run.directory / "regions.jsonl")
        run.results.update(exporter.results() | {"statistics": figures[settings.kind]})
        run.achieved = told_pairs(run.results)


def run_users(settings: UsersSettings) -> None:
    """Add an annotator and print the token, once; list them; or shut one out."""
    engine = open_engine(settings.store, create=settings.action == "add")
    if settings.action == "add":
        print(add_user(engine, read_secret(), settings.name))
    elif settings.action == "revoke":
        revoke_user(engine, settings.name)
    else:
        for user in list_users(engine):
            since = time.strftime("%Y-%m-%d", time.localtime(user["created"]))
            print(f"{user['name']}\t{user['kind']}\t{since}\t{'revoked' if user['revoked'] else 'active'}")


def run_backup(settings: BackupSettings) -> None:
    """Copy a SQLite store, also while it is in use."""
    archive.backup(open_engine(settings.store), Path(settings.file))
    print(settings.file)


def run_dump(settings: BackupSettings) -> None:
    """Write a store as JSON lines."""
    print(f"{archive.dump(open_engine(settings.store), Path(settings.file))} rows")


def run_restore(settings: BackupSettings) -> None:
    """Fill a new store from a dump."""
    if not Path(settings.file).is_file():
        raise UserError(f"{settings.file}: no such file; give one that 'visionsam annotate dump' wrote")
    print(f"{archive.restore(open_engine(settings.store, create=True), Path(settings.file))} rows")


def _statistics(settings: StatsSettings | ExportAnnotationsSettings) -> tuple[dict[str, Any], str]:
    """The figures of a store, and the page about them."""
    engine, known, datasets = _open_store(settings)
    answers, tasks = load_answers(engine), load_tasks(engine)
    ranked = {answer.task_id for answer in answers if answer.task_kind == "ranked"}
    truths = truth_rankings(datasets, [tasks[task_id] for task_id in sorted(ranked)])
    models = {one.number: one.model for one in load_rounds(engine)}
    figures = describe(
        answers, tasks, seed=settings.seed, undone=count_undone(engine), truth_rankings=truths, models=models
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    return figures, render(figures, candidates=known.candidates, overlap=known.overlap, when=now)


def _open_store(settings: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The store's engine, its project and the candidate set that it is about."""
    engine = open_engine(settings.store)
    known = load_project(engine)
    if known is None:
        raise UserError(f"{_without_password(settings.store)}: holds no tasks yet; start 'visionsam annotate serve'")
    name = settings.candidates or known.candidates
    if not same_fingerprint(known.fingerprint, fingerprint(name)):
        raise UserError(
            f"{name}: is not the candidate set that was ranked ({known.candidates}); give that one as candidates"
        )
    return engine, known, rows_of_rounds(engine, load_candidates(name), load_candidates)


def _without_password(store: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", store)
