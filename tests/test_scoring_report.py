"""The report: complete, self-contained, and alive in a real browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.errors import ScoringError
from asr.scoring import Score, score
from asr.scoring.breakdown import hotwords
from asr.scoring.charts import curves, training
from asr.scoring.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=4000"),
    "--dump-dom",
]


def example() -> Score:
    return score(
        ["the cat sat", "a dog <b>barks</b> & runs", "</script><script>alert(1)</script>", "yes"],
        ["the bat sat", "a dog runs runs", "x", "yes"],
        ids=["u-1", "u-2", "u-3", "u-4"],
        speakers=["ann lee", "bob", "ann lee", "bob"],
        durations_s=[1.5, 3.0, 7.0, 0.5],
        confidences=[[0.9, 0.4, 0.95], [0.9, 0.8, 0.7, 0.6], [0.2], [0.5]],
        processing_s=1.2,
    )


def embedded(path: Path) -> dict[str, list[dict[str, object]]]:
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)
    assert found
    data: dict[str, list[dict[str, object]]] = json.loads(found[1])
    return data


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(example(), page, title="a <title> & more")
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"https?:|//[a-z]+\.|@import|url\(", text)
    assert "<title>a &lt;title&gt; &amp; more</title>" in text
    assert text.count("<script") == 2 and text.count("</script>") == 2, "transcripts cannot open scripts"
    assert example().signature in text


def test_the_data_of_the_page_rebuild_the_alignments(tmp_path: Path) -> None:
    write_report(example(), tmp_path / "report.html")
    first, second, third, fourth = embedded(tmp_path / "report.html")["utterances"]
    assert first["t"] == ["the", ["cat", "bat"], "sat"]
    assert (second["n"], second["S"], second["D"], second["I"]) == (5, 1, 1, 0)
    assert third["t"] == [["</script><script>alert(1)</script>", "x"]]
    assert (fourth["speaker"], fourth["s"], fourth["c"]) == ("bob", 0.5, [0.5])


def test_recordings_are_linked_where_they_are_and_left_out_where_they_are_not(tmp_path: Path) -> None:
    (tmp_path / "my audio").mkdir()
    (tmp_path / "exp").mkdir()
    recording = tmp_path / "my audio" / "ü #1.wav"
    soundfile.write(recording, np.zeros(800, dtype=np.float32), 8000)
    write_report(
        example(), tmp_path / "exp" / "report.html", audio={"u-1": recording, "u-2": tmp_path / "gone.wav"}
    )
    links = [u["a"] for u in embedded(tmp_path / "exp" / "report.html")["utterances"]]
    assert links == ["../my%20audio/%C3%BC%20%231.wav", None, None, None]


def test_of_a_part_of_a_recording_only_that_part_is_played(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(800, dtype=np.float32), 8000)
    ids = [u.id for u in example().utterances]
    page = tmp_path / "report.html"
    write_report(example(), page, audio=dict.fromkeys(ids, tmp_path / "a.wav"), starts_s={ids[3]: 2.0})
    assert [u["a"] for u in embedded(page)["utterances"]] == ["a.wav", "a.wav", "a.wav", "a.wav#t=2.00,2.50"]


def test_a_score_without_anything_known_makes_a_page(tmp_path: Path) -> None:
    write_report(score("a", "a"), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not any(f"<h2>{title}</h2>" in text for title in ("Speakers", "Calibration", "Training"))


def test_training_curves_come_from_the_history(tmp_path: Path) -> None:
    steps = [{"kind": "step", "updates": n, "epoch": 1, "loss": 12 / n} for n in range(1, 17)]
    epoch = {"kind": "epoch", "updates": 16, "epoch": 1, "loss": 1.0, "dev_loss": 1.5, "wer": 0.5, "cer": 0.2}
    write_report(example(), tmp_path / "report.html", history=[*steps, epoch])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "training 0.75 at 16" in text and "development 1.5 at 16" in text
    assert "WER 50% at 1" in text and "CER 20% at 1" in text


def test_a_short_training_shows_its_loss_by_epochs() -> None:
    step = [{"kind": "step", "updates": 20, "loss": 9.0}]
    epochs = [
        {"kind": "epoch", "epoch": n, "updates": 9 * n, "loss": 5.0 / n, "dev_loss": 3.0} for n in (1, 2, 3)
    ]
    assert training(step + epochs) == training(epochs)
    many = [{"kind": "step", "updates": n, "loss": 9.0 / n} for n in range(1, 20)]
    assert training(many + epochs) != training(epochs)


def test_curves_survive_odd_numbers() -> None:
    assert training([]) == training([{"kind": "epoch", "wer": None}]) == ""
    assert "polyline" in curves("x", [("a", [(1.0, 0.5)])], log=False, unit="%")
    assert "WER 0% at 1" in training([{"kind": "epoch", "epoch": 1, "wer": 0.0, "cer": 0.0}])
    assert "polyline" in curves("x", [("a", [(1.0, 1e-9), (2.0, 1e9), (3.0, 0.0)])], log=True, unit="")
    assert curves("x", [("a", [(1.0, float("inf")), (2.0, float("nan"))])], log=True, unit="") == ""


def test_a_page_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScoringError, match="cannot be written"):
        write_report(example(), tmp_path / "file" / "report.html")


DRIVE = """<script>
const seen = {};
const rows = () => [...document.querySelectorAll("#rows td.id:nth-child(2)")].map((cell) => cell.textContent);
const click = (selector) => document.querySelector(selector).click();
const type = (text) => { at("search").value = text; at("search").dispatchEvent(new Event("input")); };
try {
  seen.wrong = rows();
  click("[data-filter=all]"); seen.all = rows();
  click("[data-filter=del]"); seen.deletions = rows();
  click("[data-filter=all]");
  click("th[data-key=id]"); seen.up = rows();
  click("th[data-key=id]"); seen.down = rows();
  seen.arrow = document.querySelector("th[data-key=id]").getAttribute("aria-sort");
  type("BAT"); seen.search = rows();
  type("cat->bat"); seen.confusion = rows();
  type("speaker:ann_lee"); seen.speaker = rows();
  type("nothing like it"); seen.nothing = rows(); seen.count = at("count").textContent;
  click("button[data-find='cat→bat']"); seen.clicked = rows();
  seen.text = document.querySelector("td.text").textContent.trim();
  seen.color = getComputedStyle(document.querySelector("td.text .sub")).backgroundColor;
  const before = getComputedStyle(document.body).backgroundColor;
  click("#theme"); seen.themed = getComputedStyle(document.body).backgroundColor !== before;
  seen.columns = [...document.querySelectorAll("th")].map((head) => head.textContent);
} catch (error) { seen.error = String(error); }
const say = () => { document.title = "seen:" + JSON.stringify(seen); };
addEventListener("error", (event) => { seen.error = event.message; say(); });
addEventListener("securitypolicyviolation", (event) => { seen.error = event.violatedDirective; say(); });
player.addEventListener("loadedmetadata", () => { seen.duration = player.duration; say(); });
click(".play");
say();
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page was not opened")
def test_the_page_works_in_a_real_browser(tmp_path: Path) -> None:
    recording = tmp_path / "a b.wav"
    soundfile.write(recording, np.zeros(4000, dtype=np.float32), 8000)
    page = tmp_path / "report.html"
    found = example()
    write_report(found, page, audio={"u-1": recording}, recalls=hotwords(found, ["cat"]))
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", DRIVE), encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
    title = re.search(r"<title>seen:(.*?)</title>", dom, re.S)
    assert title, f"the script in the page did not finish: {dom[:2000]}"
    seen = json.loads(title[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    assert "error" not in seen, seen["error"]
    assert seen["wrong"] == ["u-2", "u-3", "u-1"], "most errors first, then the higher rate"
    assert seen["all"] == ["u-2", "u-3", "u-1", "u-4"]
    assert seen["deletions"] == ["u-2"]
    assert seen["up"] == ["u-1", "u-2", "u-3", "u-4"] and seen["down"] == seen["up"][::-1]
    assert seen["arrow"] == "descending"
    assert seen["search"] == seen["confusion"] == seen["clicked"] == ["u-1"]
    assert sorted(seen["speaker"]) == ["u-1", "u-3"]
    assert (seen["nothing"], seen["count"]) == ([], "0 of 4")
    assert seen["text"] == "the cat→bat sat"
    assert seen["color"] not in ("", "rgba(0, 0, 0, 0)") and seen["themed"]
    assert seen["columns"][1:] == [
        *(
            "Utterance",
            "Speaker",
            "WER",
            "Errors",
            "S",
            "D",
            "I",
            "Words",
            "Seconds",
            "Conf.",
            "Said and heard",
        )
    ]
    assert seen["duration"] == pytest.approx(0.5), "the recording is loaded from disk"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page was not opened")
def test_a_part_of_a_recording_that_was_heard_can_be_played_again(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    soundfile.write(tmp_path / "a.wav", np.zeros(16000, dtype=np.float32), 8000)
    found = score("a", "b", ids=["u"], durations_s=[0.2])
    write_report(found, tmp_path / "page.html", audio={"u": tmp_path / "a.wav"}, starts_s={"u": 0.1})
    with playwright.sync_playwright() as api:
        page = api.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        ).new_page()
        page.goto((tmp_path / "page.html").as_uri())
        for _ in range(2):
            page.click(".play")
            assert page.inner_text(".play") == "■"
            page.wait_for_selector(".play:not(.on)", timeout=10_000)
