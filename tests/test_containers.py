"""Recordings that are not all there, or more than one: an error, and never a part in silence."""

import io

import numpy as np
import pytest
import soundfile

from asr import audio
from asr.errors import AudioError

FORMATS = {
    "wav": {"format": "WAV"},
    "rf64": {"format": "RF64", "subtype": "PCM_16"},
    "aiff": {"format": "AIFF"},
    "au": {"format": "AU"},
    "w64": {"format": "W64"},
    "nist": {"format": "NIST"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3"},
}
RATE_HZ = 16_000
HEADER_FRAME = 72 * 64_000 // RATE_HZ
"""Bytes of the first frame of an mp3 of MPEG-2 with 64 kbit/s, which holds libsndfile's Xing header."""


def noise(duration_s: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(duration_s * RATE_HZ)).astype(np.float32)


def encoded(kind: str, samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE_HZ, **FORMATS[kind])
    return buffer.getvalue()


def headless(samples: np.ndarray) -> bytes:
    """An mp3 of a varying bit rate as a program writes it to a pipe: without a Xing header."""
    content = encoded("mp3", samples)
    assert b"Xing" in content[:HEADER_FRAME] and content[HEADER_FRAME : HEADER_FRAME + 2] == content[:2]
    return content[HEADER_FRAME:]


def page_starts(content: bytes) -> list[int]:
    return [at for at in range(len(content)) if content[at : at + 4] == b"OggS"]


def read_in_all_ways(content: bytes, folder) -> np.ndarray:
    (path := folder / "recording").write_bytes(content)
    whole = audio.read(content)
    with path.open("rb") as file:
        for other in (audio.read(path), audio.read(file), np.concatenate(list(audio.stream(path)))):
            assert np.array_equal(other, whole)
    assert audio.info(path).samples == audio.info(content).samples == len(whole)
    return whole


@pytest.mark.parametrize("share", [0.6, 0.97])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_recording_that_is_cut_short_is_an_error(tmp_path, kind, share):
    content = encoded(kind, noise(20))
    assert abs(len(read_in_all_ways(content, tmp_path)) - 20 * RATE_HZ) <= 1
    (path := tmp_path / "cut").write_bytes(content[: round(share * len(content))])
    for call in (audio.read, lambda source: list(audio.stream(source))):
        with pytest.raises(AudioError, match=r"cut short.*; fetch it again, or convert it first"):
            call(path)


@pytest.mark.parametrize("promised_s", [0, 1])
def test_sound_beyond_what_the_header_of_a_wav_promises_is_an_error(tmp_path, promised_s):
    content = bytearray(encoded("wav", noise(3)))
    content[40:44] = (2 * promised_s * RATE_HZ).to_bytes(4, "little")
    content[4:8] = (2 * promised_s * RATE_HZ + 36).to_bytes(4, "little")
    (path := tmp_path / "stopped.wav").write_bytes(content)
    for call in (audio.read, lambda source: list(audio.stream(source))):
        with pytest.raises(AudioError, match=rf"beyond the {promised_s}\.00 s that its header promises"):
            call(path)


@pytest.mark.parametrize("after", [b"ID3" + bytes(range(256)) * 40, bytes(9000), b"LIST\x04\0\0\0abcd"])
def test_what_follows_the_sound_of_a_wav_and_is_none_is_left_alone(tmp_path, after):
    assert len(read_in_all_ways(encoded("wav", noise(1)) + after, tmp_path)) == RATE_HZ


@pytest.mark.parametrize("kind", ["vorbis", "opus", "mp3"])
def test_several_recordings_in_a_row_are_not_taken_for_the_first(tmp_path, kind):
    content = encoded(kind, noise(2)) + encoded(kind, noise(3, seed=1))
    with pytest.raises(AudioError, match=r"several recordings in a row|more sound than its header promises"):
        audio.read(content)


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_an_ogg_file_that_lacks_a_page_is_an_error(kind):
    content = encoded(kind, noise(20))
    *_, first, second, last = page_starts(content)
    with pytest.raises(AudioError, match=f"pages are missing before byte {first}"):
        audio.read(content[:first] + content[second:])
    assert len(audio.read(content[:last])) > 15 * RATE_HZ  # as a live recorder leaves it
    with pytest.raises(AudioError, match=f"no page begins at byte {last}"):
        audio.read(content[:last] + bytes(1000))
    assert len(audio.read(content + bytes(1000))) == len(audio.read(content))


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_an_mp3_without_a_stated_length_is_read_to_its_end(tmp_path, first):
    # Its size tells nothing: frames of silence are a third as large as those of noise.
    wave = np.concatenate([first * noise(3), (1 - first) * noise(7)])
    content = headless(wave)
    tag = b"ID3\x04\0\0" + bytes([0, 0, 2, 0]) + bytes(256)
    whole = read_in_all_ways(content, tmp_path)
    assert 0 <= len(whole) - len(wave) < 0.1 * RATE_HZ  # the encoder's delay and padding
    parts = whole[RATE_HZ : 2 * RATE_HZ], whole[4 * RATE_HZ : 9 * RATE_HZ]
    assert [bool(np.abs(part).mean() > 0.01) for part in parts] == [bool(first), not first]
    assert np.array_equal(audio.read(tag + content + b"TAG" + bytes(125)), whole)
    assert len(audio.read(content + content)) == 2 * len(whole)


@pytest.mark.parametrize("cut_bytes", [1, 30, 100, 400])
def test_a_live_mp3_loses_at_most_a_frame_where_it_breaks_off(cut_bytes):
    content = headless(noise(5))
    found, whole = audio.read(content[:-cut_bytes]), audio.read(content)
    assert len(whole) - len(found) <= 576 * (1 + cut_bytes // 100)
    inside = len(found) - 2 * 576
    assert np.array_equal(found[:inside], whole[:inside])


def test_a_tag_at_the_end_of_an_mp3_is_no_sound():
    content = encoded("mp3", noise(2))
    for tag in (b"TAG" + bytes(125), b"APETAGEX" + bytes(5000), bytes(5000)):
        assert np.array_equal(audio.read(content + tag), audio.read(content))
