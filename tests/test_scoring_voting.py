"""A vote on the words of several transcripts: who wins, and what files it takes."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from asr.cli import app, main
from asr.errors import ScoringError
from asr.jobs.vote import vote_files
from asr.scoring.voting import align, vote
from asr.transcript import Word


def said(text: str, *confidences: float) -> list[Word]:
    """Words a second long, all as sure as the last that is given."""
    sure = [*confidences, *[confidences[-1]] * len(text.split())]
    return [Word(word, i, i + 1.0, c) for i, (word, c) in enumerate(zip(text.split(), sure))]  # noqa: B905


def winner(*texts: list[Word]) -> str:
    return " ".join(word.text for word in vote(texts))


TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8).map(" ".join)


@given(TEXTS, TEXTS)
def test_two_texts_are_aligned_with_the_fewest_edits(one: str, other: str) -> None:
    slots = align([said(one, 0.9), said(other, 0.9)])
    assert " ".join(slot[0].text for slot in slots if slot[0]) == one
    assert " ".join(slot[1].text for slot in slots if slot[1]) == other
    wrong = sum((slot[0] and slot[0].text) != (slot[1] and slot[1].text) for slot in slots)
    assert wrong == Levenshtein.distance(one.split(), other.split())


@given(TEXTS, st.integers(1, 4))
def test_what_all_say_is_said(text: str, count: int) -> None:
    [*words] = vote([said(text, 0.6)] * count)
    assert [w.text for w in words] == text.split()
    assert all(w.confidence == pytest.approx(0.6) for w in words)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_every_text_stands_in_the_slots_in_its_order(texts: list[str]) -> None:
    slots = align([said(text, 0.5) for text in texts])
    for n, text in enumerate(texts):
        assert " ".join(word.text for slot in slots if (word := slot[n])) == text


def test_the_surer_word_wins_and_two_that_agree_outvote_a_surer_one() -> None:
    assert winner(said("the cat", 0.9, 0.4), said("the hat", 0.9, 0.8)) == "the hat"
    assert winner(said("the cat", 0.6), said("the hat", 0.9), said("the cat", 0.5)) == "the cat"


def test_a_word_that_others_have_not_needs_more_confidence_than_their_silence() -> None:
    assert winner(said("yes well no", 0.9, 0.6, 0.9), said("yes no", 0.9)) == "yes well no"
    assert winner(said("yes well no", 0.9, 0.4, 0.9), said("yes no", 0.9)) == "yes no"
    assert winner(said("yes well no", 0.9, 0.8, 0.9), said("yes no", 0.9), said("yes no", 0.9)) == "yes no"


def test_times_are_those_of_the_surest_and_confidence_is_the_mean_of_all() -> None:
    one, two = Word("a", 0.0, 0.5, 0.6), Word("a", 0.1, 0.4, 0.8)
    assert vote([[one], [two], []]) == [Word("a", 0.1, 0.4, pytest.approx(1.4 / 3))]
    assert vote([[], []]) == [] and vote([]) == []


def test_words_keep_their_order_where_the_times_of_the_surest_texts_contradict_it() -> None:
    one = [Word("a", 1.00, 1.06, 0.5), Word("dog", 1.06, 1.46, 0.9)]
    two = [Word("a", 1.10, 1.15, 0.9), Word("dog", 1.15, 1.55, 0.5)]
    assert [(w.text, w.start_s, w.end_s) for w in vote([one, two])] == [("a", 1.1, 1.15), ("dog", 1.1, 1.46)]
    brief = [Word("a", 1.00, 1.06, 0.5), Word("dog", 1.06, 1.08, 0.9)]
    assert [(w.start_s, w.end_s) for w in vote([brief, two])] == [(1.1, 1.15), (1.1, 1.1)]


def line(name: str, text: str, confidence: float, **more: object) -> str:
    words = [[w, i, i + 0.5, confidence] for i, w in enumerate(text.split())]
    return json.dumps({"id": name, "pred_text": text, "text": "what was said", "words": words, **more}) + "\n"


def test_files_of_any_kind_are_voted_on_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text(line("u1", "the cat sat", 0.4, duration=3.0) + line("u2", "", 0.4))
    spoken = [("the", 0.9), ("hat", 0.8), ("sat", 0.9)]
    Path("b.ctm").write_text("".join(f"u1 1 {i} 0.5 {w} {c}\n" for i, (w, c) in enumerate(spoken)))
    words = [{"word": f" {w}", "start": 0, "end": 1, "probability": 0.3} for w in ("the", "bat")]
    whisper = {"audio": "u1", "text": " the bat", "segments": [{"words": words}]}
    Path("c.jsonl").write_text(json.dumps(whisper) + "\n" + json.dumps({"id": "u2", "text": ""}) + "\n")
    with pytest.raises(SystemExit) as end:
        app(["combine", "a.jsonl", "b.ctm", "c.jsonl", "-o", "d.jsonl"])
    assert end.value.code == 0
    first, second = map(json.loads, Path("d.jsonl").read_text().splitlines())
    assert (first["pred_text"], first["text"], first["duration"]) == ("the hat sat", "what was said", 3.0)
    assert [w[0] for w in first["words"]] == ["the", "hat", "sat"]
    assert (second["id"], second["pred_text"], second["words"]) == ("u2", "", [])
    vote_files([Path("d.jsonl"), Path("b.ctm")], Path("e.ctm"))
    assert [row.split()[4] for row in Path("e.ctm").read_text().splitlines()] == ["the", "hat", "sat"]


def test_the_json_of_one_recording_is_named_by_its_file(tmp_path: Path) -> None:
    for folder, text, sure in (("ours", "the cat", 0.4), ("whisper", "the hat", 0.8)):
        (tmp_path / folder).mkdir()
        words = [{"word": f" {w}", "start": 0.0, "end": 0.5, "probability": sure} for w in text.split()]
        lines = json.dumps({"text": f" {text}", "segments": [{"words": words}]}, indent=2)
        (tmp_path / folder / "talk.json").write_text(lines)
    vote_files([tmp_path / "ours" / "talk.json", tmp_path / "whisper" / "talk.json"], tmp_path / "both.ctm")
    assert [row.split()[::4] for row in (tmp_path / "both.ctm").read_text().splitlines()] == [
        ["talk", "the"],
        ["talk", "hat"],
    ]


def test_texts_of_scripts_without_spaces_stay_without(tmp_path: Path) -> None:
    words = [[c, i, i + 1, 0.9] for i, c in enumerate("今天")]
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "u", "pred_text": "今天", "words": words}) + "\n")
    vote_files([tmp_path / "a.jsonl"] * 2, tmp_path / "b.jsonl")
    assert json.loads((tmp_path / "b.jsonl").read_text())["pred_text"] == "今天"


@pytest.mark.parametrize("first", ["hello", ""])
def test_words_are_joined_by_spaces_even_where_the_first_text_has_none(tmp_path: Path, first: str) -> None:
    for name, text in (("a", first), ("b", "hello there"), ("c", "hello there")):
        (tmp_path / f"{name}.jsonl").write_text(line("u", text, 0.9))
    vote_files([tmp_path / f"{name}.jsonl" for name in "abc"], tmp_path / "d.jsonl")
    found = json.loads((tmp_path / "d.jsonl").read_text())
    assert (found["pred_text"], len(found["words"])) == ("hello there", 2)
    (tmp_path / "e.ctm").write_text("u 1 0 0.5 hello 0.9\nu 1 1 0.5 there 0.9\n")
    vote_files([tmp_path / "a.jsonl", tmp_path / "e.ctm", tmp_path / "e.ctm"], tmp_path / "f.jsonl")
    assert json.loads((tmp_path / "f.jsonl").read_text())["pred_text"] == "hello there"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.ctm", "u1 1 0.0 0.5 the\n", "b.ctm, line 1: a word without a confidence"),
        ("b.ctm", "u1 1 0.0 0.5 the 95\n", "b.ctm, line 1: confidence 95; expected one from 0 to 1"),
        ("b.ctm", "u1 1 0.0 0.5 the -3\n", "b.ctm, line 1: confidence -3"),
        ("b.jsonl", '{"id": "u1", "text": "1", "words": [[1, 0, 1, 0.9]]}\n', "expected words with start"),
        ("b.ctm", "u1 A 0 1 the 1\nu1 B 0 1 cat 1\n", "b.ctm, line 2: channel B is another one of u1"),
        ("b.jsonl", '{"id": "u1", "text": "the cat"}\n', "0 words for the text 'the cat'"),
        ("b.jsonl", line("u2", "the", 0.5), "a.jsonl lacks recordings that others have: 'u2'"),
        ("b.jsonl", '{"id": "u1", "text": "a", "words": [["a", 0]]}\n', "expected words with start, end"),
        ("b.jsonl", line("u1", "a", 7), "expected times in seconds and probabilities"),
        ("b.jsonl", '{"id": "u1", "text": "a", "segments": {"a": 1}}\n', "expected words with start"),
        ("b.jsonl", '{"id": "u1", "text": "a", "words": [["a", null, 1, 1]]}\n', "expected words with start"),
        ("b.jsonl", line("u1", "a", 0.5) * 2, "stands already"),
        ("b.jsonl", '{"text": "a"}\n', "expected an id"),
        ("b.json", '{"text": "a", \n "words": []}\n', "0 words for the text 'a'"),
        ("b.json", '{"text": ', "b.json, line 1: not JSON"),
        ("b.txt", "the cat\n", "expected transcripts as .ctm, .jsonl, .json"),
    ],
)
def test_what_cannot_be_voted_on_is_refused_with_its_place(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / "a.jsonl").write_text(line("u1", "the cat", 0.5))
    (tmp_path / name).write_text(content)
    with pytest.raises(ScoringError, match=message):
        vote_files([tmp_path / "a.jsonl", tmp_path / name], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(ScoringError, match="is written as"):
        vote_files([tmp_path / "a.jsonl"], tmp_path / "out.txt")
    with pytest.raises(ScoringError, match=r"a\.jsonl alone: a vote needs .* two systems"):
        vote_files([tmp_path / "a.jsonl"], tmp_path / "out.jsonl")


def test_suffixes_may_be_in_capitals_and_transcripts_are_not_mixed_with_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.CTM", "b.ctm"):
        Path(name).write_text("u 1 0 0.5 hello 0.9\n")
    for words, status in ((["a.CTM", "b.ctm"], 0), (["a.CTM", "exp/model"], 1)):
        monkeypatch.setattr("sys.argv", ["asr", "combine", *words, "-o", "c.CTM"])
        with pytest.raises(SystemExit) as end:
            main()
            raise SystemExit(0)
        assert end.value.code == status
    assert Path("c.CTM").read_text() == "u 1 0.000 0.500 hello 0.9000\n"
    assert "expected either transcripts (.ctm, .jsonl, .json) or models" in " ".join(
        capsys.readouterr().err.split()
    )
