"""`asr transcribe --stream` and `--microphone`, as people use them."""

import io
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from tone_model import spoken, tone_model
from tones import RATE_HZ

from asr import cli
from asr.audio import resample

SAMPLES = (spoken("abc dab c", seed=3) * 32767).astype("<i2")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("streaming")
    tone_model(bidirectional=False).save(folder)
    return folder


@pytest.fixture
def asr(monkeypatch, capsys, bundle):
    """Runs `asr transcribe` on bytes as standard input: (exit status, standard output, standard error)."""

    def call(*words: object, stdin: bytes = b"", model: Path = bundle) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(stdin))))
        monkeypatch.setattr(sys, "argv", ["asr", "transcribe", *map(str, words), "--model", str(model)])
        monkeypatch.setenv("COLUMNS", "200")
        try:
            cli.main()
            status = 0
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call


def wav(samples_TC: np.ndarray, rate_hz: int, *, sizes: int | None = None, bits: int = 16) -> bytes:
    """A WAV with a chunk of notes before its data and one behind it, written by hand."""
    channels = 1 if samples_TC.ndim == 1 else samples_TC.shape[1]
    data, note = samples_TC.astype("<i2").tobytes(), b"LIST" + struct.pack("<I", 3) + b"odd\0"
    form = struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * 2 * channels, 2 * channels, bits)
    size = len(data) if sizes is None else sizes
    head = b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + struct.pack("<I", len(form)) + form
    return head + note + b"data" + struct.pack("<I", size) + data + (note if sizes is None else b"")


def test_standard_input_is_written_as_the_file_is(asr, bundle) -> None:
    said = tone_model(bidirectional=False).transcribe(SAMPLES.astype(np.float32) / 32768).text + "\n"
    stereo = np.stack([SAMPLES, SAMPLES], 1)
    faster = (resample(SAMPLES.astype(np.float32) / 32768, RATE_HZ, 22_050) * 32767).astype("<i2")
    for data, options in [
        (SAMPLES.tobytes(), ()),
        (SAMPLES.tobytes() + b"\0", ()),  # half a sample
        (faster.tobytes(), ("--sample_rate", 22_050)),
        (wav(SAMPLES, RATE_HZ), ()),
        (wav(faster, 22_050), ("--sample_rate", 7_000)),  # the header knows better
        (wav(stereo, RATE_HZ, sizes=0xFFFF_FFFF), ()),
        (wav(stereo, RATE_HZ, sizes=0), ()),
    ]:
        assert asr("-", "--stream", *options, stdin=data)[:2] == (0, said)


def test_what_is_no_stream_is_refused(asr, tmp_path) -> None:
    flac = io.BytesIO()
    soundfile.write(flac, SAMPLES, RATE_HZ, format="FLAC")
    for data, why in [
        (flac.getvalue(), "holds a FLAC file"),
        (bytes.fromhex("ffe318c4") + b"\0" * 400, "holds an MP3 file"),  # of 8 kHz: MPEG 2.5
        (b"\0\0\0\x1cftypM4A " + b"\0" * 400, "holds an MP4 or M4A file"),
        (b"RF64\xff\xff\xff\xffWAVE", "holds an RF64 file"),
        (wav(SAMPLES, 0), "a rate of 0 Hz"),
        (b"", "standard input is empty"),
        (wav(SAMPLES, RATE_HZ, bits=24), "24 bits"),
        (wav(SAMPLES, RATE_HZ)[:30], "cut short within its WAV header"),
        (wav(SAMPLES, RATE_HZ)[:14], "cut short within its WAV header"),
        (b"RIFF....WAVEdata\0\0\0\0", "before its format"),
    ]:
        status, out, err = asr("-", "--stream", stdin=data)
        assert (status, out) == (1, "") and why in err
    for words in [("--stream",), ("a.wav", "b.wav", "--stream"), ("a.wav", "--microphone"), ()]:
        assert asr(*words)[0] == 2
    assert "txt or jsonl" in asr("-", "--stream", "-f", "srt")[2]
    tone_model().save(tmp_path)
    assert "asr run digits/streaming" in asr("-", "--stream", stdin=SAMPLES.tobytes(), model=tmp_path)[2]
    for words in [("a.wav", "--stream"), ("--microphone",), ("-",)]:
        assert "--sample_rate is for" in asr(*words, "--sample_rate", 8000)[2]
    assert "no --vad" in asr("-", "--stream", "--vad", "silero", stdin=SAMPLES.tobytes())[2]


def test_a_stream_that_is_cut_short_is_written_and_told(asr, tmp_path) -> None:
    whole = wav(SAMPLES, RATE_HZ)
    cut, file = whole[: len(whole) * 2 // 3], tmp_path / "cut.wav"
    file.write_bytes(cut)
    for place, why in [("-", "before the length that its WAV header promises"), (file, "is cut short")]:
        status, out, err = asr(place, "--stream", stdin=cut)
        assert status == 1 and why in err
        assert out.startswith("abc") and out.endswith("\n")


def test_a_file_streams_as_lines_of_json(asr, tmp_path) -> None:
    soundfile.write(tmp_path / "call.wav", SAMPLES, RATE_HZ)
    status, out, _ = asr(tmp_path / "call.wav", "--stream", "-f", "jsonl")
    *news, whole = map(json.loads, out.splitlines())
    assert status == 0 and whole["audio"] == "call"
    assert len(news) > 3 and {n["type"] for n in news} == {"partial"}
    assert whole["text"].startswith("".join(n["stable"] for n in news))
    words = [w for segment in whole["segments"] for w in segment["words"]]
    assert [w for n in news for w in n["words"]] == words


def test_words_are_printed_while_the_sound_still_comes(bundle) -> None:
    command = [sys.executable, "-m", "asr.cli", "transcribe", "-", "--stream", "--model", str(bundle)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None and running.stdout is not None
        os.set_blocking(running.stdout.fileno(), False)
        running.stdin.write(SAMPLES.tobytes())
        running.stdin.flush()
        heard, until = b"", time.monotonic() + 120
        while not heard.startswith(b"abc") and time.monotonic() < until:
            heard += running.stdout.read() or b""
            time.sleep(0.05)
        assert heard.startswith(b"abc") and running.poll() is None
        running.stdin.close()
        assert running.wait(60) == 0


class FakeMicrophone:
    """Hears the samples, then somebody presses Ctrl-C."""

    def __init__(self, **_: object) -> None:
        self.at = 0

    def __enter__(self) -> "FakeMicrophone":
        return self

    def __exit__(self, *_: object) -> None:
        self.at = -1

    def read(self, count: int) -> tuple[np.ndarray, bool]:
        if self.at >= len(SAMPLES):
            raise KeyboardInterrupt
        block = SAMPLES[self.at : self.at + count].astype(np.float32) / 32768
        self.at += count
        return block[:, None], False


def test_the_microphone_is_heard_until_it_is_interrupted(asr, monkeypatch) -> None:
    fake = SimpleNamespace(
        InputStream=FakeMicrophone,
        PortAudioError=OSError,
        query_devices=lambda kind: {"default_samplerate": float(RATE_HZ)},
    )
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    status, out, err = asr("--microphone")
    assert status == 0 and out.startswith("abc") and out.endswith("c\n") and "Ctrl-C" in err


def test_no_microphone_is_a_clear_error(asr, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert "pip install 'sounddevice>=0.5'" in asr("--microphone")[2]

    def missing(**_: object) -> None:
        raise ValueError("no input device")

    fake = SimpleNamespace(query_devices=missing, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    status, _, err = asr("--microphone")
    assert status == 1 and "no microphone could be opened: no input device" in err
