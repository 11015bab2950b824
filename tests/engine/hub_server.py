"""A server with those endpoints of the Hugging Face Hub that a push and a download use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_test"


class Hub(ThreadingHTTPServer):
    """Repositories in memory, at `endpoint`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        """Name -> commit, the newest last -> file -> content."""
        self.made: list[dict[str, Any]] = []
        """Requests for new repositories."""
        self.large: dict[str, bytes] = {}
        """Content of files that are uploaded by themselves, by their SHA-256."""
        self.status: int | None = None
        """That of every answer, if not None."""


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub during the block."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        """Validation, new repositories, and the three parts of a commit."""
        body = self._body()
        if self._refused(self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            return
        if self.path == "/api/validate-yaml":
            self._answer({})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.made.append(asked)
            name = f"{asked['organization'] or 'me'}/{asked['name']}"
            known = name in self.server.repos
            self.server.repos.setdefault(name, {})
            self._answer({"url": f"{self.server.endpoint}/{name}"}, 409 if known else 200)
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
            files = [
                {"path": name, "uploadMode": mode, "shouldIgnore": False}
                for name, mode in zip(names, modes, strict=True)
            ]
            self._answer({"files": files})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for one in objects:
                href = f"{self.server.endpoint}/large/{one['oid']}"
                one["actions"] = {"upload": {"href": href}}
            self._answer({"objects": objects, "transfer": "basic"})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer({}, 404)

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        commits = self.server.repos[name]
        files = dict(list(commits.values())[-1]) if commits else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        number = hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest()
        commits[number] = files
        url = f"{self.server.endpoint}/{name}/commit/{number}"
        self._answer({"commitUrl": url, "commitOid": number})

    def do_PUT(self) -> None:
        """A large file."""
        content = self._body()
        self.server.large[hashlib.sha256(content).hexdigest()] = content
        self._answer({})

    def do_HEAD(self) -> None:
        """Commit, size and hash of a file."""
        self._file(False)

    def do_GET(self) -> None:
        """A file."""
        self._file(True)

    def _file(self, content: bool) -> None:
        if self._refused(False):
            return
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        commits = self.server.repos.get(found[1]) if found else None
        if not found or commits is None:
            self._answer({}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        revision = list(commits)[-1] if found[2] == "main" else found[2]
        if revision not in commits:
            self._answer({}, 404, {"X-Error-Code": "RevisionNotFound"})
            return
        if found[3] not in commits[revision]:
            self._answer({}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        file = commits[revision][found[3]]
        self.send_response(200)
        self.send_header("X-Repo-Commit", revision)
        self.send_header("ETag", f'"{hashlib.sha256(file).hexdigest()}"')
        self.send_header("Content-Length", str(len(file)))
        self.end_headers()
        if content:
            self.wfile.write(file)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refused(self, wrong_token: bool) -> bool:
        status = self.server.status or (401 if wrong_token else None)
        if status is not None:
            self._answer({"error": "refused"}, status)
        return status is not None

    def _answer(
        self, values: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        text = b"" if self.command == "HEAD" else json.dumps(values).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
