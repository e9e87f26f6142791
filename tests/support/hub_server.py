"""A hub on the loopback interface: the endpoints that pushing and loading a model or a data set use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.report.fixtures import metadata

TOKEN = "hf_" + "s3cr3t" * 5


@dataclass
class Repository:
    """One repository: its files, and those of proposed commits; a gated one is ``TOKEN``'s to read."""

    private: bool = False
    gated: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    proposed: list[dict[str, bytes]] = field(default_factory=list)
    commits: int = 0

    @property
    def revision(self) -> str:
        return hashlib.sha1(str(self.commits).encode()).hexdigest()


@dataclass(frozen=True)
class Fault:
    """What goes wrong at a request.

    Attributes:
        request: Pattern of ``METHOD /path``.
        status: Of the answer; None: the connection is dropped in the middle.
        times: How often it happens.
        delay: Seconds before anything is said, or before the connection is dropped.
        part: Bytes of the answer that are sent before it is dropped; None: the request is not even read.
    """

    request: str
    status: int | None = None
    times: int = 1_000
    delay: float = 0.0
    part: int | None = None


class Hub:
    """The state of the server.

    Attributes:
        writable: Users and organisations that ``TOKEN`` may write to.
        repositories: By ``user/name``, data sets by ``datasets/user/name``.
        large: Contents by SHA-256: large files that were sent, committed or not.
        requests: ``METHOD /path`` of every request, in order; `` from N`` follows where a part was asked for.
    """

    def __init__(self) -> None:
        self.writable = {"user"}
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[tuple[Fault, list[int]]] = []
        self.address = ""

    def fail(self, fault: Fault) -> None:
        self.faults.append((fault, [fault.times]))

    def fault(self, request: str) -> Fault | None:
        for fault, left in self.faults:
            if left[0] and re.search(fault.request, request):
                left[0] -= 1
                return fault
        return None

    def asked(self, pattern: str) -> list[str]:
        return [request for request in self.requests if re.search(pattern, request)]

    def commit(self, name: str, lines: list[dict[str, Any]], *, propose: bool) -> dict[str, Any]:
        repository = self.repositories[name]
        files = dict(repository.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        if propose:
            repository.proposed.append(files)
        else:
            repository.files = files
            repository.commits += 1
        return {
            "commitUrl": f"{self.address}/{name}/commit/{repository.revision}",
            "commitOid": repository.revision,
            "pullRequestUrl": f"{self.address}/{name}/discussions/{len(repository.proposed)}",
        }


@contextmanager
def serving() -> Iterator[Hub]:
    """Serves a hub for the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    _cut: Fault | None = None
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, BrokenPipeError):
            self.close_connection = True

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815  # named so by the server

    def _serve(self) -> None:
        split = urlsplit(self.path)
        request = f"{self.command} {split.path}"
        self.hub.requests.append(request + (f" from {self._first}" if self._first else ""))
        fault = self.hub.fault(request)
        length = int(self.headers.get("Content-Length") or 0)
        self._cut = None if fault is None or fault.part is None else fault
        if fault is not None and fault.part is None:
            time.sleep(fault.delay)
            if fault.status is None:
                self.rfile.read(length // 2)
                self.close_connection = True
                return
        body = self.rfile.read(length)
        if fault is not None and fault.status is not None:
            self._answer(fault.status, {"error": f"fault; you sent {self.headers.get('Authorization')}"})
            return
        for pattern, method in _ROUTES.items():
            match = re.fullmatch(pattern, request)
            if match is not None:
                getattr(self, method)(body, parse_qs(split.query), *match.groups())
                return
        self._answer(404, {"error": "no such page"})

    @property
    def _first(self) -> int:
        """The byte that the wanted part of a file begins with."""
        return int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])

    def _answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data if self._cut is None else data[: self._cut.part])
        if self._cut is not None:
            self.wfile.flush()
            time.sleep(self._cut.delay)
            self.close_connection = True

    def _authorised(self, name: str | None = None, *, write: bool = False) -> bool:
        """Answers for the request where the token does not suffice."""
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials in Authorization header"})
        elif write and name is not None and name.split("/")[0] not in self.hub.writable:
            self._answer(403, {"error": "You don't have the rights"})
        elif name is not None and name not in self.hub.repositories:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        else:
            return True
        return False

    def _whoami(self, *_: Any) -> None:
        if self._authorised():
            self._answer(200, {"type": "user", "name": "user", "orgs": []})

    def _create(self, body: bytes, _: Any) -> None:
        if not self._authorised():
            return
        content = json.loads(body)
        owner = content.get("organization") or "user"
        name = f"{owner}/{content['name']}"
        url = {"url": f"{self.hub.address}/{name}"}
        if owner not in self.hub.writable:
            self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        elif name in self.hub.repositories:
            self._answer(409, {"error": "You already created this model repo", **url})
        else:
            private = content.get("private") or content.get("visibility") == "private"
            self.hub.repositories[name] = Repository(private=bool(private))
            self._answer(200, url)

    def _auth_check(self, _body: bytes, _query: Any, name: str, write: str | None) -> None:
        if self._authorised(name, write=write is not None):
            self._answer(200, {})

    def _validate_yaml(self, body: bytes, _: Any) -> None:
        library = metadata(json.loads(body)["content"]).get("library_name")
        errors = [] if library else [{"message": "no library"}]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def _preupload(self, body: bytes, _query: Any, name: str) -> None:
        if not self._authorised(name):
            return
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": self._oid(name, file["path"]),
            }
            for file in json.loads(body)["files"]
        ]
        self._answer(200, {"files": files})

    def _oid(self, name: str, path: str) -> str | None:
        content = self.hub.repositories[name].files.get(path)
        if content is None:
            return None
        if path.endswith(".safetensors"):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def _batch(self, body: bytes, _query: Any, name: str) -> None:
        if not self._authorised(name):
            return
        objects = []
        for wanted in json.loads(body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.large:
                entry["actions"] = {"upload": {"href": f"{self.hub.address}/lfs/{wanted['oid']}"}}
            objects.append(entry)
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _large(self, body: bytes, _query: Any, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() == oid:
            self.hub.large[oid] = body
            self._answer(200, {})
        else:
            self._answer(400, {"error": "not what was announced"})

    def _commit(self, body: bytes, query: dict[str, list[str]], name: str) -> None:
        propose = query.get("create_pr") == ["1"]
        if self._authorised(name, write=not propose):
            lines = [json.loads(line) for line in body.splitlines()]
            self._answer(200, self.hub.commit(name, lines, propose=propose))

    def _info(self, _body: bytes, _query: Any, name: str) -> None:
        if self._authorised(name):
            repository = self.hub.repositories[name]
            siblings = [{"rfilename": path} for path in repository.files]
            content = {"id": name, "modelId": name, "sha": repository.revision, "siblings": siblings}
            self._answer(200, {**content, "private": repository.private, "tags": []})

    def _dataset_info(self, _body: bytes, _query: Any, name: str) -> None:
        if self._admitted(f"datasets/{name}"):
            repository = self.hub.repositories[f"datasets/{name}"]
            siblings = [{"rfilename": path, "size": len(data)} for path, data in repository.files.items()]
            self._answer(200, {"id": name, "sha": repository.revision, "siblings": siblings, "tags": []})

    def _dataset_access(self, _body: bytes, _query: Any, name: str) -> None:
        if self._admitted(f"datasets/{name}"):
            self._answer(200, {})

    def _tree(self, _body: bytes, _query: Any, name: str, folder: str | None) -> None:
        if not self._admitted(f"datasets/{name}"):
            return
        files, start = self.hub.repositories[f"datasets/{name}"].files, f"{folder}/" if folder else ""
        inside = {path: data for path, data in files.items() if path.startswith(start)}
        entries = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in inside.items()
        ]
        folders = {path.rpartition("/")[0] for path in inside} - {"", folder}
        entries += [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in folders]
        self._answer(200, entries)

    def _admitted(self, name: str) -> bool:
        """Answers for the request where the repository is not there or its terms are not accepted."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
        else:
            return True
        return False

    def _resolve(self, _body: bytes, _query: Any, name: str, path: str) -> None:
        if not self._admitted(name):
            return
        repository = self.hub.repositories[name]
        if repository.private:
            self._answer(404, {}, {"X-Error-Code": "RepoNotFound"})
        elif path not in repository.files:
            revision = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.revision}
            self._answer(404, {}, revision)
        else:
            headers = {"X-Repo-Commit": repository.revision, "ETag": f'"{self._oid(name, path)}"'}
            self._answer(206 if self._first else 200, repository.files[path][self._first :], headers)


_NAME = r"([^/]+/[^/]+)"
_COMMIT = r"(?:main|[0-9a-f]{40})"
_ROUTES = {
    r"GET /api/whoami-v2": "_whoami",
    r"POST /api/repos/create": "_create",
    r"POST /api/validate-yaml": "_validate_yaml",
    rf"GET /api/models/{_NAME}/auth-check(/write)?": "_auth_check",
    rf"POST /api/models/{_NAME}/preupload/main": "_preupload",
    rf"POST /api/models/{_NAME}/commit/main": "_commit",
    rf"GET /api/models/{_NAME}(?:/revision/main)?": "_info",
    rf"GET /api/datasets/{_NAME}/auth-check": "_dataset_access",
    rf"GET /api/datasets/{_NAME}(?:/revision/{_COMMIT})?": "_dataset_info",
    rf"GET /api/datasets/{_NAME}/tree/{_COMMIT}(?:/(.+))?": "_tree",
    rf"POST /{_NAME}\.git/info/lfs/objects/batch": "_batch",
    r"PUT /lfs/(\w+)": "_large",
    r"(?:GET|HEAD) /((?:datasets/)?[^/]+/[^/]+)/resolve/\w+/(.+)": "_resolve",
}
