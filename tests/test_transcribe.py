"""Transcribing: long recordings, many files, resuming, bad input."""

import io
import json
import sys

import numpy as np
import pytest
import soundfile
import torch
from tone_model import spoken, tone_model
from tones import RATE_HZ, sentences

from asr import pipeline, segmentation
from asr.encoder import EncoderConfig
from asr.errors import AudioError, ConfigError
from asr.features import FeaturesConfig
from asr.jobs.transcribe import find_audio, transcribe
from asr.recognizer import Recognizer
from asr.text import Alphabet
from asr.transcript import Segment

TEXT = " ".join(sentences(14, seed=3))


@pytest.fixture
def short_pieces(monkeypatch):
    """Makes four seconds a long recording, and keeps the tests short."""
    small = {"longest_s": 4.0, "overlap_s": 2.0}
    monkeypatch.setattr(pipeline, "pieces", lambda *a, **k: segmentation.pieces(*a, **k, **small))
    monkeypatch.setattr(pipeline, "LONG_STRETCH_S", 6.0)


def full_pass(samples: np.ndarray) -> str:
    model = tone_model()
    return model.decode(*model.log_probs([samples]))[0].text(model.alphabet)


@pytest.mark.parametrize("pause_s", [0.0, 1.0])
def test_a_long_recording_gives_the_text_of_the_full_pass(short_pieces, pause_s):
    samples = spoken(TEXT, seed=2, pause_s=pause_s)
    assert len(samples) > 12 * RATE_HZ
    said = tone_model().transcribe(samples)
    assert said.text == full_pass(samples)
    assert len(said.segments) > 1
    assert said.duration_s == len(samples) / RATE_HZ
    times = [t for word in said.words for t in (word.start_s, word.end_s)]
    assert times == sorted(times)


def strange_model() -> Recognizer:
    """It has learnt nothing, and scales each frame by the two seconds around it."""
    return Recognizer.build(
        Alphabet(list(" abcd")),
        features=FeaturesConfig(rate_hz=RATE_HZ, bands=24, span_s=2.0),
        encoder=EncoderConfig(layers=1, width=24, factor=2),
    ).eval()


def edged_model() -> Recognizer:
    """It has learnt nothing, and hears silence before and after every recording."""
    return Recognizer.build(
        Alphabet(list(" abcd")),
        features=FeaturesConfig(rate_hz=RATE_HZ, bands=24, normalise="none", edge_s=0.14),
        encoder=EncoderConfig(layers=1, width=24, factor=2),
    ).eval()


@pytest.mark.parametrize("make", [tone_model, strange_model, edged_model])
def test_windows_that_overlap_give_the_outputs_of_the_full_pass(make, short_pieces):
    samples, model = spoken(TEXT, seed=2, pause_s=0.0), make()
    samples *= np.linspace(0.01, 1, len(samples), dtype=np.float32)
    seen = []
    pipe = pipeline.Pipeline(
        model,
        lambda log_probs_BTV, lengths_B: seen.append(log_probs_BTV) or model.decode(log_probs_BTV, lengths_B),
        batch_s=0.1,  # one piece at a time, so that stretches come in order and without padding
    )
    assert len(list(pipe.run([samples]))) == 1
    stitched_TV = torch.cat([part for batch in seen for part in batch])
    full_BTV, _ = model.log_probs([samples])
    assert stitched_TV.shape == full_BTV[0].shape
    off_T = (stitched_TV.exp() - full_BTV[0].exp()).abs().amax(-1)
    assert float(off_T.mean()) < 0.01


def test_batches_change_nothing_and_order_is_kept(short_pieces):
    model = tone_model()
    waves = [spoken(text, seed=i) for i, text in enumerate([*sentences(6, seed=8), TEXT, "abc", "d"])]
    one_by_one = [model.transcribe(wave) for wave in waves]
    for batch_s in (1.0, 8.0, 200.0):
        together = list(model.transcribe_many(waves, batch_s=batch_s))
        assert [t.text for t in together] == [t.text for t in one_by_one]
        assert [t.words for t in together] == [t.words for t in one_by_one]


class OnlyTheMiddle:
    """Cuts nowhere, and says that somebody speaks from the fourth second to the seventh."""

    def __call__(self, samples, rate_hz, /, *, after_samples=0):
        return None

    def is_speech(self, samples, rate_hz, step_samples):
        moments_s = np.arange(1 + len(samples) // step_samples) * step_samples / rate_hz
        return (moments_s >= 3) & (moments_s < 7)


def test_nothing_is_written_where_nobody_speaks(monkeypatch):
    def words(said):
        return [w.text for w in said.words if w.start_s > 3.1 and w.end_s < 6.9]

    samples = spoken(TEXT, seed=2, pause_s=1.0)
    plain = tone_model().transcribe(samples)
    monkeypatch.setattr("asr.recognizer.pause_finder", lambda name: OnlyTheMiddle())
    heard = tone_model().transcribe(samples)
    assert heard.words and all(w.start_s > 2.9 and w.end_s < 7.1 for w in heard.words)
    assert len(words(heard)) > 2 and words(heard) == words(plain)


def test_segments_are_told_as_soon_as_they_are_known(short_pieces):
    told = []
    [said] = tone_model().outcomes([spoken(TEXT, seed=2)], on_segment=lambda n, s: told.append((n, s)))
    assert told == [(0, segment) for segment in said.segments]


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "calls" / "day 1"
    inside.mkdir(parents=True)
    for i, text in enumerate(["abc", "d ab", "cab dab"]):
        soundfile.write(inside / f"{i}.wav", spoken(text, seed=i), RATE_HZ)
    (inside / "notes.txt").write_text("not a recording")
    return tmp_path / "calls"


def test_folders_patterns_and_files_are_found(folder):
    inside = folder / "day 1"
    assert list(find_audio([str(folder)])) == [str(inside / f"{i}.wav") for i in range(3)]
    assert list(find_audio([str(inside / "[12].wav")])) == [str(inside / f"{i}.wav") for i in (1, 2)]
    assert [str(p) for p in find_audio([str(folder)]).values()] == ["day 1/0", "day 1/1", "day 1/2"]
    (inside / "1.mp3").touch()
    assert [str(p) for p in find_audio([str(folder)]).values()] == [
        "day 1/0", "day 1/1.mp3", "day 1/1.wav", "day 1/2"
    ]  # fmt: skip
    with pytest.raises(AudioError, match="no file fits"):
        find_audio([str(folder / "*.ogg")])


def test_files_are_written_once_and_again_when_a_recording_is_newer(folder, tmp_path, capsys):
    out = tmp_path / "out"
    job = {"output_dir": out, "output_format": "all", "word_timestamps": True}
    assert transcribe(tone_model(), [str(folder)], **job) == {}
    written = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    forms = ("txt", "vtt", "srt", "tsv", "json", "jsonl", "ctm")
    assert written == {f"day 1/{i}.{form}" for i in range(3) for form in forms}
    assert json.loads((out / "day 1" / "0.json").read_text())["segments"][0]["words"]
    (out / "day 1" / "0.txt").write_text("mine\n")
    (out / "day 1" / "1.txt").unlink()
    assert transcribe(tone_model(), [str(folder)], **job) == {}
    assert (out / "day 1" / "0.txt").read_text() == "mine\n"
    assert (out / "day 1" / "1.txt").is_file()
    assert "2 of 3 recordings done already" in capsys.readouterr().err
    transcribe(tone_model(), [str(folder)], **job, overwrite=True)
    assert (out / "day 1" / "0.txt").read_text() != "mine\n"


def test_standard_output_takes_one_line_a_recording_or_one_format(folder, capsys, short_pieces, monkeypatch):
    soundfile.write(folder / "day 1" / "3.wav", spoken(TEXT, seed=2), RATE_HZ)
    (folder / "day 1" / "2.wav").write_bytes(b"RIFF")
    failed = transcribe(tone_model(), [str(folder)])
    out, err = capsys.readouterr()
    whole = [tone_model().transcribe(folder / "day 1" / f"{i}.wav").text for i in (0, 1, 3)]
    assert out.splitlines() == [*whole[:2], "", whole[2]]
    assert list(failed) == [str(folder / "day 1" / "2.wav")]
    assert "1 of 4 recordings could not be transcribed" in err
    file = io.BytesIO((folder / "day 1" / "0.wav").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
    transcribe(tone_model(), ["-"], output_format="jsonl")
    assert json.loads(capsys.readouterr().out)["audio"] == "stdin"
    with pytest.raises(ConfigError, match="--output_dir"):
        transcribe(tone_model(), ["-"], output_format="all")
    with pytest.raises(ConfigError, match="'doc'"):
        transcribe(tone_model(), ["-"], output_format="doc")


def test_a_long_recording_after_another_is_printed_whole_and_once(tmp_path, capsys, short_pieces):
    files = [tmp_path / f"{name}.wav" for name in ("short", "long", "last")]
    for file, text in zip(files, ("abc", " ".join([TEXT] * 4), "d ab"), strict=True):
        soundfile.write(file, spoken(text, seed=2), RATE_HZ)
    assert soundfile.info(files[1]).duration > 40  # beyond the first batch, in which its first words are
    transcribe(tone_model(), list(map(str, files)))
    assert capsys.readouterr().out.splitlines() == [tone_model().transcribe(file).text for file in files]


def test_a_line_that_was_begun_is_ended_after_an_interruption(folder, capsys, monkeypatch):
    def interrupted(self, names, *, on_segment):
        on_segment(0, Segment("ab", 0.0, 0.5, ()))
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(Recognizer, "outcomes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transcribe(tone_model(), [str(folder)])
    assert capsys.readouterr().out == "ab\n"


def test_recordings_of_one_name_are_told_apart_on_standard_output(tmp_path, capsys):
    for name, text in (("a/1", "abc"), ("b/1", "dab"), ("b/2", "c")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / f"{name}.wav", spoken(text), RATE_HZ)
    transcribe(tone_model(), [str(tmp_path)], output_format="ctm")
    first, second = (str(tmp_path / name / "1.wav") for name in "ab")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [first, second, "2"]


@pytest.mark.parametrize("form", ["srt", "vtt", "tsv", "json"])
def test_formats_of_one_recording_are_not_printed_one_after_another(folder, capsys, form):
    with pytest.raises(ConfigError, match=f"{form} holds one recording, but there are 3: .*--output_dir"):
        transcribe(tone_model(), [str(folder)], output_format=form)
    assert transcribe(tone_model(), [str(folder / "day 1" / "0.wav")], output_format=form) == {}
    assert capsys.readouterr().out


def test_files_of_a_folder_that_cannot_be_read_are_named(folder, capsys):
    for name in ("a.m4a", "b.aac"):
        (folder / name).touch()
    assert len(find_audio([str(folder)])) == 3
    assert "2 files must be converted to flac or wav first: a.m4a, b.aac" in capsys.readouterr().err
    (folder / "only").mkdir()
    (folder / "only" / "c.wma").touch()
    with pytest.raises(AudioError, match=r"no recordings in this folder; 1 file must be .*: c\.wma"):
        find_audio([str(folder / "only")])


def sound(samples: np.ndarray, rate_hz: int = RATE_HZ, **rest: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, **({"format": "WAV"} | rest))
    return file.getvalue()


NOISE = np.random.default_rng(0).normal(0, 0.1, 3 * RATE_HZ).astype(np.float32)


@pytest.mark.parametrize(
    "data",
    [
        sound(np.zeros(RATE_HZ)),
        sound(NOISE),
        sound(NOISE[:80]),
        sound(np.stack([NOISE] * 7, 1)),
        sound(NOISE, 192_000),
        sound(np.zeros(50 * RATE_HZ)),
    ],
    ids=["silence", "noise", "10 ms", "7 channels", "192 kHz", "long silence"],
)
def test_odd_sound_is_transcribed_without_complaint(data):
    assert isinstance(tone_model().transcribe(data).text, str)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is no sound",
        sound(NOISE, format="MP3")[:-3000],
        sound(np.full(99, np.nan), subtype="FLOAT"),
    ],
    ids=["0 bytes", "text", "truncated mp3", "NaN"],
)
def test_what_is_no_sound_is_a_clear_error_beside_the_rest(data):
    bad, good = tone_model().outcomes([data, sound(spoken("abc"))])
    assert isinstance(bad, AudioError)
    assert len(str(bad)) > 20
    assert good.text


def test_recordings_that_would_be_written_to_one_file_are_refused(folder, tmp_path):
    (tmp_path / "other" / "day 1").mkdir(parents=True)
    soundfile.write(tmp_path / "other" / "day 1" / "0.wav", spoken(TEXT, seed=1), RATE_HZ)
    soundfile.write(folder / "0.wav", spoken(TEXT, seed=2), RATE_HZ)
    places = [str(folder / "0.wav"), str(tmp_path / "other" / "day 1" / "0.wav")]
    with pytest.raises(ConfigError, match=r"2 recordings would be written to .*0\.wav\.txt"):
        transcribe(tone_model(), places, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
