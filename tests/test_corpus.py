"""Manifests and tables: what is read is what was written, and what is wrong is named with its line."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr import audio
from asr.corpus.manifest import Utterance, find_problem, join_named, read_manifest, write_manifest
from asr.corpus.tables import read_table
from asr.errors import ManifestError


def wav(path, duration_s=0.5, rate_hz=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(duration_s * rate_hz), np.int16), rate_hz)
    return path


def manifest(tmp_path, *lines):
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines), encoding="utf-8")
    return path


def test_a_relative_path_is_relative_to_the_manifest(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    path = manifest(tmp_path / "deep", {"audio_filepath": "../clips/a.wav", "text": "x", "duration": 1})
    monkeypatch.chdir("/")
    assert read_manifest(path)[0].audio_filepath.resolve() == (tmp_path / "clips" / "a.wav").resolve()
    monkeypatch.chdir(tmp_path)
    assert read_manifest("deep/m.jsonl")[0].audio_filepath.is_absolute()


def test_an_absolute_path_stays(tmp_path):
    path = manifest(tmp_path, {"audio_filepath": "/elsewhere/a.wav", "text": "x", "duration": 1})
    assert read_manifest(path)[0].audio_filepath == Path("/elsewhere/a.wav")


def test_a_missing_duration_is_read_from_the_header_and_0_where_there_is_none(tmp_path):
    wav(tmp_path / "a.wav", 0.75)
    path = manifest(
        tmp_path, {"audio_filepath": "a.wav", "text": "x"}, {"audio_filepath": "none.wav", "text": "x"}
    )
    assert [u.duration_s for u in read_manifest(path)] == [0.75, 0.0]


def test_names_of_files_become_ids_as_short_as_they_are_unique(tmp_path):
    names = ["x/a.wav", "y/a.wav", "y/b.c.wav", "z/y/a.wav"]
    path = manifest(tmp_path, *({"audio_filepath": n, "text": "t", "duration": 1} for n in names))
    assert [u.id for u in read_manifest(path)][1:] == [f"{tmp_path.name}/y/a", "b.c", "z/y/a"]
    assert read_manifest(path)[0].id == "x/a"
    names = ["x/a.wav", "x/a.wav", "y/a.wav", "b.wav", "b.wav"]  # a longer path would only tell where it lies
    path = manifest(tmp_path, *({"audio_filepath": n, "text": "t", "duration": 1} for n in names))
    assert [u.id for u in read_manifest(path)] == ["x/a", "x/a", "y/a", "b", "b"]


def test_parts_of_a_recording_are_read_alone_and_named_by_where_they_start(tmp_path):
    samples = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)
    for name in ("talk.wav", "other/talk.wav"):
        audio.write(tmp_path / name, samples, 8000)
    line = {"audio_filepath": "talk.wav", "text": "x", "duration": 0.25}
    path = manifest(
        tmp_path,
        {**line, "offset": 0},
        {**line, "offset": 0.5},
        {**line, "offset": None},
        {**line, "id": "b"},
    )
    parts = read_manifest(path)
    assert [(u.id, u.start_s) for u in parts] == [
        ("talk_0.00", 0.0),
        ("talk_0.50", 0.5),
        ("talk", None),
        ("b", None),
    ]
    for u, truth in zip(parts, (samples[:2000], samples[4000:6000], samples, samples), strict=True):
        assert u.read(8000) == pytest.approx(truth, abs=1e-4)
    write_manifest(tmp_path / "again.jsonl", parts)
    assert read_manifest(tmp_path / "again.jsonl") == parts
    others = read_manifest(
        manifest(
            tmp_path, {**line, "offset": 0.5}, {**line, "offset": 0.5, "audio_filepath": "other/talk.wav"}
        )
    )
    assert len({u.id for u in others}) == 2 and all(u.id.endswith("talk_0.50") for u in others)
    moved = [replace(u, start_s=0.75) for u in parts[:2]]
    assert [u.id for u in join_named([("a", parts[:2]), ("b", moved)])][2:] == ["b/talk_0.00", "b/talk_0.50"]


def test_byte_order_marks_empty_lines_and_carriage_returns_are_no_lines(tmp_path):
    line = '{"audio_filepath": "a.wav", "text": "größe", "duration": 1, "id": 7, "speaker": 3}'
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n   \n".encode())
    (u,) = read_manifest(path)
    assert (u.id, u.text, u.speaker) == ("7", "größe", "3")


WRONG = {
    "not json": "not JSON",
    '{"audio_filepath": "a.wav", "text": "half': "not JSON",
    "[1, 2]": "expected a JSON object",
    '{"text": "x"}': "audio_filepath must be a text; the keys are text",
    '{"audio_filepath": "a.wav", "transcript": "x"}': "text must be a text; the keys are audio_filepath, tr",
    '{"audio_filepath": "a.wav", "text": 5}': "text must be a text",
    '{"audio_filepath": "a.wav", "text": "x", "duration": "3 s"}': "number of seconds",
    '{"audio_filepath": "a.wav", "text": "x", "duration": true}': "number of seconds",
    '{"audio_filepath": "a.wav", "text": "x", "duration": -1}': "impossible",
    '{"audio_filepath": "a.wav", "text": "x", "duration": NaN}': "impossible",
    '{"audio_filepath": "a.wav", "text": "x", "duration": 1' + "0" * 400 + "}": "impossible",
    '{"audio_filepath": "a.wav", "text": "x", "duration": 1, "offset": -2.5}': "offset -2.5 is impossible",
    '{"audio_filepath": "a.wav", "text": "x", "duration": 1, "offset": "2"}': "offset must be a number",
    '{"audio_filepath": "a.wav", "text": "x", "offset": 2.5}': "offset without a duration",
    '{"audio_filepath": "a.wav", "text": "x", "duration": 0, "offset": 0}': "offset without a duration",
    '{"audio_filepath": "a.wav", "text": "x", "duration": 1, "speaker": [1]}': "speaker must be",
    '{"audio_filepath": "a.wav", "text": "\\ud800", "duration": 1}': "UTF-8",
    '{"audio_filepath": "a.wav", "text": "\\uD83D", "duration": 1}': "UTF-8",
    '{"audio_filepath": "\\ud800.wav", "text": "x", "duration": 1}': "UTF-8",
    '{"audio_filepath": "a.wav", "text": "x", "duration": 1, "id": "\\ud800"}': "UTF-8",
    '{"audio_filepath": "a.wav", "text": "x", "duration": 1, "speaker": "\\ud800"}': "UTF-8",
    "[" * 100_000: "not JSON",
}


@pytest.mark.parametrize("line", WRONG, ids=lambda line: line[:60])
def test_a_wrong_line_is_quoted_with_file_and_number(tmp_path, line):
    path = manifest(tmp_path, {"audio_filepath": "a.wav", "text": "x", "duration": 1}, "", line)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert f"{path}, line 3: " in message and WRONG[line] in message and line[:30] in message
    assert len(message) < 600


def test_bytes_that_are_no_utf8_are_an_error_with_their_line(tmp_path):
    path = tmp_path / "m.jsonl"
    for encoding in ("latin-1", "utf-16", "utf-16-le"):
        path.write_bytes('{"audio_filepath": "a.wav", "text": "größe"}\n'.encode(encoding) * 2)
        for keep_flawed in (False, True):
            with pytest.raises(ManifestError, match="line 1: not JSON in UTF-8"):
                read_manifest(path, keep_flawed=keep_flawed)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "."])
def test_a_manifest_that_is_not_there_is_an_error(tmp_path, name):
    with pytest.raises(ManifestError, match="expected a JSONL manifest"):
        read_manifest(tmp_path / name)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(TEXTS, st.floats(0, 1e6), st.none() | TEXTS.filter(bool)), max_size=5))
def test_what_is_written_is_read_again(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("m")
    utterances = [
        Utterance(f"u{i}", folder / f"{i}.wav" if i % 2 else Path(f"/far/{i}.wav"), seconds, text, speaker)
        for i, (text, seconds, speaker) in enumerate(rows)
    ]
    write_manifest(folder / "m.jsonl", utterances)
    assert read_manifest(folder / "m.jsonl") == utterances
    assert list(folder.iterdir()) == [folder / "m.jsonl"]


def test_a_folder_with_its_manifest_can_be_moved(tmp_path):
    wav(tmp_path / "old" / "clips" / "a.wav")
    u = Utterance("a", tmp_path / "old" / "clips" / "a.wav", 0.5, "x")
    write_manifest(tmp_path / "old" / "m.jsonl", [u])
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_manifest(tmp_path / "new" / "m.jsonl")[0].audio_filepath.is_file()


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "m.jsonl"
    write_manifest(path, [Utterance("a", Path("/a.wav"), 1.0, "x")])
    before = path.read_bytes()

    def broken():
        yield Utterance("b", Path("/b.wav"), 1.0, "y")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(path, broken())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_name_that_is_no_utf8_survives(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xf6\xdfe.wav"))
    path.write_bytes(wav(tmp_path / "a.wav").read_bytes())
    write_manifest(tmp_path / "m.jsonl", [Utterance("a", path, 0.5, "x")])
    (u,) = read_manifest(tmp_path / "m.jsonl")
    assert u.audio_filepath == path and find_problem(u, set()) is None


@pytest.mark.parametrize("name", ["x" * 300 + ".wav", "ü" * 300, "nul\0.wav"])
def test_a_name_that_no_file_can_have_is_that_of_a_missing_recording(tmp_path, name):
    (u,) = read_manifest(manifest(tmp_path, {"audio_filepath": name, "text": "x"}))
    (tmp_path / "t.csv").write_text(f"path,text\n{name},x\n", encoding="utf-8")
    of_table = replace(*read_table(tmp_path / "t.csv"), id="b")
    assert [p and p.kind for p in (find_problem(u, set()), find_problem(of_table, set()))] == ["missing"] * 2


def test_problems_show_without_opening_the_recordings(tmp_path):
    good, seen = wav(tmp_path / "a.wav"), set()
    us = [
        Utterance("a", good, 0.5, "x"),
        Utterance("a", good, 0.5, "y"),
        Utterance("b", good, 0.5, "  "),
        Utterance("c", tmp_path / "none.wav", 0.5, "z"),
    ]
    kinds = [problem and problem.kind for problem in (find_problem(u, seen) for u in us)]
    assert kinds == [None, "duplicate id", "empty transcript", "missing"]


TABLES = {
    "a.csv": 'path,text,speaker\nc/a.wav,"one, two",ann\n',
    "b.csv": "File;Transcript;Client_ID\nc/a.wav;one, two;ann\n",
    "c.tsv": "client_id\tpath\tsentence\textra\nann\ta.wav\tone, two\t\n",
    "d.csv": "speaker|audio_file|transcription\nann|c/a.wav|one, two\n",
    "f.csv": ' File Name , sentence , Speaker ID\nc/a.wav , "one, two", ann\n',
    "g.csv": '"sep=;"\r\npath;sentence, spoken;text;"who, when";speaker\r\nc/a.wav;x;one, two;y;ann\r\n',
    "h.csv": "\ufeffSEP=;\npath;text;speaker\nc/a.wav;one, two;ann\n",
    "e.csv": '\ufeffaudio_filepath,sentence,speaker_id\r\nc/a.wav,"one, two",ann\r\n\r\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_many_dialects_give_the_same_utterance(tmp_path, name):
    wav(tmp_path / "clips" / "a.wav")
    (tmp_path / "c").symlink_to(tmp_path / "clips")
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    (u,) = read_table(tmp_path / name)
    assert (u.id, u.text, u.speaker) == ("a", "one, two", "ann")
    assert u.audio_filepath.is_file()


def test_rows_of_a_table_may_be_parts_of_recordings(tmp_path):
    for columns, fields in {
        "offset,duration": ("1.5,2", ",3", ","),
        "Start Time,End Time": ("1.5,3.5", ",3", ","),
        "start,duration,end": ("1.5,,3.5", ",3,", ",,"),
        "offset;duration": ("1,5;2,0", ";3", ";"),
    }.items():
        by = ";" if ";" in columns else ","
        rows = [f"a.wav{by}x{by}{given}\n" for given in fields]
        (tmp_path / "a.csv").write_text("".join([f"file{by}text{by}{columns}\n", *rows]))
        found = [(u.id, u.start_s, u.duration_s) for u in read_table(tmp_path / "a.csv")]
        assert found == [("a_1.50", 1.5, 2.0), ("a_0.00", 0.0, 3.0), ("a", None, 0.0)], columns


def test_a_quote_in_a_tsv_is_a_quote_and_a_line_separator_is_text(tmp_path):
    (tmp_path / "a.tsv").write_text('path\tsentence\na.wav\t"Yes\u2028he said\n', encoding="utf-8")
    assert read_table(tmp_path / "a.tsv")[0].text == '"Yes\u2028he said'


WRONG_TABLES = {
    "name,words\na,b\n": r"line 1: the columns are name, words; one of audio_filepath, path",
    "path,words\na,b\n": r"line 1: .* one of text, transcript",
    "path,text\na.wav,one, two\n": r"line 2: 3 fields, expected 2 \(path, text\): a\.wav,one,two",
    "path,text\nb.wav\n": r"line 2: 1 fields",
    'path,text\na.wav,"never closed\n': r"line 2: unexpected end of data",
    "": r"line 1: the columns are none",
    "path,text,offset\na.wav,x,1\n": r"line 1: .*; one of duration, end, end_time was expected",
    "path,text,offset,duration\na.wav,x,one,2\n": r"line 2: could not convert string to float: 'one'",
    "path,text,offset,duration\na.wav,x,1,\n": r"line 2: offset 1\.0 without a duration or an end",
    "path,text,offset,duration\na.wav,x,0,\n": r"line 2: offset 0\.0 without a duration or an end",
    "path,text,start,end\na.wav,x,2,2\n": r"line 2: offset 2\.0 and duration 0\.0 are impossible",
    'path,text,offset,duration\na.wav,x,"1,5",2\n': r"line 2: could not convert string to float: '1,5'",
    "path,text\n,x\n": r"line 2: no recording is named: ,x",
    "sep=;\r\npath;text\r\na.wav\r\n": r"line 3: 1 fields",
    "path,text,offset,duration\na.wav,x,1,0\n": r"line 2: offset 1\.0 and duration 0\.0 are impossible",
}


@pytest.mark.parametrize("content", WRONG_TABLES)
def test_a_wrong_table_is_quoted_with_file_and_line(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ManifestError, match=WRONG_TABLES[content]):
        read_table(tmp_path / "a.csv")


def test_a_table_in_place_of_a_manifest_is_called_one(tmp_path):
    (tmp_path / "a.csv").write_text("path,text\na.wav,x\n")
    with pytest.raises(ManifestError, match=r"a\.csv is a table: expected JSONL"):
        read_manifest(tmp_path / "a.csv")


def test_a_table_that_is_not_there_or_no_text_is_an_error(tmp_path):
    with pytest.raises(ManifestError, match="expected a table"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_bytes(b"path,text\na.wav,gr\xf6\xdfe\n")
    with pytest.raises(ManifestError, match="not text in UTF-8"):
        read_table(tmp_path / "a.csv")
