"""What of a text may be shown: nothing that gives access, and nothing that steers a terminal."""

from __future__ import annotations

import os
import re
import reprlib
import sys

_HIDDEN = "…"
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}\b")
_USER_INFO = re.compile(r"(?<=://)[^\s/@'\"]+(?=@)")
_QUERY = re.compile(r"(https?://[^\s?'\"<>]+\?)[^\s'\"<>]+")  # signatures of downloads
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_LONGEST = 1000
"""Characters of what a message shows."""
_BRIEF = 80
"""Characters of one value among others."""
_BITS = 1024
"""Of a whole number whose digits are shown."""


def shortened(value: object) -> str:
    """Returns a value as text, without the middle of a long one."""
    if isinstance(value, int) and value.bit_length() > _BITS:
        return f"a number of {value.bit_length():,} bits"
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def brief(value: object) -> str:
    """Returns a value as Python writes it, without the middle of a long one."""
    if isinstance(value, int) and value.bit_length() > _BITS:
        return shortened(value)
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = _BRIEF
    return short.repr(value)


def presentable(text: str) -> str:
    """Returns ``text`` without tokens, and with what steers a terminal, or cannot be written, spelled out."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], without_secrets(text))


def without_secrets(text: str) -> str:
    """Returns ``text`` without the hub's tokens, users and passwords in addresses, and addresses' queries."""
    for token in _tokens():
        text = text.replace(token, _HIDDEN)
    text = _USER_INFO.sub(_HIDDEN, _TOKEN.sub(_HIDDEN, text))
    return _QUERY.sub(rf"\1{_HIDDEN}", text)


def _tokens() -> set[str]:
    tokens = {os.environ.get(name, "").strip() for name in _VARIABLES}
    hub = sys.modules.get("huggingface_hub")  # where nobody imported it, nobody read its stored token
    if hub is not None:
        tokens.add(hub.get_token() or "")
    return {token for token in tokens if len(token) > 3}
