"""The page in a real browser: a file dropped, words heard and saved, the keyboard, a phone, errors."""

import json
import re
from collections.abc import Iterator

import pytest
from tone_model import tone_model

pytest.importorskip("uvicorn", reason="the service needs asr[serve]")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from chromium import NEEDS_CHROMIUM, TALK, TEXT, drop, launcher, words  # noqa: E402
from service import running  # noqa: E402

pytestmark = NEEDS_CHROMIUM

COUNT_PLAYS = (
    "() => { window.plays = 0; document.querySelector('#audio').addEventListener('play', () => plays++); }"
)


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with launcher() as launch, launch() as opened:
        yield opened


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(tone_model(), upload_bytes=2_000_000) as service:
        yield service.url


@pytest.fixture
def page(browser, url) -> Iterator["playwright.Page"]:
    """The page, opened; a script that fails or asks another host fails the test."""
    with browser.new_context(viewport={"width": 1000, "height": 800}) as context:
        opened = context.new_page()
        complaints: list[str] = []
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("request", lambda r: r.url.startswith((url, "blob:", "data:")) or complaints.append(r.url))
        opened.set_default_timeout(20_000)
        opened.goto(url)
        yield opened
        assert complaints == []


def test_a_dropped_file_becomes_words_with_times_and_shade(page):
    assert page.locator("#result").is_hidden()
    drop(page)
    said = tone_model().transcribe(TALK)
    assert words(page) == TEXT.split() == [w.text for w in said.words]
    times = [float(t.split(":")[1]) for t in page.locator(".word small").all_inner_texts()]
    assert times == pytest.approx([w.start_s for w in said.words], abs=0.051)
    shades = page.locator(".word").evaluate_all(
        "all => all.map((w) => +w.style.getPropertyValue('--unsure'))"
    )
    assert shades == pytest.approx(
        [min(1, max(0, (0.95 - w.confidence) / 0.55)) for w in said.words], abs=1e-3
    )
    assert re.match(r"my talk\.wav: 3 words in 0:0\d\.\d, transcribed in", page.inner_text("#status"))
    drawn = page.evaluate(
        """() => {
          const pen = document.querySelector("#canvas").getContext("2d");
          return new Set(pen.getImageData(0, 0, 900, 100).data).size;
        }"""
    )
    assert drawn > 2, "the waveform is drawn"


def test_a_word_that_is_clicked_is_heard_and_only_it(page):
    drop(page)
    said = tone_model().transcribe(TALK).words[1]
    words(page)
    page.click(".word >> nth=1")
    page.wait_for_function("() => document.querySelector('#audio').paused")
    at_s = page.evaluate("() => document.querySelector('#audio').currentTime")
    assert said.end_s - 0.01 <= at_s < said.end_s + 0.5
    assert page.locator(".word.now span").all_inner_texts() == [said.text]
    assert said.text in page.inner_text("#detail")
    box = page.locator("#wave").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 10)
    page.wait_for_function("() => !document.querySelector('#audio').paused")
    half_s = page.evaluate("() => document.querySelector('#audio').currentTime")
    assert half_s >= tone_model().transcribe(TALK).duration_s / 2 - 0.1


def test_all_can_be_done_with_the_keyboard(page, tmp_path):
    path = tmp_path / "my talk.wav"
    path.write_bytes(TALK)
    choosing: list[playwright.FileChooser] = []
    page.on("filechooser", lambda chooser: choosing.append(chooser))
    page.keyboard.press("Tab")
    for _ in range(20):  # Playwright takes a while until it catches what would open
        if not choosing:
            page.keyboard.press("Enter")
            page.wait_for_timeout(100)
    choosing[0].set_files(path)
    words(page)
    focused = "() => document.activeElement.innerText.split('\\n')[0] || document.activeElement.id"
    visited = []
    for _ in range(8):  # record, four ways to save, the waveform, play, words
        page.keyboard.press("Tab")
        visited.append(page.evaluate(focused))
    assert visited == ["Record", "srt", "vtt", "json", "Copy text", "wave", "Play", "abc"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "c"
    page.evaluate(COUNT_PLAYS)
    page.keyboard.press("Enter")
    page.wait_for_function("() => plays === 1 && document.querySelector('#audio').paused")
    page.focus("#wave")
    page.keyboard.press("Home")
    page.wait_for_function("() => document.querySelector('#wave').ariaValueText === '0:00.0'")
    page.keyboard.press("Space")
    page.wait_for_function("() => plays === 2")
    page.keyboard.press("Space")
    page.wait_for_function("() => document.querySelector('#audio').paused")


@pytest.mark.parametrize("form", ["srt", "vtt", "json"])
def test_what_is_saved_is_what_the_service_writes(page, url, form):
    drop(page)
    words(page)
    with page.expect_download() as saving:
        page.click(f"#{form}")
    assert saving.value.suggested_filename == f"my talk.{form}"
    saved = saving.value.path().read_text(encoding="utf-8")
    wanted = "verbose_json" if form == "json" else form
    asked = page.request.post(
        f"{url}/v1/audio/transcriptions",
        multipart={
            "file": {"name": "a.wav", "mimeType": "audio/wav", "buffer": TALK},
            "response_format": wanted,
        },
    )
    assert (json.loads(saved) if form == "json" else saved) == (
        asked.json() if form == "json" else asked.text()
    )


def test_a_voice_is_recorded_and_transcribed(page):
    page.click("#record")
    page.wait_for_function(
        "() => /Recording 0:0(0.[3-9]|[1-9])/.test(document.querySelector('#status').textContent)"
    )
    assert page.get_attribute("#record", "aria-pressed") == "true"
    page.click("#record")
    page.wait_for_function("() => /^recording: /.test(document.querySelector('#status').textContent)")
    assert page.locator("#result").is_visible()


def test_a_phone_shows_everything_without_scrolling_sideways(browser, url):
    with browser.new_context(viewport={"width": 360, "height": 640}, has_touch=True) as context:
        page = context.new_page()
        page.goto(url)
        drop(page)
        words(page)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        sizes = page.locator("button:visible").evaluate_all(
            """all => all.map((button) => {
              const { width, height } = button.getBoundingClientRect();
              return Math.min(width, height);
            })"""
        )
        assert min(sizes) >= 24
        page.tap(".word >> nth=2")
        page.wait_for_function("() => document.querySelector('#audio').currentTime > 0")


def test_errors_are_shown_and_the_next_file_is_taken(page):
    drop(page, b"this is no sound", "notes.wav")
    page.wait_for_selector("#error:visible")
    assert "notes.wav is not a recording" in page.inner_text("#error")
    drop(page, b"0" * 1000, "large.wav", copies=2100)
    page.wait_for_function("() => /large.wav/.test(document.querySelector('#error').textContent)")
    assert re.search("larger than 1.9|refused the upload", page.inner_text("#error"))
    assert page.locator("#result").is_hidden()
    drop(page)
    assert words(page) == TEXT.split()
    assert page.locator("#error").is_hidden()


def test_a_token_is_asked_for_and_used(browser):
    with (
        running(tone_model(), token="geheim") as service,
        browser.new_context() as context,
    ):
        page = context.new_page()
        page.goto(service.url)
        drop(page)
        page.wait_for_selector("#token:visible")
        page.fill("#token", "geheim")
        page.keyboard.press("Enter")
        assert words(page) == TEXT.split()
        assert page.locator("#token").is_hidden()


def test_light_and_dark_can_both_be_read(browser, url):
    for scheme in ("light", "dark"):
        with browser.new_context(color_scheme=scheme) as context:
            page = context.new_page()
            page.goto(url)
            ink, paper = page.evaluate(
                "() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]; }"
            )
            assert contrast(ink, paper) > 7
            assert contrast(page.locator("#model").evaluate("e => getComputedStyle(e).color"), paper) > 4.5


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2 for two colours such as `rgb(1, 2, 3)`."""

    def luminance(color: str) -> float:
        parts = [int(c) / 255 for c in re.findall(r"\d+", color)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
