"""Headless Chromium, driven by its command line."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--log-level=0",
    "--enable-logging=stderr",
)  # fmt: skip
_CONSOLE = re.compile(r":CONSOLE[:(]\d+\)?\] (.*)")
_MEASURE = """
addEventListener("load", () => {
  const root = document.querySelector("iframe").contentDocument.documentElement;
  document.body.dataset.size = JSON.stringify([root.scrollWidth, root.scrollHeight]);
});
"""


@dataclass(frozen=True)
class Opened:
    """What a page became: its document and what it said on the console."""

    dom: str
    console: list[str]


def open_page(page: Path) -> Opened:
    """Loads a page and returns its document after loading."""
    result = _chromium("--dump-dom", page.as_uri())
    return Opened(result.stdout, _CONSOLE.findall(result.stderr))


def measure(page: Path, width: int) -> tuple[int, int]:
    """Returns width and height that the page takes in a view of ``width`` pixels."""
    with tempfile.TemporaryDirectory() as folder:
        frame = _framed(page, width, 800, Path(folder))
        found = re.search(r'data-size="\[(\d+),(\d+)\]"', open_page(frame).dom.replace("&quot;", '"'))
    assert found is not None, "the page did not load"
    size: list[int] = json.loads(f"[{found[1]},{found[2]}]")
    return size[0], size[1]


def take_picture(page: Path, width: int, height: int, picture: Path, *, dark: bool = False) -> Image.Image:
    """Writes a picture of the page in a view of ``width`` pixels, which may be a telephone's."""
    with tempfile.TemporaryDirectory() as folder:
        frame = _framed(page, width, height, Path(folder))
        theme = ["--force-dark-mode"] if dark else []
        window = f"--window-size={max(width, 600)},{height}"
        _chromium(f"--screenshot={picture}", window, *theme, frame.as_uri())
    image: Image.Image = Image.open(picture).convert("RGB").crop((0, 0, width, height))
    image.save(picture)
    return image


def _framed(page: Path, width: int, height: int, folder: Path) -> Path:
    """Shows the page in a frame: a window of Chromium is never narrower than 500 pixels."""
    text = html.escape(page.read_text(encoding="utf-8"))
    style = f"width:{width}px;height:{height}px;border:0;display:block"
    frame = folder / "frame.html"
    frame.write_text(
        '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f'<body style="margin:0"><iframe style="{style}" srcdoc="{text}"></iframe>'
        f"<script>{_MEASURE}</script>",
        encoding="utf-8",
    )
    return frame


def _chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        return subprocess.run(
            [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", *arguments],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
