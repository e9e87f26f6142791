"""A hub that answers wrongly, late, in part or not at all: one message, and nothing half-written."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

from rrm_transfer.core import patience
from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.core.hub import explaining_hub, hub_file
from rrm_transfer.data.sources import load_dataset_by_name

CONTENT = bytes(range(256)) * 64
PART = len(CONTENT) // 3


class Server(ThreadingHTTPServer):
    """Serves one file; ``mood`` says how.

    Attributes:
        mood: ``well``, ``500`` (to everything), ``late`` (no answer
            in time), ``drops`` (the connection, after a third of what is asked for), ``cuts`` (likewise, and
            nothing at a later offset), ``trickles`` (a byte at a time, of the file),
            ``hesitates`` (likewise, of its headers).
        requests: Methods and paths, in order.
        headers: Sent with the file.
    """

    daemon_threads = True
    mood = "well"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.headers = {"X-Repo-Commit": "0" * 40, "ETag": hashlib.sha256(CONTENT).hexdigest()}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        mood = self.server.mood
        if self.path == "/":
            self._head(200, 0)
        elif mood == "late":
            time.sleep(1.5)
        elif mood == "500":
            self._head(500, 0)
        elif mood == "hesitates":
            self._trickle(b"HTTP/1.1 200 OK\r\nX-Padding: " + bytes(CONTENT))
        elif self.command == "HEAD":
            self._head(200, len(CONTENT))
        elif mood == "trickles":
            self._head(200, len(CONTENT))
            self._trickle(CONTENT)
        else:
            first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
            rest = CONTENT[first:]
            if first and mood == "cuts":
                return
            self._head(206 if first else 200, len(rest))
            self.wfile.write(rest if mood == "well" else rest[:PART])

    def _trickle(self, content: bytes) -> None:
        with suppress(OSError):  # they have had enough
            for place in range(len(content)):
                self.wfile.write(content[place : place + 1])
                threading.Event().wait(0.02)

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for header, value in self.server.headers.items():
            self.send_header(header, value)
        self.end_headers()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for module in (constants, file_download):
        for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "_ETAG_RETRY_TIMEOUT"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, 0.3)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    for module in (_http, file_download):
        monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    with Server() as made:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{made.server_port}")
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}",
        )
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".lock", ".TAG")]


def test_a_file_is_fetched_once(server: Server) -> None:
    first = hub_file("user/model", "weights.bin")
    assert first.read_bytes() == CONTENT
    asked = len(server.requests)
    assert hub_file("user/model", "weights.bin") == first
    assert len(server.requests) == asked


def test_a_dropped_connection_is_taken_up_where_it_broke(server: Server) -> None:
    server.mood = "drops"
    assert hub_file("user/model", "weights.bin").read_bytes() == CONTENT
    assert len([request for request in server.requests if request.startswith("GET /user")]) > 2


@pytest.mark.parametrize("mood", ["500", "late", "cuts"])
def test_a_hub_that_fails_is_told_and_leaves_nothing_half_written(
    mood: str, server: Server, tmp_path: Path
) -> None:
    server.mood = mood
    with pytest.raises(UserError, match=r"broke off: \S+|cannot be reached") as caught:
        hub_file("user/model", "weights.bin", hint="use a local file")
    assert len(server.requests) < 20
    assert "\n" not in caught.value.what
    assert (caught.value.received, caught.value.hint) == ("user/model/weights.bin", "use a local file")
    assert not [
        path for path in _files(tmp_path) if path.suffix != ".incomplete" and "refs" not in path.parts
    ]
    assert not isinstance(huggingface_hub.try_to_load_from_cache("user/model", "weights.bin"), str)
    server.mood = "well"
    assert hub_file("user/model", "weights.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("mood", "load"),
    [
        ("trickles", lambda: hub_file("user/model", "x.bin")),
        ("hesitates", lambda: hub_file("user/model", "x.bin")),
        ("trickles", lambda: load_dataset_by_name("user/birds")),
    ],
)
def test_a_trickle_is_not_waited_for(
    mood: str, load: Callable[[], object], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.mood = mood
    monkeypatch.setattr(patience, "HEADERS_SECONDS", 0.5)
    monkeypatch.setattr(patience, "_GRACE_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"too slow|no answer within"):
        load()


@pytest.mark.parametrize("header", ["ETag", "X-Linked-ETag", "X-Repo-Commit"])
@pytest.mark.parametrize("tag", ["../../../x", '"../../../x"', "/tmp/x", "..", "a/b", "a\\b", "x" * 999])
def test_an_answers_tags_are_no_paths(header: str, tag: str, server: Server, tmp_path: Path) -> None:
    server.headers[header] = tag
    with pytest.raises(UserError, match="no plain name") as caught:
        hub_file("user/model", "weights.bin")
    assert header in str(caught.value)
    assert not _files(tmp_path)
    server.headers |= {"X-Repo-Commit": "0" * 40, "ETag": 'W/"abc-1.2"', "X-Linked-ETag": '"abc-1.2"'}
    assert hub_file("user/model", "weights.bin").read_bytes() == CONTENT


def test_other_bytes_than_were_announced_are_refused(server: Server, tmp_path: Path) -> None:
    announced = server.headers["ETag"]
    server.headers["ETag"] = hashlib.sha256(b"others").hexdigest()
    for _ in range(2):  # what was refused is not taken from the cache
        with pytest.raises(UserError, match="other bytes than it announced"):
            hub_file("user/model", "weights.bin")
    assert not [path for path in _files(tmp_path) if "blobs" in path.parts]
    server.headers["ETag"] = announced
    assert hub_file("user/model", "weights.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("mood", ["500", "late"])
def test_a_hub_that_fails_is_told_of_data_sets_too(mood: str, server: Server) -> None:
    server.mood = mood
    with pytest.raises(UserError, match="cannot be had from the hub") as caught:
        load_dataset_by_name("user/birds")
    assert "\n" not in caught.value.what
    assert caught.value.received == "user/birds"


def test_a_request_to_stop_is_not_an_error_of_the_hub() -> None:
    with pytest.raises(Interrupted), explaining_hub("user/name"):
        raise Interrupted("stopped by SIGINT")
