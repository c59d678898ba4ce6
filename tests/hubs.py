"""A hub on this machine: repositories with files, served as the Hugging Face hub serves them."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

Files = dict[str, bytes]


class Hub:
    """Repositories by name, each with its commits by revision; ``asked`` are all requests for models since the start.

    The client also asks for other things, once per process. ``fails`` is a status, and the hub's word for it, that
    answers every request.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Files]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.fails: tuple[int, str] | None = None
        self.url = ""

    def put(self, name: str, files: Files, revision: str = "main") -> str:
        """Make a new commit the head of a branch; returns the commit."""
        commits = self.repositories.setdefault(name, {})
        commit = f"{len(self.asked) + len(commits) + 1:040x}"
        commits[commit] = files
        self.refs.setdefault(name, {})[revision] = commit
        return commit

    def find(self, name: str, revision: str) -> tuple[str, Files] | None:
        """The commit that a revision means, and its files."""
        commit = self.refs.get(name, {}).get(revision, revision)
        files = self.repositories.get(name, {}).get(commit)
        return None if files is None else (commit, files)


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, hub: Hub, *args: object) -> None:
        self._hub = hub
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if "/resolve/" in path or path.startswith("/api/models/"):
            self._hub.asked.append(f"{self.command} {path}")
        if self._hub.fails is not None:
            self._say(self._hub.fails[0], {"X-Error-Code": self._hub.fails[1]}, b"")
        elif tree := re.fullmatch(r"/api/models/(.+?)/tree/([^/]+)", path):
            found = self._hub.find(tree[1], tree[2])
            assert found is not None
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": f"{number:040x}"}
                for number, (name, content) in enumerate(found[1].items())
            ]
            self._say(200, {"Content-Type": "application/json"}, json.dumps(entries).encode())
        elif file := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._file(*file.groups(), with_body=with_body)
        else:
            self._say(404, {"X-Error-Code": "RepoNotFound"}, b"")

    def _file(self, name: str, revision: str, file: str, *, with_body: bool) -> None:
        found = self._hub.find(name, revision)
        if found is None:
            code = "RevisionNotFound" if name in self._hub.repositories else "RepoNotFound"
            self._say(404, {"X-Error-Code": code}, b"")
        elif file not in found[1]:
            self._say(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found[0]}, b"")
        else:
            number = list(found[1]).index(file)
            headers = {"ETag": f'"{number:040x}"', "X-Repo-Commit": found[0]}
            self._say(200, headers, found[1][file], with_body=with_body)

    def _say(self, status: int, headers: dict[str, str], body: bytes, *, with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def running_hub(cache: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process asks, and an empty cache at ``cache``."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub))
    threading.Thread(target=partial(server.serve_forever, 0.02), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    try:
        yield hub
    finally:
        close_session()
        server.shutdown()
        server.server_close()
