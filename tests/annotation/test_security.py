"""Each rule of the server's door, attacked."""

import io
import json
import os
import stat

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sqlalchemy", reason="the extra [annotate] is not installed")
pytest.importorskip("fastapi", reason="the extra [annotate] is not installed")

from tests.annotation.browser import Client, ranking_event
from tests.annotation.fixtures import free_port, own_secret, served  # noqa: F401
from tests.candidate_sets import write_candidate_set
from visionsam_hf.annotation.access import (
    MAX_BODY,
    add_user,
    admit,
    allowed_hosts,
    bind,
    find_user,
    is_loopback,
    list_users,
    read_secret,
    revoke_user,
    secret_path,
)
from visionsam_hf.annotation.answers import load_answers
from visionsam_hf.annotation.database import annotator, open_engine, reading
from visionsam_hf.data.errors import UserError
from visionsam_hf.data.masks import encode_rle


@pytest.fixture
def address_and_token(served, tmp_path):
    return served(write_candidate_set(tmp_path / "candidates", {"train": 2}))


@pytest.fixture
def page(address_and_token):
    return Client(*address_and_token)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example:80", "", None])
def test_a_rebound_name_is_refused(page, host):
    for method in ("GET", "POST"):
        status, _, body = page.request(method, "/api/progress", headers={"host": host})
        assert status in (400, 421)
        assert b"annotator" not in body


@pytest.mark.parametrize(
    "origin", [None, "null", "https://evil.example", "http://127.0.0.1", "http://127.0.0.1:1", "file://"]
)
def test_writes_from_elsewhere_are_refused(page, origin):
    task = page.claim()["tasks"][0]
    for path, body in (
        ("/api/events", {"events": [ranking_event(task)]}),
        ("/api/claim", {}),
        ("/api/session", {"token": "x"}),
        ("/api/logout", {}),
        ("/api/heartbeat", {}),
        ("/api/calibration", {}),
    ):
        assert page.post(path, body, headers={"origin": origin})[0] == 403
    assert page.claim()["progress"]["mine"] == 0


def test_a_localhost_origin_does_not_fit_a_127_host(page):
    origin = page.address.replace("127.0.0.1", "localhost")
    assert page.post("/api/claim", headers={"origin": origin})[0] == 403
    assert page.post("/api/claim", headers={"origin": origin, "host": origin.removeprefix("http://")})[0] == 200


@pytest.mark.parametrize(
    "kind",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp"],
)
def test_only_json_is_read(page, kind):
    assert page.post("/api/claim", headers={"content-type": kind})[0] == 415


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_no_other_method(page, method):
    assert page.request(method, "/api/progress", headers={"origin": page.address})[0] == 405


def test_an_oversized_body_is_refused_declared_or_not(page):
    assert page.post("/api/events", raw=b"[" + b" " * MAX_BODY + b"]")[0] == 413
    chunk = b" " * 65536
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for _ in range(6)) + b"0\r\n\r\n"
    status, _, _ = page.post(
        "/api/events", raw=chunked, headers={"transfer-encoding": "chunked", "content-length": None}
    )
    assert status == 413


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"events": []}', b'{"events": 1}', b"[" * 50000, b"\xff\xfe"])
def test_broken_bodies_are_harmless(page, raw):
    assert page.post("/api/events", raw=raw)[0] in (400, 422)
    assert page.claim()["progress"]["mine"] == 0


def test_without_a_token_there_is_nothing(address_and_token):
    stranger = Client(address_and_token[0])
    for path in ("/api/progress", "/api/task/abc", "/api/task/abc/photo.png", "/api/task/abc/masks.png"):
        assert stranger.get(path)[0] == 401
    for path in ("/api/claim", "/api/events", "/api/heartbeat"):
        assert stranger.post(path, {"events": [{}]} if path.endswith("events") else {})[0] == 401
    for token in ("", "x", "' OR 1=1 --", "x" * 300):
        assert stranger.post("/api/session", {"token": token})[0] in (401, 422)
    for cookie in ("visionsam_annotator=", "visionsam_annotator=guess", "visionsam_annotator=%00"):
        assert stranger.get("/api/progress", headers={"cookie": cookie})[0] == 401


def test_the_cookie_cannot_travel_or_be_read(address_and_token):
    address, token = address_and_token
    cookie = Client(address).post("/api/session", {"token": token})[1]["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie


def test_one_annotator_cannot_touch_another_s_tasks(served, tmp_path):
    store = str(tmp_path / "two.sqlite")
    engine, secret = open_engine(store, create=True), read_secret()
    tokens = [add_user(engine, secret, name) for name in ("ann", "bob")]
    address, own = served(write_candidate_set(tmp_path / "candidates", {"train": 2}), store=store)
    assert own is None
    ann, bob = (Client(address, token) for token in tokens)
    task = ann.claim()["tasks"][0]
    for path in ("", "/photo.png", "/masks.png", "/truth.png", "/feedback"):
        assert bob.get(f"/api/task/{task['id']}{path}")[0] == 404
    assert not bob.send(ranking_event(task))["results"][0]["ok"]
    revoke_user(engine, "ann")
    assert ann.get("/api/progress")[0] == 401
    assert ann.post("/api/claim")[0] == 401


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/%2e%2e/server.py",
        "/static/....//server.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/agreement.html.jinja",
        "/static/main.js%00.png",
        "/api/task/..%2f..%2fetc%2fpasswd/photo.png",
        "/../../etc/passwd",
        "/static/..\\server.py",
    ],
)
def test_no_path_leaves_the_page(page, path):
    status, _, body = page.get(path)
    assert status == 404
    assert b"root:" not in body and b"import" not in body


def test_a_script_in_a_category_name_stays_text(tmp_path, served, monkeypatch):
    monkeypatch.setattr("tests.candidate_sets.CATEGORIES", ["<img src=x onerror=alert(1)>", "ring"])
    address, token = served(write_candidate_set(tmp_path / "candidates", {"train": 1}))
    page = Client(address, token)
    status, headers, body = page.post("/api/claim")
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["tasks"][0]["category"] == "<img src=x onerror=alert(1)>"
    for name in ("main.js", "screens.js", "panes.js"):
        script = page.get(f"/static/{name}")[2]
        for way in (b"innerHTML", b"outerHTML", b"insertAdjacentHTML", b"document.write", b"eval("):
            assert way not in script


def test_every_answer_has_the_safe_headers(page):
    task = page.claim()["tasks"][0]
    for path in ("/", "/static/main.js", "/api/progress", f"/api/task/{task['id']}/photo.png", "/nothing"):
        headers = page.get(path)[1]
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in headers
    assert page.get(f"/api/task/{task['id']}/photo.png")[1]["content-type"] == "image/png"
    refused = page.get("/", headers={"host": "evil.example"})[1]
    assert refused["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/redoc"])
def test_no_description_of_the_interface(page, path):
    assert page.get(path)[0] == 404


def test_a_preflight_gets_no_permission(page):
    status, headers, _ = page.request(
        "OPTIONS", "/api/events", headers={"origin": "https://evil.example", "access-control-request-method": "POST"}
    )
    assert status == 405 and not any(name.startswith("access-control") for name in headers)


def test_other_hosts_need_tokens(tmp_path):
    engine, secret = open_engine(str(tmp_path / "s.sqlite"), create=True), read_secret()
    with pytest.raises(UserError, match="users add"):
        admit(engine, secret, "0.0.0.0", "s.sqlite")
    token = admit(engine, secret, "127.0.0.1", "s.sqlite")
    assert token and admit(engine, secret, "127.0.0.1", "s.sqlite") == token
    with pytest.raises(UserError, match="users add"):
        admit(engine, secret, "192.168.0.1", "s.sqlite")
    add_user(engine, secret, "ann")
    assert admit(engine, secret, "0.0.0.0", "s.sqlite") is None


def test_which_names_are_answered():
    assert "127.0.0.1:8712" in allowed_hosts("127.0.0.1", 8712)
    assert allowed_hosts("10.0.0.5", 8712, ["box.lan"]) == ["10.0.0.5:8712", "box.lan:8712"]
    assert "10.0.0.5" in allowed_hosts("10.0.0.5", 80)
    assert "[fe80::1]:8712" in allowed_hosts("fe80::1", 8712)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "box.lan")] == [True] * 3 + [
        False
    ] * 2


def test_a_port_in_use_is_one_line(free_port):
    listener = bind("127.0.0.1", free_port)
    listener.listen()
    with pytest.raises(UserError, match="choose another --port"):
        bind("127.0.0.1", free_port)
    listener.close()
    with pytest.raises(UserError, match="cannot listen"):
        bind("203.0.113.7", 1)


def test_tokens_are_stored_hashed_and_the_secret_is_private(tmp_path):
    engine, secret = open_engine(str(tmp_path / "s.sqlite"), create=True), read_secret()
    token = add_user(engine, secret, "ann")
    assert stat.S_IMODE(secret_path().stat().st_mode) == 0o600
    with reading(engine) as connection:
        row = connection.execute(annotator.select()).mappings().one()
    assert token not in str(dict(row)) and secret not in str(dict(row)).encode()
    engine.dispose()
    assert all(token.encode() not in file.read_bytes() for file in tmp_path.glob("s.sqlite*"))
    assert find_user(engine, secret, token) == row["id"]
    assert find_user(engine, b"another install", token) is None
    secret_path().chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        read_secret()


def test_two_servers_that_start_at_once_get_the_same_secret(monkeypatch):
    other = []

    def token_bytes(count):
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CONFIG_HOME", home)
        other.append(read_secret())
        return bytes(count)

    home = os.environ["XDG_CONFIG_HOME"]
    monkeypatch.setattr("visionsam_hf.annotation.access.secrets.token_bytes", token_bytes)
    assert [read_secret()] == other
    assert [file.name for file in secret_path().parent.iterdir()] == [secret_path().name]


def test_users_come_and_go(tmp_path):
    engine, secret = open_engine(str(tmp_path / "s.sqlite"), create=True), read_secret()
    first = add_user(engine, secret, "ann")
    with pytest.raises(UserError, match="exists already"):
        add_user(engine, secret, "ann")
    revoke_user(engine, "ann")
    assert find_user(engine, secret, first) is None
    second = add_user(engine, secret, "ann")
    assert second != first and find_user(engine, secret, second) is not None
    assert [(user["name"], user["kind"], user["revoked"]) for user in list_users(engine)] == [("ann", "human", None)]
    with pytest.raises(UserError, match="no such annotator"):
        revoke_user(engine, "bob")
    with pytest.raises(UserError, match="1 to 64 letters"):
        add_user(engine, secret, "<script>")


class Asked(list):
    """Answers every click with one square, and remembers what it was asked."""

    def __call__(self, *question):
        self.append(question)
        mask = np.zeros((64, 64), bool)
        mask[10:20, 10:20] = True
        return mask


CLICK = {"box": [1, 1, 20, 20], "clicks": [{"at": [5, 5], "positive": True}]}


def test_clicks_are_answered_for_the_holder_of_the_task_alone(served, tmp_path):
    store, answer = str(tmp_path / "two.sqlite"), Asked()
    engine, secret = open_engine(store, create=True), read_secret()
    tokens = [add_user(engine, secret, name) for name in ("ann", "bob")]
    address, _ = served(write_candidate_set(tmp_path / "candidates", {"train": 2}), store=store, answer_clicks=answer)
    ann, bob = (Client(address, token) for token in tokens)
    path = f"/api/task/{ann.claim()['tasks'][0]['id']}/mask.png"
    assert bob.post(path, CLICK)[0] == 404, "another's task"
    assert Client(address).post(path, CLICK)[0] == 401, "no token"
    for cookie in ("visionsam_annotator=guess", "visionsam_annotator=%00"):
        assert Client(address).post(path, CLICK, headers={"cookie": cookie})[0] == 401, "a foreign token"
    assert ann.post(path, CLICK, headers={"origin": "https://evil.example"})[0] == 403
    assert answer == []
    status, headers, body = ann.post(path, CLICK)
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "image/png", "no-store")
    assert np.asarray(Image.open(io.BytesIO(body))).sum() == 100 * 255 and len(answer) == 1
    assert answer[0][0] == "ranked" and answer[0][3:] == ((1, 1, 20, 20), [(5, 5)], [True])


@pytest.mark.parametrize(
    "body",
    [
        {},
        CLICK | {"box": [1, 1, 1, 20]},
        CLICK | {"box": [20, 20, 1, 1]},
        CLICK | {"box": [1, 1, 65, 20]},
        CLICK | {"box": [1, 1, 20]},
        CLICK | {"clicks": [{"at": [64.5, 5], "positive": True}]},
        CLICK | {"clicks": [{"at": [-1, 5], "positive": True}]},
        CLICK | {"clicks": [{"at": [1e300, 5], "positive": True}]},
        CLICK | {"clicks": [{"at": [5, 5], "positive": True}] * 51},
        CLICK | {"clicks": [{"at": [5, 5]}]},
        CLICK | {"row": 1},
        CLICK | {"box": [1, 1, float("nan"), 20]},
        CLICK | {"clicks": [{"at": [float("inf"), 5], "positive": True}]},
        CLICK | {"clicks": [{"at": [5, 5], "positive": True}] * 5_000},
    ],
)
def test_clicks_outside_and_boxes_of_nothing_never_reach_the_model(served, tmp_path, body):
    answer = Asked()
    page = Client(*served(write_candidate_set(tmp_path / "c", {"train": 2}), answer_clicks=answer))
    task = page.claim()["tasks"][0]
    assert task["mendable"] is True
    assert page.post(f"/api/task/{task['id']}/mask.png", body)[0] == 422
    assert answer == []


def test_without_a_model_there_is_nothing_to_ask(page):
    task = page.claim()["tasks"][0]
    assert task["mendable"] is False and page.post(f"/api/task/{task['id']}/mask.png", CLICK)[0] == 404


@pytest.mark.parametrize(
    "correction",
    [
        {"size": [64, 64], "counts": "no code"},
        {"size": [64, 64], "counts": "é" * 10},
        {"size": [64, 64], "counts": ""},
        {"size": [64, 64], "counts": "0" * 60_001},
        {"size": [64, 64], "counts": "o" * 59_999},
        {"size": [64, 64], "counts": "n" * 59_999 + "0"},
        {"size": [64, 64], "counts": encode_rle(np.zeros((64, 64), bool))["counts"]},
        encode_rle(np.ones((32, 64), bool)),
        encode_rle(np.ones((65, 64), bool)),
        {"size": [2**30, 2**30], "counts": encode_rle(np.ones((64, 64), bool))["counts"]},
        {"size": [64, 64], "counts": encode_rle(np.ones((128, 128), bool))["counts"]},
        {"size": [-64, -64], "counts": "1"},
        [[0, 1]],
        "mask",
    ],
)
def test_a_corrected_mask_that_is_none_is_refused(page, correction):
    task = page.claim()["tasks"][0]
    assert not page.send(ranking_event(task, correction=correction))["results"][0]["ok"]
    skip = {"kind": "skip", "correction": encode_rle(np.ones((64, 64), bool))}
    assert not page.send(ranking_event(task, **skip) | {"ranking": None})["results"][0]["ok"], "nor without a ranking"
    assert page.claim()["progress"]["mine"] == 0


def test_nobody_mends_another_s_task(served, tmp_path):
    store = str(tmp_path / "two.sqlite")
    engine, secret = open_engine(store, create=True), read_secret()
    tokens = [add_user(engine, secret, name) for name in ("ann", "bob")]
    address, _ = served(write_candidate_set(tmp_path / "candidates", {"train": 2}), store=store)
    ann, bob = (Client(address, token) for token in tokens)
    event = ranking_event(ann.claim()["tasks"][0], correction=encode_rle(np.ones((64, 64), bool)))
    refused = {"ok": False, "uuid": event["uuid"], "reason": "no such task in your hands"}
    assert bob.send(event)["results"] == [refused]
    assert bob.send(event | {"correction": {"size": [64, 64], "counts": "no code"}})["results"] == [refused]
    assert load_answers(engine) == []
