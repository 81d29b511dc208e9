"""The page with a microphone, in a real browser: words while they are said, and what can go wrong."""

import itertools
import re
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
import soundfile
from tone_model import spoken, tone_model
from tones import RATE_HZ

from asr import audio

pytest.importorskip("uvicorn", reason="the service needs asr[serve]")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from chromium import NEEDS_CHROMIUM, TEXT, drop, launcher, words  # noqa: E402
from service import running  # noqa: E402

pytestmark = NEEDS_CHROMIUM
KEEP_MICROPHONE = """
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wish) => (window.heard = await ask(wish));
  window.AudioContext = class extends AudioContext { constructor() { super(); window.context = this; } };
"""


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., "playwright.Browser"]]:
    with launcher() as start:
        yield start


@pytest.fixture(scope="module")
def browser(launch) -> Iterator["playwright.Browser"]:
    """A browser whose microphone hears beeps."""
    with launch() as opened:
        yield opened


@pytest.fixture
def microphone(launch, tmp_path) -> Iterator["playwright.Browser"]:
    """A browser whose microphone hears TEXT again and again, as a busy machine may lose a part of it."""
    path = tmp_path / "microphone.wav"
    samples = np.pad(spoken(TEXT, seed=1, pause_s=0.3), (RATE_HZ // 2, 5 * RATE_HZ))
    soundfile.write(path, audio.resample(samples, RATE_HZ, 48_000), 48_000)
    with launch(f"--use-file-for-fake-audio-capture={path}") as opened:
        yield opened


def wait_for_text(page) -> None:
    """Until the page shows TEXT while it listens."""
    try:
        page.wait_for_function(
            "() => /abc\\s+dab\\s+c/.test(`${stable.textContent} ${unstable.textContent}`)",
            timeout=90_000,
        )
    except playwright.TimeoutError:
        pytest.fail(f"heard {page.inner_text('#live')!r}; {page.inner_text('#status')}")


def test_words_appear_while_they_are_said(microphone):
    seen = """() => {
      window.seen = [];
      const note = () => seen.push([stable.textContent, unstable.textContent]);
      new MutationObserver(note).observe(live, { childList: true, subtree: true });
    }"""
    with running(tone_model(bidirectional=False)) as service, microphone.new_context() as context:
        page = context.new_page()
        page.goto(service.url)
        page.wait_for_function("() => document.querySelector('#model').textContent")
        page.evaluate(seen)
        page.click("#record")
        wait_for_text(page)
        assert page.get_attribute("#record", "aria-pressed") == "true"
        assert "asr_open_streams 1" in httpx.get(f"{service.url}/metrics", trust_env=False).text
        page.click("#record")
        said_in_the_end = words(page)
        assert said_in_the_end[-3:] == TEXT.split()
        assert page.locator("#live").is_hidden()
        status = rf"recording: {len(said_in_the_end)} words in 0:\d\d\.\d$"
        assert re.match(status, page.inner_text("#status"))
        said = page.evaluate("() => seen.map(([stable, unstable]) => [stable, unstable])")
        page.click(".word >> nth=0")
        page.wait_for_function("() => document.querySelector('#audio').currentTime > 0.4")
        assert "asr_open_streams 0" in httpx.get(f"{service.url}/metrics", trust_env=False).text
    stable = [text for text, _ in said]
    assert all(later.startswith(text) for text, later in itertools.pairwise(stable))
    assert any("a" in text and "dab" not in text for text in stable), "words come one after the other"


def test_the_token_goes_along_with_a_stream(microphone):
    token = "geheim ü?>"  # holds what base64 writes as + and /
    with (
        running(tone_model(bidirectional=False), token=token) as service,
        microphone.new_context() as context,
    ):
        page = context.new_page()
        page.goto(service.url)
        page.wait_for_selector("#token:visible")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.querySelector('#model').textContent")
        page.click("#record")
        page.wait_for_function("() => document.querySelector('#stable').textContent.includes('a')")
        page.click("#record")
        assert TEXT.startswith(words(page)[0])  # stopped as soon as something was certain
        assert "transcribed in" not in page.inner_text("#status"), "it was uploaded instead"


def test_a_recording_is_uploaded_where_the_stream_breaks_off(microphone):
    with (
        running(tone_model(bidirectional=False)) as service,
        microphone.new_context() as context,
    ):
        page = context.new_page()
        page.route_web_socket("**/v1/audio/stream*", lambda socket: socket.close())
        page.goto(service.url)
        page.wait_for_function("() => document.querySelector('#model').textContent")
        page.click("#record")
        page.wait_for_function("() => /0:0[4-9]/.test(document.querySelector('#status').textContent)")
        page.click("#record")
        assert set(words(page)) & set(TEXT.split())
        assert "transcribed in" in page.inner_text("#status")


def test_the_words_of_a_file_dropped_during_a_recording_are_not_shown_with_it(browser):
    with running(tone_model(bidirectional=False)) as service, browser.new_context() as context:
        page = context.new_page()
        held: list[playwright.Route] = []
        page.route("**/v1/audio/transcriptions", lambda route: held.append(route))
        page.goto(service.url)
        page.wait_for_function("() => document.querySelector('#model').textContent")
        page.click("#record")
        page.wait_for_function("() => /Recording/.test(document.querySelector('#status').textContent)")
        with page.expect_request("**/v1/audio/transcriptions"):
            drop(page)
        page.click("#record")
        page.wait_for_function("() => /^recording: /.test(document.querySelector('#status').textContent)")
        shown = page.inner_text("#status"), page.locator(".word").all_inner_texts()
        held[0].continue_()
        page.wait_for_timeout(1000)
        assert (page.inner_text("#status"), page.locator(".word").all_inner_texts()) == shown
        assert page.locator("#busy").is_hidden()


def test_a_page_that_browsers_do_not_trust_says_why_it_has_no_microphone(browser):
    with running(tone_model()) as service, browser.new_context() as context:
        page = context.new_page()
        page.goto(service.url.replace("127.0.0.1", "elsewhere.test"))
        page.click("#record")
        page.wait_for_selector("#error:visible")
        why = "No microphone: browsers allow it only on https and on localhost."
        assert page.inner_text("#error") == why


@pytest.mark.parametrize("streams", [False, True])
def test_a_microphone_that_is_unplugged_ends_the_recording(browser, streams):
    with running(tone_model(bidirectional=not streams)) as service, browser.new_context() as context:
        page = context.new_page()
        page.add_init_script(KEEP_MICROPHONE)
        page.goto(service.url)
        page.wait_for_function("() => document.querySelector('#model').textContent")
        page.click("#record")
        page.wait_for_function("() => /0:00.[3-9]/.test(document.querySelector('#status').textContent)")
        # stopped by a script, it does not say so by itself
        page.evaluate(
            "() => heard.getTracks().forEach((t) => { t.stop(); t.dispatchEvent(new Event('ended')); })"
        )
        page.wait_for_function("() => /^recording: /.test(document.querySelector('#status').textContent)")
        assert page.inner_text("#record") == "Record"
        assert page.locator("#live").is_hidden() and page.locator("#result").is_visible()


def test_a_recording_that_cannot_begin_leaves_no_microphone_on(browser):
    fails = "AudioWorklet.prototype.addModule = async () => { throw new Error('not today'); };"
    with running(tone_model(bidirectional=False)) as service, browser.new_context() as context:
        page = context.new_page()
        page.add_init_script(KEEP_MICROPHONE + fails)
        page.goto(service.url)
        page.wait_for_function("() => document.querySelector('#model').textContent")
        page.click("#record")
        page.wait_for_selector("#error:visible")
        assert page.inner_text("#error") == "The microphone cannot be recorded: not today"
        assert page.evaluate("() => [context.state, ...heard.getTracks().map((t) => t.readyState)]") == [
            "closed",
            "ended",
        ]
        assert page.locator("#live").is_hidden()
