"""Chromium, for the tests of the page: how it is started, and what it is given to hear."""

import base64
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from service import wav
from tone_model import spoken

CHROMIUM = shutil.which("chromium")
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: the page was not opened"
)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--host-resolver-rules=MAP elsewhere.test 127.0.0.1",
)
DROP = """([name, base64, copies]) => {
  const carried = new DataTransfer(), bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  carried.items.add(new File(Array(copies).fill(bytes), name));
  for (const kind of ["dragover", "drop"])
    document.body.dispatchEvent(
      new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
}"""
TEXT = "abc dab c"
TALK = wav(spoken(TEXT, seed=1, pause_s=0.3))


@contextmanager
def launcher() -> Iterator[Callable[..., Any]]:
    """Starts browsers with further flags."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as api:
        yield lambda *more: api.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *more])


def words(page) -> list[str]:
    page.wait_for_selector(".word")
    return page.locator(".word span").all_inner_texts()


def drop(page, data: bytes = TALK, name: str = "my talk.wav", *, copies: int = 1) -> None:
    """Drop a file that holds `data` so many times."""
    page.evaluate(DROP, [name, base64.b64encode(data).decode(), copies])
