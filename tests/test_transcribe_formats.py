"""Subtitles, tables and JSON, read back by parsers that are written from the definitions of the formats."""

import json
import re
from itertools import pairwise

import pytest

from asr.jobs.formats import FORMATS, LONGEST_CUE_CHARACTERS, LONGEST_CUE_S, cues
from asr.transcript import Segment, Transcript, Word


def transcript(*segments: list[tuple[str, float, float]]) -> Transcript:
    made = []
    for words in segments:
        said = tuple(Word(text, start_s, end_s, 0.75) for text, start_s, end_s in words)
        made.append(Segment(" ".join(w.text for w in said), said[0].start_s, said[-1].end_s, said))
    return Transcript(
        " ".join(s.text for s in made), tuple(w for s in made for w in s.words), tuple(made), 4000.0, -3.0
    )


TALK = transcript(
    [("one", 0.0, 0.25), ("<two>", 0.5, 0.75), ("&", 2.0, 2.0)],
    [("naïve", 3599.9996, 3600.5), ("3", 3601.0, 3601.25)],
)
EMPTY = Transcript("", duration_s=1.0)


def seconds(stamp: str, point: str) -> float:
    hours, minutes, rest = re.fullmatch(
        rf"(\d\d+):([0-5]\d):([0-5]\d{re.escape(point)}\d{{3}})", stamp
    ).groups()
    return 3600 * int(hours) + 60 * int(minutes) + float(rest.replace(",", "."))


def parse_cues(lines: list[str], point: str, *, numbered: bool) -> list[tuple[float, float, str]]:
    """Blocks parted by empty lines: a counter from 1 (SubRip), `start --> end`, one or more lines of text."""
    found = []
    blocks = [b.split("\n") for b in "\n".join(lines).strip("\n").split("\n\n")] if lines else []
    for i, block in enumerate(blocks, 1):
        if numbered:
            assert block.pop(0) == str(i)
        start, end = (seconds(stamp, point) for stamp in block[0].split(" --> "))
        assert end > start and (not found or start >= found[-1][0])
        assert block[1:] and all(block[1:])
        found.append((start, end, "\n".join(block[1:])))
    return found


def parse_srt(text: str) -> list[tuple[float, float, str]]:
    return parse_cues(text.split("\n") if text else [], ",", numbered=True)


def parse_vtt(text: str) -> list[tuple[float, float, str]]:
    head, blank, *lines = text.split("\n")
    assert (head, blank) == ("WEBVTT", "")
    found = parse_cues(lines if any(lines) else [], ".", numbered=False)
    assert not any(re.search(r"<|>|&(?!amp;|lt;|gt;)|-->", said) for *_, said in found)
    return [
        (start, end, said.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
        for start, end, said in found
    ]


SHOWN = [(0.0, 0.75, "one <two>"), (2.0, 2.001, "&"), (3600.0, 3601.25, "naïve 3")]


@pytest.mark.parametrize(("form", "parse"), [("srt", parse_srt), ("vtt", parse_vtt)])
def test_subtitles_read_back_as_what_was_said(form, parse):
    read = parse(FORMATS[form](TALK, name="a"))
    assert [text for *_, text in read] == [text for *_, text in SHOWN]
    for (start, end, _), (wanted_start, wanted_end, _) in zip(read, SHOWN, strict=True):
        assert (start, end) == pytest.approx((wanted_start, wanted_end), abs=6e-4)
    by_word = parse(FORMATS[form](TALK, name="a", words=True))
    assert [text for *_, text in by_word] == ["one", "<two>", "&", "naïve", "3"]
    assert parse(FORMATS[form](EMPTY, name="a")) == []


def test_cues_can_be_read_and_hold_every_word_once():
    words = [(f"word{i}", 0.4 * i, 0.4 * i + 0.3) for i in range(200)]
    shown = cues(transcript(words))
    assert [w.text for cue in shown for w in cue.words] == [text for text, *_ in words]
    assert all(cue.end_s - cue.start_s <= LONGEST_CUE_S for cue in shown)
    assert all(len(cue.text) <= LONGEST_CUE_CHARACTERS for cue in shown)
    assert all(a.end_s <= b.start_s for a, b in pairwise(shown))


def test_a_script_without_spaces_gets_none():
    said = tuple(Word(c, float(i), i + 0.5, 1.0) for i, c in enumerate("你好"))
    talk = Transcript("你好", said, (Segment("你好", 0.0, 1.5, said),), 2.0)
    assert [cue.text for cue in cues(talk)] == ["你好"]


def test_ctm_has_six_fields_a_word():
    lines = FORMATS["ctm"](TALK, name="my talk").splitlines()
    rows = [line.split(" ") for line in lines]
    assert all(len(row) == 6 and row[:2] == ["my_talk", "1"] for row in rows)
    assert [row[4] for row in rows] == ["one", "<two>", "&", "naïve", "3"]
    for row, word in zip(rows, TALK.words, strict=True):
        assert float(row[2]) == pytest.approx(word.start_s, abs=6e-4)
        assert float(row[2]) + float(row[3]) == pytest.approx(word.end_s, abs=2e-3)
        assert float(row[5]) == word.confidence
    assert FORMATS["ctm"](EMPTY, name="a") == ""


def test_tsv_counts_whole_milliseconds():
    head, *rows = FORMATS["tsv"](TALK, name="a").splitlines()
    assert head == "start\tend\ttext"
    assert [row.split("\t") for row in rows] == [
        [str(round(1000 * start)), str(round(1000 * end)), text] for start, end, text in SHOWN
    ]


def test_json_holds_segments_and_on_request_words():
    plain = json.loads(FORMATS["json"](TALK, name="a"))
    assert plain["text"] == TALK.text
    assert "words" not in plain["segments"][0]
    [line] = FORMATS["jsonl"](TALK, name="a", words=True).splitlines()
    words = [w for s in json.loads(line)["segments"] for w in s["words"]]
    assert [(w["word"], w["start"], w["end"], w["probability"]) for w in words] == [
        (w.text, w.start_s, w.end_s, w.confidence) for w in TALK.words
    ]
