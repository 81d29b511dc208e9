"""`asr align`: one recording, a whole manifest, words cut apart, and what cannot be aligned."""

import json
import math
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from test_cli import asr, trained  # noqa: F401 (fixtures)
from tone_model import spoken
from tones import RATE_HZ

from asr import audio, load
from asr.corpus.manifest import Utterance, read_manifest
from asr.errors import ConfigError
from asr.features import FeaturesConfig
from asr.jobs.align import align_words, read_text
from asr.jobs.cutting import Aligned, between_pauses
from asr.pronunciation import Lexicon
from asr.recognizer import Recognizer
from asr.text import Alphabet
from asr.transcript import Word

TEXTS = ("ab ca", "b", "dab ab ca")


@pytest.fixture
def manifest(tmp_path) -> Path:
    """Three recordings, one of them at another rate, and one that is no recording."""
    lines = []
    for i, text in enumerate(TEXTS):
        sound = spoken(text, seed=i)
        rate_hz = RATE_HZ
        if i == 2:
            sound, rate_hz = audio.resample(sound, RATE_HZ, 16000), 16000
        audio.write(tmp_path / f"{i}.wav", sound, rate_hz)
        lines.append({"id": f"x/{i}", "audio_filepath": f"{i}.wav", "text": text, "speaker": "ann"})
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    lines.append({"audio_filepath": "broken.wav", "text": "ab"})
    lines.append({"audio_filepath": "0.wav", "text": "a?z", "id": "strange"})
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_one_recording_in_each_format(asr, trained, tmp_path, manifest):  # noqa: F811
    status, out, _ = asr("align", tmp_path / "0.wav", "ab ca", "--model", trained)
    (first, second) = [line.split() for line in out.splitlines()]
    assert (status, first[0], first[4], second[4]) == (0, "0", "ab", "ca")
    assert float(first[2]) + float(first[3]) <= float(second[2])
    status, _, _ = asr("align", tmp_path / "0.wav", "ab ca", "-m", trained, "-f", "json", "-o", "words.json")
    words = json.loads((tmp_path / "words.json").read_text())
    assert (status, [w["word"] for w in words["words"]]) == (0, ["ab", "ca"])
    assert all(0 < w["probability"] == w["confidence"] <= 1 for w in words["words"])
    how = ("-f", "textgrid", "-o", "-")  # as without -o
    status, out, _ = asr("align", tmp_path / "0.wav", "ab ca", "-m", trained, *how)
    assert not Path("-").exists()
    assert (status, re.findall(r'text = "(.+)"', out)) == (0, ["ab", "ca"])


def test_a_manifest_becomes_one_ctm_or_many_files_and_what_fails_is_named(
    asr,  # noqa: F811
    trained,  # noqa: F811
    manifest,
    tmp_path,
):
    status, out, err = asr("align", manifest, "--model", trained)
    assert status == 1
    assert [tuple(line.split()[i] for i in (0, 4)) for line in out.splitlines()] == [
        (f"x_{i}", word) for i, text in enumerate(TEXTS) for word in text.split()
    ]
    assert "broken is not aligned" in err
    assert "strange is not aligned" in err
    assert "no 'z'" in err
    status, out, _ = asr("align", manifest, "-m", trained, "-f", "textgrid", "-o", tmp_path / "grids")
    assert (status, out) == (1, "")
    assert sorted(p.name for p in (tmp_path / "grids").iterdir()) == [f"x_{i}.TextGrid" for i in range(3)]


def test_words_are_cut_apart_at_the_rate_they_came_in_and_heard_again(
    asr,  # noqa: F811
    trained,  # noqa: F811
    manifest,
    tmp_path,
):
    folder = tmp_path / "cut here"
    asr("align", manifest, "--model", trained, "--cut", folder)
    words = read_manifest(folder / "words.jsonl")
    assert sorted(w.text for w in words) == sorted(" ".join(TEXTS).split())
    model = load(str(trained))
    for word in words:
        assert (word.speaker, audio.info(word.audio_filepath).rate_hz) == (
            "ann",
            16000 if word.id.startswith("x_2") else RATE_HZ,
        )
        assert word.duration_s == pytest.approx(audio.info(word.audio_filepath).duration_s, abs=1e-3)
        padded = np.pad(audio.read(word.audio_filepath, RATE_HZ), RATE_HZ // 10)
        assert model.transcribe(padded).text == word.text


def test_what_was_not_said_does_not_fit(asr, trained, tmp_path):  # noqa: F811
    said = {"right": "ab ca dab", "wrong": "ba dc bcd"}
    for name in said:
        audio.write(tmp_path / f"{name}.wav", spoken(said["right"], seed=5), RATE_HZ)
    lines = [json.dumps({"audio_filepath": f"{name}.wav", "text": text}) for name, text in said.items()]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    cut = ("--cut", tmp_path / "parts", "--longest_s", 30)
    *_, err = asr("align", tmp_path / "m.jsonl", "-m", trained, *cut)
    assert "the text may not be what is said, as the sound hardly fits it (0 to 1): wrong (0.0" in err
    asr("align", tmp_path / "m.jsonl", "-m", trained, "--cut", tmp_path / "words")
    right, wrong = map(json.loads, (tmp_path / "parts" / "utterances.jsonl").read_text().splitlines())
    assert 0 <= wrong["fit"] < 0.3 < 0.7 < right["fit"] <= 1
    words = [
        json.loads(line)["fit"] for line in (tmp_path / "words" / "words.jsonl").read_text().splitlines()
    ]
    for whole, parts in ((right, words[:3]), (wrong, words[3:])):
        assert whole["fit"] == pytest.approx(math.prod(parts) ** (1 / 3), abs=2e-3)
        args = (tmp_path / f"{whole['id'].partition('_')[0]}.wav", whole["text"], "-m", trained, "-f", "json")
        _, out, err = asr("align", *args)
        facts = json.loads(out)
        assert facts["fit"] == whole["fit"] and [word["fit"] for word in facts["words"]] == parts
        assert ("may not be what is said" in err) == (whole is wrong)


def test_at_most_so_many_of_a_word_are_cut_and_always_the_same(asr, trained, manifest, tmp_path):  # noqa: F811
    for folder in ("one", "two"):
        _, out, err = asr("align", manifest, "-m", trained, "--cut", tmp_path / folder, "--per_word", 1)
        assert (out, "4 recordings of 4 words" in err) == ("", True)
    one, two = ((tmp_path / f / "words.jsonl").read_text() for f in ("one", "two"))
    assert one == two


def test_one_recording_of_one_word_is_called_so(asr, trained, manifest, tmp_path):  # noqa: F811
    _, _, err = asr("align", tmp_path / "1.wav", "b", "-m", trained, "--cut", tmp_path / "one")
    assert "1 recording of 1 word: " in err


def test_a_long_recording_is_cut_at_its_longest_pauses(asr, trained, tmp_path):  # noqa: F811
    texts = ["ab ca", "b", "dab ab ca", "da"]
    sounds = [spoken(text, seed=i) for i, text in enumerate(texts)]
    starts = np.cumsum([0] + [len(s) + RATE_HZ for s in sounds])
    pause = np.zeros(RATE_HZ, np.float32)
    audio.write(
        tmp_path / "talk one.wav", np.concatenate([part for s in sounds for part in (s, pause)]), RATE_HZ
    )
    (tmp_path / "talk.txt").write_text(" ".join(texts))
    longest_s = max(map(len, sounds)) / RATE_HZ + 0.6
    line = [
        "align",
        tmp_path / "talk one.wav",
        tmp_path / "talk.txt",
        "-m",
        trained,
        "--cut",
        tmp_path / "parts",
    ]
    status, out, err = asr(*line, "--longest_s", longest_s)
    assert (status, out, "4 recordings of" in err) == (0, "", True)
    parts = read_manifest(tmp_path / "parts" / "utterances.jsonl")
    assert [part.text for part in parts] == texts
    for part, sound, start in zip(parts, sounds, starts, strict=False):
        assert len(sound) / RATE_HZ - 0.2 < part.duration_s <= longest_s
        whole = audio.read(tmp_path / "talk one.wav", RATE_HZ)[start : start + len(sound)]
        heard = audio.read(part.audio_filepath, RATE_HZ)
        assert np.correlate(heard, whole[200:-200]).max() > 0.9 * (whole[200:-200] ** 2).sum()


def test_parts_of_a_recording_are_aligned_and_cut_alone(asr, trained, tmp_path):  # noqa: F811
    sounds = [spoken(text, seed=i) for i, text in enumerate(TEXTS)]
    audio.write(tmp_path / "talk.wav", np.concatenate(sounds), RATE_HZ)
    starts = np.cumsum([0] + [len(sound) for sound in sounds]) / RATE_HZ
    lines = [
        {"audio_filepath": "talk.wav", "offset": start_s, "duration": len(sound) / RATE_HZ, "text": text}
        for start_s, sound, text in zip(starts, sounds, TEXTS, strict=False)
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, _, _ = asr(
        "align", tmp_path / "m.jsonl", "-m", trained, "--cut", tmp_path / "w", "-o", tmp_path / "m.ctm"
    )
    assert status == 0
    words = read_manifest(tmp_path / "w" / "words.jsonl")
    assert [word.text for word in words] == " ".join(TEXTS).split()
    model = load(str(trained))
    assert [model.transcribe(np.pad(w.read(RATE_HZ), RATE_HZ // 10)).text for w in words] == [
        w.text for w in words
    ]
    for line in (tmp_path / "m.ctm").read_text().splitlines():
        name, _, start_s, long_s, *_ = line.split()
        [sound] = [s for s, start in zip(sounds, starts, strict=False) if name == f"talk_{start:.2f}"]
        assert float(start_s) + float(long_s) <= len(sound) / RATE_HZ + 0.01


def test_recordings_are_parted_at_the_longest_pause_and_equal_ones_in_the_middle():
    def parts(*times: tuple[float, float], longest_s: float) -> list[list[int]]:
        words = [Word(str(i), start_s, end_s, 1.0) for i, (start_s, end_s) in enumerate(times)]
        utterance = Utterance("a", Path("a.wav"), times[-1][1], "")
        return [
            list(part)
            for part in between_pauses(
                Aligned("a", utterance, words, [0.0] * len(words), times[-1][1]), longest_s
            )
        ]

    close = [(float(i), i + 1.0) for i in range(4)]
    assert parts(*close, longest_s=4) == [[0, 1, 2, 3]]
    assert parts(*close, longest_s=3) == [[0, 1], [2, 3]]
    assert parts(*close, longest_s=1) == parts(*close, longest_s=0.5) == [[0], [1], [2], [3]]
    assert parts((0, 1), (1.5, 2), (2.1, 3), longest_s=2.5) == [[0], [1, 2]]
    assert parts((0, 1), (9, 10), longest_s=1.3) == [
        [0],
        [1],
    ]  # margins of 0.25 s, none outside the recording
    assert parts((0, 1), (9, 10), longest_s=10) == [[0, 1]]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["m.jsonl", "-f", "json"], "name a folder with --output"),
        (["m.jsonl", "-f", "json", "-o", "-"], "name a folder with --output"),
        (["0.wav"], "expected a manifest"),
        (["0.wav", ""], "the text of 0.wav is empty: expected the words that are said in it"),
        (["0.wav", "?!"], "the text of 0.wav is empty: expected the words that are said in it"),
        (["none.jsonl"], "expected a JSONL manifest"),
        (["-", "ab", "--cut", "words"], "standard input cannot be cut"),
    ],
)
def test_what_makes_no_sense_is_refused(asr, trained, manifest, words, complaint):  # noqa: F811
    status, _, err = asr("align", *words, "--model", trained)
    assert status == 1
    assert complaint in " ".join(err.split())


@pytest.mark.parametrize(
    "name", ["none.txt", "a/none.LAB", "none.tsv", "./none", "../none", "/none", "~/none"]
)
def test_the_name_of_a_file_that_is_not_there_is_no_text(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such file; expected a text, or a file with it"):
        read_text(name)


def test_a_text_can_come_from_another_program(tmp_path):
    os.mkfifo(tmp_path / "said")
    threading.Thread(target=(tmp_path / "said").write_text, args=("ab ca",)).start()
    assert read_text(str(tmp_path / "said")) == "ab ca"
    (tmp_path / "said.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nab\n\n2\n0:01,5 --> 0:02\nca\n")
    assert read_text(str(tmp_path / "said.srt")) == "ab ca"


def test_two_ids_that_would_be_the_same_file_are_refused(asr, trained, manifest):  # noqa: F811
    line = {"audio_filepath": "0.wav", "text": "ab"}
    manifest.write_text("\n".join(json.dumps({**line, "id": name}) for name in ("a b", "a/b")))
    status, _, err = asr("align", manifest, "--model", trained)
    assert (status, "would be written as 'a_b'" in err) == (1, True)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    (tmp_path / "text.txt").write_text("ab ca", encoding="utf-8-sig")
    assert read_text(str(tmp_path / "text.txt")) == read_text("ab ca") == "ab ca"


def test_words_said_alike_keep_the_spelling_of_the_text(tmp_path):
    alphabet = Alphabet([" ", "t", "uː"], lexicon=Lexicon({"to": [("t", "uː")], "two": [("t", "uː")]}))
    model = Recognizer.build(alphabet, features=FeaturesConfig(rate_hz=RATE_HZ, bands=24), seed=1).eval()
    audio.write(tmp_path / "said.wav", np.full(RATE_HZ, 0.1, np.float32), RATE_HZ)
    words, _ = align_words(model, audio.read(tmp_path / "said.wav", model.rate_hz), "To two, to!")
    assert [word.text for word in words] == ["to", "two", "to"]
