"""Chromium, for the tests of the page: how it is started, and what it is given to hear."""

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
