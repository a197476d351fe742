"""A model hub on the loopback: the part of the Hugging Face hub's API that huggingface_hub uses.

It keeps repositories in memory, checks tokens, and fails where a test says so.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_CanaryTokenOfTheTests0123456789"
READ_ONLY_TOKEN = "hf_ReadOnlyTokenOfTheTests01234567"
OWNER = "someone"


@dataclass
class Repo:
    """A repository, as it stands."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return self.commits[-1]["oid"] if self.commits else "0" * 40


@dataclass
class Fault:
    """What goes wrong with requests: an answer of that status, or none where it is None."""

    path: str
    status: int | None
    times: int = 1
    after: bool = False
    """Whether the request takes effect first, and its answer alone is lost."""
    message: str = "injected"


class LocalHub:
    """The hub's state, and what the tests ask of it."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.answers: dict[str, tuple[int, Any]] = {}
        self.endpoint = ""

    def fail(self, path: str, status: int | None, **how: Any) -> None:
        self.faults.append(Fault(path, status, **how))

    def count(self, method: str, path: str) -> int:
        return sum(m == method and re.search(path, p) is not None for m, p in self.requests)

    def fault_of(self, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_HEAD = do_GET

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, path))
        fault = self.hub.fault_of(f"{self.command} {path}")
        if fault is None:
            self._answer(path, body)
        elif fault.status is not None:
            self._reply(fault.status, {"error": fault.message})
        else:
            if fault.after:
                self._act(path, body)
            self.close_connection = True  # without a word

    def _answer(self, path: str, body: bytes) -> None:
        status, content, headers = self._act(path, body)
        self._reply(status, content, headers)

    def _reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status == 401:
            self.send_header("X-Error-Message", "Invalid credentials")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _act(self, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        hub = self.hub
        if path.startswith("/blobs/"):  # as with the real one, by a signed address: no token
            hub.blobs[path.removeprefix("/blobs/")] = body
            return 200, {}, {}
        if path in hub.answers:
            return *hub.answers[path], {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        writes = self.command == "POST"
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_ONLY_TOKEN) and (writes or token):
            return 401, {"error": "Invalid credentials"}, {}
        if writes and token == READ_ONLY_TOKEN:
            return 403, {"error": "You need a write token"}, {}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        for pattern, act in (
            (r"/api/models/([^/]+/[^/]+)/preupload/main", self._preupload),
            (r"/api/models/([^/]+/[^/]+)/commit/main", self._commit),
            (r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", self._info),
            (r"/api/models/([^/]+/[^/]+)/tree/[^/]+", self._tree),
            (r"/api/models/([^/]+/[^/]+)/auth-check/write", self._may_write),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self._resolve),
        ):
            if found := re.fullmatch(pattern, path):
                repo = hub.repos.get(found[1])
                if repo is None or (repo.private and not token):
                    return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
                return act(found[1], repo, found[2] if found.lastindex == 2 else body)
        return 404, {"error": f"no such endpoint {path}"}, {}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        name = f"{asked.get('organization') or OWNER}/{asked['name']}"
        answer = {"url": f"{self.hub.endpoint}/{name}"}
        if name in self.hub.repos:
            return 409, {"error": "You already created this repo", **answer}, {}
        self.hub.repos[name] = Repo(private=asked.get("visibility") == "private")
        return 200, answer, {}

    def _info(self, name: str, repo: Repo, _: Any) -> tuple[int, Any, dict[str, str]]:
        siblings = [{"rfilename": file} for file in repo.files]
        return 200, {"_id": "1", "id": name, "modelId": name, "private": repo.private,
                     "sha": repo.sha, "siblings": siblings, "tags": [], "downloads": 0,
                     "likes": 0}, {}  # fmt: skip

    def _may_write(self, name: str, repo: Repo, _: Any) -> tuple[int, Any, dict[str, str]]:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token == READ_ONLY_TOKEN:
            return 403, {"error": "You need a write token"}, {}
        return 200, {}, {}

    def _tree(self, name: str, repo: Repo, _: Any) -> tuple[int, Any, dict[str, str]]:
        return (
            200,
            [
                {"type": "file", "path": file, "size": len(content), "oid": git_hash(content)}
                for file, content in repo.files.items()
            ],
            {},
        )

    def _preupload(self, name: str, repo: Repo, body: bytes) -> tuple[int, Any, dict[str, str]]:
        answers = []
        for file in json.loads(body)["files"]:
            is_large = file["path"].endswith(".safetensors")
            answer = {"path": file["path"], "uploadMode": "lfs" if is_large else "regular",
                      "shouldIgnore": False}  # fmt: skip
            known = repo.files.get(file["path"])
            if known is not None:
                answer["oid"] = sha256(known) if is_large else git_hash(known)
            answers.append(answer)
        return 200, {"files": answers}, {}

    def _batch(self, name: str, repo: Repo, body: bytes) -> tuple[int, Any, dict[str, str]]:
        objects: list[dict[str, Any]] = []
        for wanted in json.loads(body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.blobs:
                upload = {"href": f"{self.hub.endpoint}/blobs/{wanted['oid']}", "header": {}}
                entry["actions"] = {"upload": upload}
            objects.append(entry)
        return 200, {"objects": objects, "transfer": "basic"}, {}

    def _commit(self, name: str, repo: Repo, body: bytes) -> tuple[int, Any, dict[str, str]]:
        files: dict[str, bytes] = {}
        summary = ""
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    summary = value["summary"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    if value["oid"] not in self.hub.blobs:
                        return 400, {"error": "a file was not uploaded"}, {}
                    files[value["path"]] = self.hub.blobs[value["oid"]]
        repo.files |= files
        oid = hashlib.sha1(f"{name}{len(repo.commits)}".encode()).hexdigest()
        repo.commits.append({"oid": oid, "summary": summary, "files": sorted(files)})
        url = f"{self.hub.endpoint}/{name}/commit/{oid}"
        return 200, {"commitUrl": url, "commitOid": oid, "success": True}, {}

    def _resolve(self, name: str, repo: Repo, file: str) -> tuple[int, Any, dict[str, str]]:
        if file not in repo.files:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
        content = repo.files[file]
        headers = {"X-Repo-Commit": repo.sha, "ETag": f'"{git_hash(content)}"'}
        return 200, content, headers


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving() -> Iterator[LocalHub]:
    """A hub that answers at its `endpoint` meanwhile."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfHub", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
