"""Fixtures: a filled store and a served page over small candidate sets. A test module imports those it uses."""

import contextlib
import socket
import threading
import time

import pytest

from tests.candidate_sets import write_candidate_set


@pytest.fixture(autouse=True)
def own_secret(tmp_path, monkeypatch):
    """No test touches the secret of this machine's user."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def make_store(tmp_path, monkeypatch):
    """make_store(count, ...) -> (Store, datasets): a new SQLite store with `count` tasks."""
    from visionsam_hf.annotation.database import open_engine
    from visionsam_hf.annotation.store import Store
    from visionsam_hf.annotation.tasks import import_tasks
    from visionsam_hf.cli.candidates import load_candidates

    made = []
    # Which pane shows what, and when gold comes, must not differ from run to run.
    monkeypatch.setattr("visionsam_hf.annotation.tasks.secrets.randbelow", lambda _: 7)

    def make(count=3, *, overlap=2, calibration=0, clock=time.time, url=None, name="store.sqlite", **options):
        directory = write_candidate_set(tmp_path / f"candidates-{len(made)}", {"train": count}, **options)
        datasets = load_candidates(str(directory), [])
        practice = None
        if calibration:
            where = write_candidate_set(tmp_path / "calibration", {"train": calibration})
            practice = (str(where), load_candidates(str(where), []))
        engine = open_engine(url or str(tmp_path / name), create=True)
        made.append(engine)
        import_tasks(engine, str(directory), datasets, "fingerprint", overlap=overlap, calibration=practice)
        return Store(engine, clock=clock), datasets

    yield make
    for engine in made:
        engine.dispose()


@pytest.fixture
def served(tmp_path):
    """served(candidates, **settings) -> (address, token or None): the real server in a thread, stopped at the end."""
    import uvicorn

    from visionsam_hf.annotation.access import admit, allowed_hosts, bind, read_secret
    from visionsam_hf.annotation.database import open_engine
    from visionsam_hf.annotation.server import make_app
    from visionsam_hf.annotation.store import Store
    from visionsam_hf.annotation.task_images import TaskImages
    from visionsam_hf.annotation.tasks import import_tasks
    from visionsam_hf.cli.candidates import load_candidates

    with contextlib.ExitStack() as stack:

        def serve(candidates, *, store=None, overlap=2, calibration=None, rubric="quick", gate=0.5, port=0, **more):
            datasets = load_candidates(str(candidates), [])
            practice = load_candidates(str(calibration), []) if calibration else None
            path = str(store or tmp_path / "served.sqlite")
            engine = open_engine(path, create=True)
            stack.callback(engine.dispose)
            secret = read_secret()
            token = admit(engine, secret, "127.0.0.1", path)
            import_tasks(
                engine,
                str(candidates),
                datasets,
                "f",
                overlap=overlap,
                calibration=("c", practice) if practice else None,
            )
            listener = bind("127.0.0.1", port)
            port = listener.getsockname()[1]
            app = make_app(
                Store(engine, gate=gate),
                TaskImages(datasets, practice),
                secret,
                allowed_hosts("127.0.0.1", port),
                rubric=rubric,
                **more,
            )
            server = uvicorn.Server(
                uvicorn.Config(app, log_level="warning", proxy_headers=False, timeout_graceful_shutdown=1)
            )
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
            thread.start()

            def stop():
                server.should_exit = True
                thread.join(10)

            stack.callback(stop)
            while not server.started:
                time.sleep(0.01)
            serve.stop = stop
            serve.engine = engine
            return f"http://127.0.0.1:{port}", token

        yield serve


@pytest.fixture
def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
