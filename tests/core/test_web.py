"""A plain web address that answers slowly, in part, with another file or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from rrm_transfer.core import web
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import cache_folder
from rrm_transfer.core.web import web_file

CONTENT = bytes(range(256)) * 64


class Server(ThreadingHTTPServer):
    """Serves one file.

    Attributes:
        tag: Its ETag, which changes with the file; None: it has none.
        parts: How many bytes each of the next answers has at most, before the connection is dropped.
        kind: Content type.
        asked: ``Range`` of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.tag: str | None = '"a"'
        self.parts: list[int] = []
        self.status = 200
        self.kind = "application/octet-stream"
        self.asked: list[str | None] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights/robust.pt"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        first = 0
        if wanted is not None and self.headers.get("If-Range") == server.tag:
            first = int(wanted.removeprefix("bytes=").partition("-")[0])
        rest = server.content[first:]
        if first and not rest:
            server.status = 416
        self.send_response(206 if first and server.status == 200 else server.status)
        server.status = 200
        self.send_header("Content-Type", server.kind)
        self.send_header("Content-Length", str(len(rest)))
        if server.tag is not None:
            self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(rest[: server.parts.pop(0)] if server.parts else rest)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("RRM_TRANSFER_CACHE", str(tmp_path))
    monkeypatch.setattr(web, "_PAUSE", 0.0)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def _files() -> list[str]:
    found = (cache_folder() / "downloads").iterdir()
    return sorted(path.name.rpartition(".")[2] for path in found if path.suffix != ".lock")


def test_a_file_is_fetched_once(server: Server) -> None:
    file = web_file(server.address)
    assert file.read_bytes() == CONTENT
    assert web_file(server.address) == file
    assert server.asked == [None]
    assert _files() == ["pt"]


def test_a_dropped_connection_is_taken_up_where_it_broke(server: Server) -> None:
    server.parts = [1000, 500]
    assert web_file(server.address).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=1500-"]


def test_what_came_so_far_is_not_believed_and_goes_on_later(server: Server) -> None:
    server.parts = [1000, *[0] * 5]
    with pytest.raises(UserError, match="1,000 of 16,384 bytes came") as caught:
        web_file(server.address, hint="another way")
    assert caught.value.hint == "the same command again goes on where it broke off; or another way"
    assert _files() == ["part", "tag"]
    assert web_file(server.address).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=1000-"
    assert _files() == ["pt"]


@pytest.mark.parametrize("tag", ['"b"', None])
def test_a_file_that_was_replaced_meanwhile_comes_whole(server: Server, tag: str | None) -> None:
    server.tag = tag and '"a"'
    server.parts = [1000, *[0] * 5]
    with pytest.raises(UserError, match="broke off"):
        web_file(server.address)
    server.tag, server.content = tag, CONTENT[::-1]
    assert web_file(server.address).read_bytes() == CONTENT[::-1]


def test_a_part_that_is_longer_than_the_file_is_begun_anew(server: Server) -> None:
    server.parts = [len(CONTENT) - 1, *[0] * 5]
    with pytest.raises(UserError, match="broke off"):
        web_file(server.address)
    part = next((cache_folder() / "downloads").glob("*.part"))
    part.write_bytes(CONTENT)  # killed between the last byte and the renaming
    assert web_file(server.address).read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "kind", "told"), [(404, "text/plain", "404"), (200, "text/html", "page")])
def test_what_is_no_file_is_told_at_once(server: Server, status: int, kind: str, told: str) -> None:
    server.status, server.kind = status, kind
    with pytest.raises(UserError, match=told):
        web_file(server.address)
    assert len(server.asked) == 1
    assert _files() == []


def test_offline_mode_asks_nobody(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="Offline mode"):
        web_file(server.address)
    assert server.asked == []
