"""Transcripts in files: every format read and paired, bad input refused with its place."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from asr.errors import ScoringError
from asr.jobs.score import score_files, show_score
from asr.scoring import pairing, score
from asr.scoring.transcripts import guess_format, parse

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


def test_plain_text_is_paired_line_by_line_and_empty_lines_count(write: Write) -> None:
    found = pairing.read(write("ref", "the cat\n\na dog\n"), write("hyp", "the bat\nx\na dog"))
    assert found.formats == ["plain", "plain"]
    assert (found.references, found.hypotheses) == (["the cat", "", "a dog"], [["the bat", "x", "a dog"]])
    assert found.ids is None


def test_subtitles_are_one_utterance_however_they_are_cut(write: Write) -> None:
    reference = write(
        "right.srt", "1\n00:00:01,000 --> 00:00:02,000\nthe cat\n\n2\n00:00:09,000 --> 00:00:10,000\nsat\n"
    )
    hypothesis = write("heard.vtt", "WEBVTT\n\n00:01.100 --> 00:10.000\nthe <i>bat</i> sat\n")
    found = pairing.read(reference, hypothesis)
    assert (found.references, found.hypotheses) == (["the cat sat"], [["the bat sat"]])
    heard = write("heard.txt", "the cat sat\n")
    assert pairing.read(reference, heard).hypotheses == [["the cat sat"]]
    reference.write_text(reference.read_text(), encoding="utf-16")  # as Praat writes what is not in ASCII
    assert pairing.read(reference, heard).references == ["the cat sat"]
    with pytest.raises(ScoringError, match="has 1 lines"):
        pairing.read(reference, write("lines.txt", "the cat\nsat\n"))


@pytest.mark.parametrize(
    ("reference", "hypothesis"),
    [
        ("utt-1 the cat\nutt-2 a dog\nutt-3\n", "utt-3 x\nutt-1 the bat\n\nutt-2 a dog\n"),  # Kaldi
        ("utt-1\tthe cat\nutt-2\ta dog\nutt-3\n", "utt-3\tx\nutt-1\tthe bat\nutt-2\ta dog\n"),
        ("the cat (utt-1)\na dog (utt-2)\n(utt-3)\n", "x (utt-3)\nthe bat (utt-1)\na dog (utt-2)\n"),  # trn
        (
            '{"id": "utt-1", "text": "the cat"}\n{"audio_filepath": "a/utt-2.wav", "text": "a dog"}\n'
            '{"id": "utt-3", "text": ""}\n',
            '{"id": "utt-3", "pred_text": "x"}\n{"id": "utt-1", "text": "no", "pred_text": "the bat"}\n'
            '{"audio_filepath": "b/utt-2.flac", "text": "a dog"}\n',
        ),
        ("utt-1 the cat\nutt-2 a dog\nutt-3\n", "x (utt-3)\nthe bat (utt-1)\na dog (utt-2)\n"),  # mixed
    ],
)
def test_utterances_with_ids_are_paired_by_id_in_any_order(
    write: Write, reference: str, hypothesis: str
) -> None:
    found = pairing.read(write("ref", reference), write("hyp", hypothesis))
    assert found.ids == ["utt-1", "utt-2", "utt-3"]
    assert found.references == ["the cat", "a dog", ""]
    assert found.hypotheses == [["the bat", "a dog", "x"]]


@pytest.mark.parametrize("ids", [("a", "b"), ("utt-1", "utt-2")])
def test_what_we_transcribed_is_paired_with_a_manifest_and_with_our_ctm(
    write: Write, ids: tuple[str, str]
) -> None:
    rows = [{"id": n, "audio_filepath": f"c/{f}.wav", "text": "t"} for n, f in zip(ids, "ab", strict=True)]
    manifest = write("m.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    ours = write("ours.jsonl", '{"audio": "b", "text": "y z"}\n{"audio": "a", "text": "x"}\n')
    ctm = write("ours.ctm", "a 1 0.1 0.2 x 0.9\nb 1 0.1 0.2 y 0.9\nb 1 0.4 0.2 z 0.9\n")
    found = pairing.read(manifest, ours, ctm)
    assert (found.ids, found.hypotheses) == ([*ids], [["x", "y z"], ["x", "y z"]])
    assert pairing.read(ours, ctm).hypotheses == [["y z", "x"]]


def test_parts_of_a_recording_are_told_apart_by_where_they_start(write: Write) -> None:
    texts = {0: "yes no", 2.5: "no", 11.126: "yes yes"}
    rows = [
        {"audio_filepath": "c/talk.wav", "offset": at, "duration": 2, "text": t} for at, t in texts.items()
    ]
    heard = [{"id": f"talk_{at:.2f}", "pred_text": text} for at, text in reversed(texts.items())]
    found = pairing.read(
        write("r.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
        write("h.jsonl", "".join(json.dumps(row) + "\n" for row in heard)),
    )
    assert found.hypotheses == [["yes no", "no", "yes yes"]]
    assert found.ids == ["talk_0.00", "talk_2.50", "talk_11.13"]


def test_recordings_in_which_a_ctm_has_no_word_are_empty(write: Write) -> None:
    ctm = write("h.ctm", "utt-2 1 0 1 yes 0.9\n")
    rows = [{"audio_filepath": f"c/utt-{n}.wav", "text": "yes"} for n in "12"]
    named = [{"id": f"x{n}", **row} for n, row in enumerate(rows)]
    for reference in (
        write("r.txt", "utt-1 yes\nutt-2 yes\n"),
        write("r.trn", "yes (utt-1)\nyes (utt-2)\n"),
        write("paths.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
        write("named.jsonl", "".join(json.dumps(row) + "\n" for row in named)),
    ):
        found = pairing.read(reference, ctm)
        assert found.hypotheses == [["", "yes"]]
        assert found.notes == [f"taken as empty, as {ctm} has no word of theirs: utterances: 1"]
    with pytest.raises(ScoringError, match="ids do not match"):
        pairing.read(write("r.txt", "utt-1 yes\nutt-3 yes\n"), ctm)
    with pytest.raises(ScoringError, match="ids do not match"):
        pairing.read(write("r.txt", "utt-1 yes\nutt-3 yes\n"), write("h.ctm", ""))


@pytest.mark.parametrize("content", ['{\n  "text": "one"\n}\n', '[\n  {"text": "one"}\n]\n'])
def test_json_over_several_lines_is_refused(write: Write, content: str) -> None:
    with pytest.raises(ScoringError, match=r"is JSON over several lines, .* expected: give JSONL"):
        pairing.read(write("ref", "one\n" * 3), write("hyp", content))
    assert pairing.read(write("ref", "one\n"), write("h.json", '{"text": "one"}')).hypotheses == [["one"]]


def test_numbers_are_ids_if_both_sides_share_them_and_words_are_not(write: Write) -> None:
    assert pairing.read(write("r", "001 a\n002 b\n"), write("h", "002 b\n001 a\n")).ids == ["001", "002"]
    assert pairing.read(write("r", "the cat\na dog\n"), write("h", "the bat\na dog\n")).ids is None
    assert pairing.read(write("r", "1 apple\ntwo pears\n"), write("h", "1 apple\ntwo bears\n")).ids is None
    letters = [f"{a}{b}" for a in "abcde" for b in "fghij"]
    lines = [f"{name} word\n" for name in letters]
    assert pairing.read(write("r", "".join(lines)), write("h", "".join(lines[::-1]))).ids == letters


def test_texts_that_begin_with_small_numbers_have_no_ids_and_others_can_be_called_plain(write: Write) -> None:
    spoken = write("r", "1 2 3\n4 5 6\n"), write("h", "1 9 3\n4 5 6\n")
    assert pairing.read(*spoken).references == ["1 2 3", "4 5 6"]
    assert pairing.read(spoken[0], write("h", "1 2 3\n5 5 6\n")).hypotheses == [["1 2 3", "5 5 6"]]
    coded = write("r", "3d printing\nmp3 files\n"), write("h", "3d painting\nmp4 files\n")
    with pytest.raises(ScoringError, match=r"ids do not match.*say --plain"):
        pairing.read(*coded)
    found = pairing.read(*coded, plain=True)
    assert (found.ids, found.hypotheses) == (None, [["3d painting", "mp4 files"]])
    with pytest.raises(ScoringError, match=r"3 lines, .* has 2"):
        pairing.read(write("r", "mp3\nmp4\nmp5\n"), coded[1], plain=True)
    laughing = "so (laughs)\nwell (laughs)\n"
    assert pairing.read(write("r", laughing), write("h", laughing), plain=True).references[0] == "so (laughs)"


@pytest.mark.parametrize("words", [["7", "3", "5"], [f"{a}{b}" for a in "abcde" for b in "fghij"]])
def test_single_words_are_no_ids_even_if_both_sides_have_the_same(write: Write, words: list[str]) -> None:
    turned = [*words[1:], words[0]]
    found = pairing.read(write("r", "\n".join(words) + "\n"), write("h", "\n".join(turned) + "\n"))
    assert (found.ids, found.references, found.hypotheses) == (None, words, [turned])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("h.jsonl", '{"id": 102, "pred_text": "c"}\n{"id": "101", "pred_text": "a x"}\n'),
        ("h.trn", "c (102)\na x (101)\n"),
        ("h.ctm", "102 1 0 1 c\n101 1 0 1 a\n101 1 1 1 x\n"),
    ],
)
def test_first_words_that_are_the_ids_of_the_other_file_are_ids(write: Write, name: str, text: str) -> None:
    found = pairing.read(write("r", "101 a b\n102 c\n"), write(name, text))
    assert (found.ids, found.references) == (["101", "102"], ["a b", "c"])
    assert found.hypotheses == [["a x", "c"]]
    turned = pairing.read(write(name, text.replace("pred_text", "text")), write("r", "101 a b\n102 c\n"))
    assert (turned.ids, turned.hypotheses) == (["102", "101"], [["c", "a b"]])
    three = pairing.read(write("r", "101 a b\n102 c\n"), write(name, text), write("b", "102 y\n101 a\n"))
    assert three.hypotheses == [["a x", "c"], ["a", "y"]]
    with pytest.raises(ScoringError, match="no id, but the other file has ids"):
        pairing.read(write("r", "101 a b\n103 c\n"), write(name, text))


def test_an_id_ends_at_a_space_or_a_tab_whichever_comes_first(write: Write) -> None:
    found = pairing.read(write("r", "utt-1 the\tcat\nutt-2\ta dog\n"), write("h", "utt-1 \tx\nutt-2\ty\n"))
    assert (found.ids, found.hypotheses) == (["utt-1", "utt-2"], [["x", "y"]])
    assert found.references == ["the\tcat", "a dog"]


STM = """;; a comment
f1 A ann 0.00 2.00 <o,f0,female> hello there world
f1 A inter 2.00 3.00 <o> ignore_time_segment_in_scoring
f1 A bob 3.00 5.00 <o,f0,male> good { morning / day } to you
f2 1 ann 1.00 4.00 last one
"""


def test_a_ctm_is_cut_at_the_segments_of_an_stm_as_sclite_cuts_it(write: Write) -> None:
    # sclite 2.4.10 prints for these files: "hello there WORLD/WORD", "EARLY last one LATE" (two insertions),
    # "good day to you OUTSIDE" (one insertion); the ignored segment takes "noise" with it.
    ctm = """;; a comment
f1 A 0.10 0.30 hello 0.9
f1 A 0.90 0.30 word 0.4
f1 A 0.50 0.30 there 0.8
f1 A 2.20 0.30 noise 0.4
f1 A 2.90 0.25 good 0.4
f1 A 3.50 0.30 day 0.4
f1 A 3.90 0.30 to 0.4
f1 A 4.20 0.30 you 0.4
f1 A 6.20 0.30 outside 0.4
f2 1 0.20 0.30 early 0.4
f2 1 1.20 0.30 last 0.4
f2 1 1.60 0.30 one 0.4
f2 1 9.60 0.30 late 0.4
"""
    found = pairing.read(write("r.stm", STM), write("h.ctm", ctm))
    assert found.hypotheses == [["hello there word", "good day to you outside", "early last one late"]]
    assert found.speakers == ["ann", "bob", "ann"]
    assert found.durations_s == [2.0, 2.0, 3.0]
    assert found.confidences[0][0] == (0.9, 0.8, 0.4)
    assert [note[-5:] for note in found.notes] == ["tm: 1", "tm: 1"]
    counts = [
        (u.substitutions, u.deletions, u.insertions)
        for u in score(found.references, *found.hypotheses).utterances
    ]
    assert counts == [(1, 0, 0), (0, 0, 1), (0, 0, 2)]


def test_words_between_segments_go_to_the_next_as_sclite_sends_them(write: Write) -> None:
    # Seen in sclite 2.4.10: "a" / "X Y Z b", and with overlapping segments "a X Y" / "Z".
    gap = pairing.read(
        write("r.stm", "f A s 0 2 a\nf A s 4 6 b\n"),
        write("h.ctm", "f A 0.5 .2 a\nf A 2.0 .2 x\nf A 2.4 .2 y\nf A 3.6 .2 z\nf A 4.5 .2 b\n"),
    )
    assert gap.hypotheses == [["a", "x y z b"]]
    overlap = pairing.read(
        write("r.stm", "f A s 0 2 a\nf A q 1 3 b\n"),
        write("h.ctm", "f A 0.5 .2 a\nf A 1.2 .2 x\nf A 1.8 .2 y\nf A 2.6 .2 z\n"),
    )
    assert overlap.hypotheses == [["a x y", "z"]]


def test_a_segment_without_words_is_deleted_and_ctm_alone_is_an_utterance_a_recording(write: Write) -> None:
    found = pairing.read(write("r.stm", STM), write("h.ctm", "f2 1 1.2 .3 last\n"))
    assert found.hypotheses == [["", "", "last"]]
    kaldi = write("r", "f1 a b\nf2 c\n"), write("h.ctm", "f2 1 0 1 c\nf1 1 2 1 b\nf1 1 0 1 a\n")
    assert pairing.read(*kaldi).hypotheses == [["a b", "c"]]


def test_what_manifests_know_comes_along(write: Write, tmp_path: Path) -> None:
    line = {"audio_filepath": "a.wav", "text": "yes no", "speaker": "ann", "duration": 1.5}
    words = {"id": "a", "pred_text": "yes no", "words": [["yes", 0, 1, 0.9], ["no", 1, 2, 0.5]]}
    found = pairing.read(write("r.jsonl", json.dumps(line)), write("h.jsonl", json.dumps(words)))
    assert (found.speakers, found.durations_s, found.confidences) == (["ann"], [1.5], [[(0.9, 0.5)]])
    assert found.audio == {"a": tmp_path / "a.wav"}


def test_confidences_of_the_words_of_segments_count_too(write: Write) -> None:
    said = [{"word": " yes", "start": 0, "end": 1, "probability": 0.9}], [{"word": "no", "probability": 0.5}]
    line = {"id": "a", "text": "yes no", "segments": [{"text": "", "words": words} for words in said]}
    reference = write("r.jsonl", '{"id": "a", "text": "yes no"}')
    found = pairing.read(reference, write("h.jsonl", json.dumps(line)))
    assert found.confidences == [[(0.9, 0.5)]]
    line["segments"][1]["words"] = [{"word": "no"}]
    assert pairing.read(reference, write("h.jsonl", json.dumps(line))).confidences == [[None]]


@pytest.mark.parametrize("place", ["", ".", "/"])
def test_a_recording_without_a_name_is_none(write: Write, place: str) -> None:
    said = "".join(json.dumps({"audio_filepath": place, "text": text}) + "\n" for text in "xy")
    found = pairing.read(write("r.jsonl", said), write("h.jsonl", said))
    assert (found.ids, found.audio, found.hypotheses) == (None, {}, [["x", "y"]])


@pytest.mark.parametrize("duration", ["-1", "NaN", "Infinity", "1e400", "1" + "0" * 400, "true", '"2"', "[]"])
def test_durations_that_are_none_are_left_out(write: Write, duration: str) -> None:
    lines = [
        '{"id": "u-1", "text": "a", "duration": ' + duration + "}",
        '{"id": "u-2", "text": "", "duration": 0}',
    ]
    said = "\n".join(lines)
    heard = '{"id": "u-1", "pred_text": "a", "duration": 3}\n{"id": "u-2", "pred_text": "a"}\n'
    found = pairing.read(write("r.jsonl", said), write("h.jsonl", heard))
    assert found.durations_s == [3.0, 0.0]
    show_score(*score_files(write("r.jsonl", said), write("h", "u-1 b\nu-2 a\n")))


def test_speakers_can_come_from_a_file(write: Write) -> None:
    files = write("r", "u-1 a\nu-2 b\n"), write("h", "u-1 a\nu-2 b\n")
    assert pairing.read(*files, utt2spk=write("s", "u-1 ann\nu-2 bob\n")).speakers == ["ann", "bob"]
    with pytest.raises(ScoringError, match="names no speaker for 'u-2'"):
        pairing.read(*files, utt2spk=write("s", "u-1 ann\n"))


@pytest.mark.parametrize(
    ("reference", "hypothesis", "message"),
    [
        (("r", "a\nb\n"), ("h", "a\n"), r"r has 2 lines, .*h has 1"),
        (("r", "u1 a\nu2 b\n"), ("h", "u1 a\nu3 b\n"), r"Only in .*r: 'u2'. Only in .*h: 'u3'"),
        (("r", "u1 a\nu2 b\n"), ("h", "hello\nworld\n"), "seem to begin with ids"),
        (("r", "x (u1)\ny (u2)\n"), ("h", "hello\nworld\n"), r"h, line 1: no id, but the other file has ids"),
        (("r", "x (u1)\ny (u1)\n"), ("h", "x (u1)\n"), r"r, line 2: id 'u1' stands already at .*r, line 1"),
        (("r", b"caf\xc3\xa9\ncaf\xe9\n"), ("h", "a\nb\n"), r"r, line 2: byte 0xe9 is not UTF-8"),
        (
            ("r.jsonl", '{"text": "a"}\n{"txt": "b"}\n'),
            ("h", "a\nb\n"),
            r"line 2: expected text; the keys are txt",
        ),
        (("r.jsonl", '{"text": "a"}\n{oops\n'), ("h", "a\nb\n"), r"line 2: not JSON"),
        (("r.jsonl", "[" * 100_000), ("h", "a\n"), r"line 1: not JSON"),
        (("r.trn", "a (u1)\nb\n"), ("h.trn", "a (u1)\n"), r"line 2: expected an id in parentheses"),
        (("r.stm", "f A s 0\n"), ("h.ctm", ""), r"line 1: expected file, channel, speaker"),
        (("r.stm", "f A s 5 2 a\n"), ("h.ctm", ""), r"line 1: ends at 2.0 s before"),
        (("r.stm", "f A s 0 2 a\n"), ("h.ctm", "g A 0 1 a\n"), r"line 1: recording 'g'.*'f A'"),
        (("r.stm", "f A s 0 2 a\n"), ("h.ctm", "f A zero 1 a\n"), r"line 1: 'zero' is no number"),
        (("r.stm", "f A s 0 nan a\n"), ("h.ctm", "f A 0 1 a\n"), r"line 1: 'nan' is no number"),
    ],
)
def test_bad_input_is_refused_with_its_place(
    write: Write, reference: tuple[str, str], hypothesis: tuple[str, str], message: str
) -> None:
    with pytest.raises(ScoringError, match=message):
        pairing.read(write(*reference), write(*hypothesis))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="nowhere: No such file"):
        pairing.read(tmp_path / "nowhere", tmp_path / "nowhere")


def test_formats_are_known_by_suffix_and_by_contents() -> None:
    assert guess_format(Path("x.STM"), []) == "stm"
    assert guess_format(Path("x.txt"), ["a (u)", "", "(v)"]) == "trn"
    assert guess_format(Path("x.trn"), ["a (u)"], plain=True) == "trn"
    assert guess_format(Path("x.json"), ['{"text": "a"}']) == "jsonl"
    assert guess_format(Path("x.txt"), ['{ "text": "a" }', '{"text": "b"}']) == "jsonl"
    assert guess_format(Path("text"), ["u a"]) is None
    with pytest.raises(ScoringError, match="expected one of plain, kaldi"):
        parse(Path("x"), [], "srt")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reference", "style", "is_said"),
    [
        ("THE CAT\n", "none", True),
        ("THE CAT\n", "basic", False),
        ("the cat\n", "none", False),
        ("XY\n", "none", False),
    ],
)
def test_texts_that_differ_in_case_throughout_are_noticed(
    write: Write, capsys, reference, style, is_said
) -> None:
    score_files(write("ref", reference), write("hyp", "the cat\n"), style=style)
    assert ("try --style basic" in capsys.readouterr().err) == is_said
