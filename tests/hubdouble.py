"""A double of the Hub's HTTP interface on the loopback device: enough of it for the real clients to push and load.

    with HubDouble() as hub:            # in a thread of this process
        ... HF_ENDPOINT=hub.endpoint, HF_HUB_DISABLE_XET=1 in the environment of another process ...
    python tests/hubdouble.py --port 0  # on its own; prints its address

It holds everything in memory, checks what it is sent (hashes, parents, the YAML of cards), and can be told to fail:
`POST /_fault {"path": regex, "status": 500, "times": 2, "after": 1}` answers so to the next requests that match, after
letting `after` of them through; status 0 cuts the connection.
"""

import argparse
import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

KINDS = {"models": "model", "datasets": "dataset"}
LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".jpg", ".bin", ".npy")
WHEN = "2026-01-01T00:00:00.000Z"
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "other", "unknown"}
TASKS = {"mask-generation", "image-segmentation"}
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Refusal(Exception):
    """An answer that is not 200: status, the Hub's error code, and a message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message


class Repo:
    """Commits by id, each a dict path -> (bytes, is_lfs); branches and tags by name."""

    def __init__(self, kind: str, name: str, private: bool) -> None:
        self.kind, self.name, self.private = kind, name, private
        self.commits: dict[str, dict[str, tuple[bytes, bool]]] = {}
        self.parents: dict[str, str | None] = {}
        self.titles: dict[str, str] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.commit({".gitattributes": (b"*.safetensors filter=lfs\n", False)}, "initial commit")

    def commit(self, files: dict[str, tuple[bytes, bool]], title: str) -> str:
        parent = self.branches.get("main")
        content = repr((parent, title, len(self.commits), sorted(files)))
        name = hashlib.sha1(content.encode()).hexdigest()
        self.commits[name], self.parents[name], self.titles[name] = files, parent, title
        self.branches["main"] = name
        return name

    def find(self, revision: str) -> str:
        found = self.branches.get(revision) or self.tags.get(revision)
        if found is None and revision in self.commits:
            found = revision
        if found is None:
            raise Refusal(404, "RevisionNotFound", f"no revision {revision}")
        return found


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def card_errors(text: str, kind: str) -> list[str]:
    """What the Hub would hold against the YAML of a card, as far as this double knows."""
    if not text.startswith("---\n"):
        return []
    try:
        front = yaml.safe_load(text[4:].partition("\n---")[0]) or {}
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    errors = []

    def expect(holds: bool, message: str) -> None:
        if not holds:
            errors.append(message)

    def all_match(value: Any, pattern: re.Pattern) -> bool:
        items = [value] if isinstance(value, str) else value
        return all(isinstance(item, str) and pattern.fullmatch(item) for item in items)

    expect(front.get("license") in LICENCES, f'"license" must be one of {sorted(LICENCES)}')
    if front.get("license") == "other":
        expect(bool(front.get("license_name")), '"license_name" is required with "license: other"')
    for key in ("tags", "metrics", "datasets", "task_categories", "annotations_creators"):
        value = front.get(key, [])
        expect(isinstance(value, list) and all(isinstance(item, str) for item in value), f'"{key}" must be strings')
    expect(all_match(front.get("base_model", []), REPO_ID), '"base_model" is not a model id')
    expect(all_match(front.get("datasets", []), REPO_ID), '"datasets" are not ids')
    if kind == "model":
        expect(front.get("pipeline_tag", "mask-generation") in TASKS, '"pipeline_tag" is not a task')
        relation = front.get("base_model_relation", "finetune")
        expect(relation in ("finetune", "adapter", "merge", "quantized"), '"base_model_relation" is not one')
        for model in front.get("model-index", []):
            expect(isinstance(model.get("name"), str), '"model-index[].name" is required')
            for result in model.get("results", []):
                expect("type" in result.get("task", {}), '"results[].task.type" is required')
                expect({"type", "name"} <= set(result.get("dataset", {})), '"results[].dataset" wants type and name')
                expect(bool(result.get("metrics")), '"results[].metrics" is required')
                for metric in result.get("metrics", []):
                    is_whole = isinstance(metric.get("value"), (int, float)) and "type" in metric
                    expect(is_whole, "a metric wants type and value")
    else:
        expect(set(front.get("task_categories", [])) <= TASKS, '"task_categories" are not tasks')
        for config in front.get("configs", []):
            expect("config_name" in config and "data_files" in config, "a config wants config_name and data_files")
    return errors


class State:
    """What all requests share."""

    def __init__(self, user: str) -> None:
        self.user, self.endpoint = user, ""
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: list[dict[str, Any]] = []
        self.lock = threading.RLock()
        self.calls: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *words: Any) -> None:
        pass

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.content = self.read_content()
        with self.state.lock:
            self.state.calls.append(f"{self.command} {url.path}")
            fault = self.due_fault(url.path)
            if fault is not None and not fault["status"]:
                self.close_connection = True
                self.connection.close()
                return
            try:
                if fault is not None:
                    raise Refusal(fault["status"], "Internal", "told to fail")
                self.route(url.path)
            except Refusal as refusal:
                headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
                self.answer({"error": refusal.message}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def read_content(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def due_fault(self, path: str) -> dict[str, Any] | None:
        for fault in self.state.faults:
            if re.search(fault["path"], f"{self.command} {path}"):
                if fault["after"] > 0:
                    fault["after"] -= 1
                elif fault["times"] > 0:
                    fault["times"] -= 1
                    return fault
        return None

    def answer(self, content: Any, status: int = 200, headers: dict[str, str] = {}) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # ---- routes

    def route(self, path: str) -> None:
        for pattern, name in ROUTES:
            if match := pattern.fullmatch(f"{self.command} {path}"):
                getattr(self, name)(**{key: unquote(value or "") for key, value in match.groupdict().items()})
                return
        raise Refusal(404, "EntryNotFound", f"no route for {self.command} {path}")

    def has_token(self) -> bool:
        return self.headers.get("Authorization", "").startswith("Bearer hf_")

    def need_token(self) -> None:
        if not self.has_token():
            raise Refusal(401, "Unauthorized", "Invalid username or password.")

    def repo(self, kind: str, name: str) -> Repo:
        found = self.state.repos.get((kind, name))
        if found is None or (found.private and not self.has_token()):
            raise Refusal(404 if self.has_token() else 401, "RepoNotFound", "Repository not found")
        return found

    def whoami(self) -> None:
        self.need_token()
        self.answer({"type": "user", "name": self.state.user, "orgs": [], "auth": {"type": "access_token"}})

    def fault(self) -> None:
        self.state.faults.append({"times": 1, "after": 0, **json.loads(self.content)})
        self.answer({})

    def calls(self) -> None:
        self.answer(self.state.calls)

    def validate(self) -> None:
        asked = json.loads(self.content)
        errors = [{"message": message} for message in card_errors(asked["content"], asked["repoType"])]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create(self) -> None:
        self.need_token()
        asked = json.loads(self.content)
        kind, name = asked.get("type") or "model", f"{asked.get('organization') or self.state.user}/{asked['name']}"
        url = f"{self.state.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.state.repos:
            self.answer({"error": "You already created this repo", "url": url}, 409)
            return
        is_private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.state.repos[kind, name] = Repo(kind, name, is_private)
        self.answer({"url": url, "name": name})

    def settings(self, kind: str, name: str) -> None:
        self.need_token()
        asked, repo = json.loads(self.content), self.repo(KINDS[kind], name)
        if "visibility" in asked:
            repo.private = asked["visibility"] == "private"
        repo.private = asked.get("private", repo.private)
        self.answer({})

    def lfs_batch(self, prefix: str, name: str) -> None:
        self.need_token()
        objects = []
        for wanted in json.loads(self.content)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.state.blobs:
                href = f"{self.state.endpoint}/_lfs/{wanted['oid']}"
                entry["actions"] = {"upload": {"href": href, "header": {}}}
            objects.append(entry)
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.content).hexdigest() != oid:
            raise Refusal(400, "BadRequest", "the content has another hash")
        self.state.blobs[oid] = self.content
        self.answer(b"")

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        repo = self.repo(KINDS[kind], name)
        commit = repo.find(revision)
        files = [{"rfilename": path} for path in sorted(repo.commits[commit])]
        known = {"_id": "1", "id": name, "author": name.split("/")[0], "sha": commit, "private": repo.private}
        known |= {"gated": False}
        known |= {"siblings": files, "tags": [], "downloads": 0, "likes": 0, "lastModified": WHEN, "createdAt": WHEN}
        front: dict[str, Any] = {}
        if "README.md" in repo.commits[commit]:
            text = repo.commits[commit]["README.md"][0].decode()
            front = yaml.safe_load(text[4:].partition("\n---")[0]) if text.startswith("---\n") else {}
        known |= {"cardData": front, "disabled": False, "modelId": name}
        known |= {key: front[key] for key in ("pipeline_tag", "library_name") if key in front}
        self.answer(known)

    def refs(self, kind: str, name: str) -> None:
        repo = self.repo(KINDS[kind], name)
        named = {
            group: [{"name": ref, "ref": f"refs/{where}/{ref}", "targetCommit": at} for ref, at in found.items()]
            for group, where, found in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
        }
        self.answer(named | {"converts": [], "pullRequests": []})

    def tag(self, kind: str, name: str, revision: str) -> None:
        self.need_token()
        repo, tag = self.repo(KINDS[kind], name), json.loads(self.content)["tag"]
        if tag in repo.tags:
            raise Refusal(409, "Conflict", "Tag reference exists already")
        repo.tags[tag] = repo.find(revision)
        self.answer({})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        self.need_token()
        repo = self.repo(KINDS[kind], name)
        files, answers = repo.commits[repo.find(revision)], []
        for asked in json.loads(self.content)["files"]:
            path = asked["path"]
            oid = None
            if path in files:
                content, is_lfs = files[path]
                oid = hashlib.sha256(content).hexdigest() if is_lfs else git_id(content)
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": answers})

    def commit(self, kind: str, name: str, revision: str) -> None:
        self.need_token()
        repo = self.repo(KINDS[kind], name)
        head = repo.find(revision)
        files, title = dict(repo.commits[head]), ""
        for line in self.content.splitlines():
            step = json.loads(line)
            value = step["value"]
            if step["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, head):
                    raise Refusal(412, "PreconditionFailed", "A commit has happened since.")
            elif step["key"] == "file":
                files[value["path"]] = (base64.b64decode(value["content"]), False)
            elif step["key"] == "lfsFile":
                if value["oid"] not in self.state.blobs:
                    raise Refusal(400, "BadRequest", f"{value['path']} was never uploaded")
                files[value["path"]] = (self.state.blobs[value["oid"]], True)
            elif step["key"] == "deletedFile":
                files.pop(value["path"])
        made = repo.commit(files, title)
        self.answer({"success": True, "commitOid": made, "commitUrl": f"{self.state.endpoint}/{name}/commit/{made}"})

    def entry(self, files: dict[str, tuple[bytes, bool]], path: str, commit: str) -> dict[str, Any]:
        if path not in files:
            return {"type": "directory", "oid": git_id(path.encode()), "size": 0, "path": path}
        content, is_lfs = files[path]
        known: dict[str, Any] = {"type": "file", "oid": git_id(content), "size": len(content), "path": path}
        if is_lfs:
            known["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        if self.query.get("expand", ["false"])[0].lower() == "true":
            known["lastCommit"] = {"id": commit, "title": "", "date": WHEN}
        return known

    def tree(self, kind: str, name: str, revision: str, folder: str = "") -> None:
        repo = self.repo(KINDS[kind], name)
        commit = repo.find(revision)
        files, start = repo.commits[commit], f"{folder.strip('/')}/" if folder.strip("/") else ""
        inside = sorted(path for path in files if path.startswith(start))
        if start and not inside:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
        slashes = ((path, place.start()) for path in inside for place in re.finditer("/", path))
        folders = {path[:place] for path, place in slashes if place >= len(start)}
        if self.query.get("recursive", ["false"])[0].lower() != "true":
            inside = [path for path in inside if "/" not in path[len(start) :]]
            folders = {path for path in folders if "/" not in path[len(start) :]}
        entries = [self.entry(files, path, commit) for path in [*sorted(folders), *inside]]
        self.answer(entries, headers={"X-Repo-Commit": commit})

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(KINDS[kind], name)
        commit = repo.find(revision)
        files = repo.commits[commit]
        if self.headers.get("Content-Type", "").startswith("application/json"):
            asked = json.loads(self.content)["paths"]
        else:
            asked = parse_qs(self.content.decode()).get("paths", [])
        asked = [asked] if isinstance(asked, str) else asked
        known = [path for path in asked if path in files or any(other.startswith(f"{path}/") for other in files)]
        self.answer([self.entry(files, path, commit) for path in known])

    def history(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(KINDS[kind], name)
        commit: str | None = repo.find(revision)
        listed = []
        while commit is not None:
            listed.append({"id": commit, "title": repo.titles[commit], "message": "", "authors": [], "date": WHEN})
            commit = repo.parents[commit]
        self.answer(listed)

    def file(self, prefix: str, name: str, revision: str, path: str) -> None:
        repo = self.repo("dataset" if prefix else "model", name)
        commit = repo.find(revision)
        if path not in repo.commits[commit]:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist")
        content, is_lfs = repo.commits[commit][path]
        etag = hashlib.sha256(content).hexdigest() if is_lfs else git_id(content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if is_lfs:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.command == "GET":
            first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self.answer(content[first : last + 1], 206, headers)
        else:
            self.answer(content, 200, headers)


_API = r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
ROUTES = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"GET /api/whoami-v2", "whoami"),
        (r"POST /_fault", "fault"),
        (r"GET /_calls", "calls"),
        (r"POST /api/validate-yaml", "validate"),
        (r"POST /api/repos/create", "create"),
        (r"POST /(?P<prefix>datasets/)?(?P<name>[^/]+/[^/]+?)\.git/info/lfs/objects/batch", "lfs_batch"),
        (r"PUT /_lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        (rf"PUT {_API}/settings", "settings"),
        (rf"GET {_API}", "info"),
        (rf"GET {_API}/revision/(?P<revision>[^/]+)", "info"),
        (rf"GET {_API}/refs", "refs"),
        (rf"GET {_API}/commits/(?P<revision>[^/]+)", "history"),
        (rf"POST {_API}/tag/(?P<revision>[^/]+)", "tag"),
        (rf"POST {_API}/preupload/(?P<revision>[^/]+)", "preupload"),
        (rf"POST {_API}/commit/(?P<revision>[^/]+)", "commit"),
        (rf"GET {_API}/tree/(?P<revision>[^/]+)(?P<folder>/.*)?", "tree"),
        (rf"POST {_API}/paths-info/(?P<revision>[^/]+)", "paths_info"),
        (r"(?:GET|HEAD) /(?P<prefix>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "file"),
    )
]


class HubDouble:
    """The server in a thread of this process; `endpoint` is its address, `state` what it holds."""

    def __init__(self, port: int = 0, user: str = "tester") -> None:
        self.state = State(user)
        self.server = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (Handler,), {"state": self.state}))
        self.server.daemon_threads = True
        self.endpoint = self.state.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "HubDouble":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.server.shutdown()
        self.server.server_close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    double = HubDouble(parser.parse_args().port)
    print(double.endpoint, flush=True)
    double.server.serve_forever()
