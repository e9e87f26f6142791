"""How long a hub is waited for: its client counts from byte to byte, and would follow a trickle for ever."""

from __future__ import annotations

import socket
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rrm_transfer.core.errors import UserError

HEADERS_SECONDS = 60.0
"""Until an answer has begun."""
SLOWEST = 1000.0
"""Bytes a second of an answer, on the average."""
_GRACE_SECONDS = 30.0
"""Before its speed counts."""
_SILENCE_SECONDS = 30.0
"""Between two bytes, where the client sets no limit."""

_connections: weakref.WeakSet[Any] = weakref.WeakSet()
"""Of all that were opened in the blocks below; the client keeps them for later requests."""


@contextmanager
def patient(seconds: float | None = None) -> Iterator[None]:
    """Ends the hub's answers in the block that do not begin in time, or come too slowly.

    Args:
        seconds: Until an answer must have begun; None: ``HEADERS_SECONDS``.

    Raises:
        UserError: One did not, or a trickle came.
    """
    from huggingface_hub import get_session

    seconds = seconds or HEADERS_SECONDS
    late = threading.Event()
    timers: dict[int, threading.Timer] = {}

    def begin(request: Any) -> None:
        if late.is_set():  # the client tries again what was ended
            raise _too_slow(request, f"no answer within {seconds:g} seconds")
        limits = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            kind: limits.get(kind) or _SILENCE_SECONDS for kind in ("connect", "read", "write", "pool")
        }
        request.extensions["trace"] = _remember
        if request.method not in ("GET", "HEAD"):  # what is sent may take long, too
            return
        timer = threading.Timer(seconds, _give_up, [late])
        timer.daemon = True
        timers[id(request)] = timer
        timer.start()

    def answered(response: Any) -> None:
        timer = timers.pop(id(response.request), None)
        if timer is not None:
            timer.cancel()
        response.stream = _paced(response)

    hooks = get_session().event_hooks
    hooks["request"].append(begin)
    hooks["response"].insert(0, answered)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not late.is_set():
            raise
        raise UserError(
            f"The hub gave no answer within {seconds:g} seconds.",
            hint="try again, or look whom HF_ENDPOINT names",
        ) from error
    finally:
        hooks["request"].remove(begin)
        hooks["response"].remove(answered)
        for timer in timers.values():
            timer.cancel()


def _remember(event: str, facts: dict[str, Any]) -> None:
    if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
        _connections.add(facts["return_value"])


def _give_up(late: threading.Event) -> None:
    late.set()
    for connection in list(_connections):
        opened = connection.get_extra_info("socket")
        with suppress(OSError, AttributeError):
            opened.shutdown(socket.SHUT_RDWR)  # wakes the one who waits for it


def _paced(response: Any) -> Any:
    """Returns an answer's stream, which ends in an error where it is a trickle."""
    client: Any = sys.modules[type(response).__module__.partition(".")[0]]
    inner = response.stream

    class Paced(client.SyncByteStream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            begun, received = time.monotonic(), 0
            for part in inner:
                received += len(part)
                passed = time.monotonic() - begun
                if passed > _GRACE_SECONDS and received < SLOWEST * passed:
                    raise _too_slow(response.request, f"{received:,} bytes in {passed:.0f} seconds")
                yield part

        def close(self) -> None:
            inner.close()

    return Paced()


def _too_slow(request: Any, received: str) -> UserError:
    return UserError(
        "The hub is too slow.",
        received=f"{request.url.host}: {received}",
        allowed=f"{SLOWEST:,.0f} bytes a second",
        hint="try again, or look whom HF_ENDPOINT names",
    )
