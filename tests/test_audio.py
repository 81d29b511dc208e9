"""Audio in any shape → the right samples, or an error that says what is wrong."""

import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import audio
from asr.errors import AudioError
from asr.resampling import resample_blocks


def sine(rate_hz, duration_s=1.0, frequency_hz=440.0):
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(rate_hz * duration_s)) / rate_hz)).astype(
        "f4"
    )


def write(path, samples, rate_hz, **kw):
    soundfile.write(path, samples, rate_hz, **kw)
    return path


LOSSLESS = {"wav": {}, "flac": {}, "aiff": {}, "au": {}, "w64": {}, "caf": {}, "sph": {"format": "NIST"}}
LOSSY = {"mp3": {}, "ogg": {}, "opus": {"format": "OGG", "subtype": "OPUS"}}


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_give_the_samples_that_were_written(tmp_path, suffix):
    wave = np.random.default_rng(0).integers(-32768, 32768, 4000).astype(np.int16)
    path = write(tmp_path / f"a.{suffix}", wave, 16000, subtype="PCM_16", **LOSSLESS[suffix])
    got = audio.read(path)
    assert got.dtype == np.float32
    assert np.array_equal(got * 32768, wave)


@pytest.mark.parametrize("suffix", LOSSY)
@pytest.mark.parametrize("rate_hz", [16000, 24000, 48000])
def test_lossy_formats_keep_length_and_pitch(tmp_path, suffix, rate_hz):
    path = write(tmp_path / f"a.{suffix}", sine(rate_hz), rate_hz, **LOSSY[suffix])
    got = audio.read(path, 16000)
    assert abs(len(got) - 16000) <= 1
    assert np.argmax(np.abs(np.fft.rfft(got[:16000], 16000))) == 440
    truth = sine(16000)
    inside = slice(2000, 14000)
    error = got[inside] - truth[inside]
    assert np.sqrt(np.mean(error**2)) < 0.05


@pytest.mark.parametrize("from_hz", [8000, 11025, 22050, 44100, 48000, 192000])
def test_resampling_equals_a_sine_made_at_the_target_rate(from_hz):
    got = audio.resample(sine(from_hz), from_hz, 16000)
    truth = sine(16000)
    assert abs(len(got) - len(truth)) <= 1
    assert np.abs(got[1000:15000] - truth[1000:15000]).max() < 1e-3


def test_resampling_removes_what_the_target_rate_cannot_hold():
    got = audio.resample(sine(48000, frequency_hz=12000), 48000, 16000)
    assert np.abs(got[500:-500]).max() < 1e-3


def test_channels_are_averaged(tmp_path):
    left, right = sine(16000, frequency_hz=300), sine(16000, frequency_hz=1000)
    path = write(tmp_path / "a.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    assert np.allclose(audio.read(path), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("balance", [1.0, 0.99])
def test_channels_that_cancel_each_other_are_not_silence(tmp_path, balance):
    left = sine(16000, frequency_hz=300)
    path = write(tmp_path / "a.wav", np.stack([left, -balance * left], 1), 16000, subtype="FLOAT")
    assert np.array_equal(audio.read(path), left)
    weak = write(tmp_path / "b.wav", np.stack([left, -0.5 * left], 1), 16000, subtype="FLOAT")
    assert np.allclose(audio.read(weak), left / 4)


def test_a_channel_that_is_reversed_for_a_while_gives_the_same_however_it_is_read(tmp_path):
    left = sine(8000, 14.3, frequency_hz=300)
    right = np.where(np.arange(len(left)) < 12_100 * 8, -left, left)
    path = write(tmp_path / "a.wav", np.stack([left, right], 1), 8000, subtype="FLOAT")
    whole = audio.read(path, 8000)
    assert np.abs(whole[: 12 * 8000]).max() > 0.1
    for block_s in (0.3, 5.0, 10.0):
        assert np.array_equal(np.concatenate(list(audio.stream(path, 8000, block_s))), whole)
    for start_s, duration_s in ((0.0, 2.0), (0.7, 0.2), (11.9, 0.4), (12.6, 1.7)):
        part = audio.read(path, 8000, start_s=start_s, duration_s=duration_s)
        assert np.array_equal(part, whole[round(start_s * 8000) :][: round(duration_s * 8000)])


def test_seven_channels_at_192_khz_for_ten_milliseconds_just_work(tmp_path):
    path = write(tmp_path / "a.wav", np.stack([sine(192000, 0.01)] * 7, 1), 192000)
    assert len(audio.read(path)) == 160
    assert audio.info(path) == audio.AudioInfo(0.01, 192000, 7, 1920)


def test_path_text_bytes_file_and_stream_are_the_same(tmp_path):
    path = write(tmp_path / "a.flac", sine(8000), 8000)
    truth = audio.read(path)
    content = path.read_bytes()
    assert np.array_equal(audio.read(str(path)), truth)
    assert np.array_equal(audio.read(content), truth)
    assert np.array_equal(audio.read(io.BytesIO(content)), truth)
    with path.open("rb") as file:
        assert np.array_equal(audio.read(file), truth)
    assert np.array_equal(audio.read(Unseekable(content)), truth)
    assert np.array_equal(
        np.concatenate(list(audio.stream(Unseekable(content), 8000))), audio.read(path, 8000)
    )


class Unseekable(io.RawIOBase):
    """A stream like a pipe."""

    def __init__(self, content):
        self._inner = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._inner.readinto(buffer)


@pytest.mark.parametrize("how", ["read", "stream"])
def test_dash_is_standard_input(tmp_path, how):
    path = write(tmp_path / "a.wav", sine(16000), 16000)
    call = {"read": "audio.read('-')", "stream": "np.concatenate(list(audio.stream('-')))"}[how]
    code = f"import sys, numpy as np; from asr import audio; sys.stdout.buffer.write({call}.tobytes())"
    got = subprocess.run(
        [sys.executable, "-c", code], input=path.read_bytes(), stdout=subprocess.PIPE, check=True
    )
    assert np.array_equal(np.frombuffer(got.stdout, "f4"), audio.read(path))


@settings(max_examples=30)
@given(
    from_hz=st.sampled_from([8000, 16000, 22050, 44100, 48000]),
    cuts=st.lists(st.integers(0, 30000), max_size=6),
)
def test_resampling_in_blocks_has_no_seams(from_hz, cuts):
    wave = np.random.default_rng(1).uniform(-0.5, 0.5, 30000).astype("f4")
    blocks = np.split(wave, sorted(cuts))
    got = np.concatenate(list(resample_blocks(blocks, from_hz, 16000)))
    whole = audio.resample(wave, from_hz, 16000)
    assert abs(len(got) - len(whole)) <= 1
    n = min(len(got), len(whole))
    assert np.abs(got[:n] - whole[:n]).max() < 1e-4


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
def test_streaming_gives_the_samples_of_reading_in_blocks_of_the_asked_length(tmp_path, rate_hz):
    path = write(tmp_path / "a.wav", np.stack([sine(rate_hz, 3.3), 0.2 * sine(rate_hz, 3.3)], 1), rate_hz)
    blocks = list(audio.stream(path, 16000, block_s=0.5))
    assert {len(b) for b in blocks[:-1]} == {8000}
    assert 0 < len(blocks[-1]) <= 8000
    whole, streamed = audio.read(path), np.concatenate(blocks)
    assert abs(len(whole) - len(streamed)) <= 1
    n = min(len(whole), len(streamed))
    assert np.abs(whole[:n] - streamed[:n]).max() < 1e-4


@pytest.mark.parametrize("suffix", [*LOSSY, "flac"])
def test_blocks_of_a_compressed_file_have_no_seams(tmp_path, suffix):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 160000).astype("f4")
    path = write(tmp_path / f"a.{suffix}", wave, 16000, **LOSSY.get(suffix, {}))
    whole, _ = soundfile.read(path, dtype="float32")
    streamed = np.concatenate(list(audio.stream(path, block_s=0.37)))
    assert np.allclose(streamed, whole.clip(-1, 1), atol=1e-6)


@pytest.mark.parametrize("suffix", [*LOSSLESS, *LOSSY])
def test_a_part_has_the_samples_that_the_whole_has_there(tmp_path, suffix):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * 16000).astype("f4")
    how = LOSSY.get(suffix) or LOSSLESS.get(suffix, {})
    path = write(tmp_path / f"a.{suffix}", wave, 16000, **how)
    whole = audio.read(path)
    for start_s, duration_s in ((0.0, 0.5), (0.3, 1.0), (2.345, 1.5), (4.0, 1.0)):
        start, count = round(start_s * 16000), round(duration_s * 16000)
        part = audio.read(path, start_s=start_s, duration_s=duration_s)
        assert len(part) == count
        assert np.abs(part - whole[start : start + count]).max() < 2e-3
    resampled = audio.read(path, 8000, start_s=1.0, duration_s=2.0)
    assert resampled == pytest.approx(audio.resample(whole[16000:48000], 16000, 8000), abs=2e-3)


def test_parts_of_an_mp3_are_read_without_a_word_of_the_library(tmp_path, capfd):
    wave = (
        np.random.default_rng(0).uniform(-0.5, 0.5, 20 * 16000).astype("f4")
        * np.linspace(0, 1, 20 * 16000) ** 4
    )
    path = write(tmp_path / "a.mp3", wave, 16000)
    for start_s in np.arange(2.0, 18.0, 0.77):
        audio.read(path, start_s=float(start_s), duration_s=1.0)
    print("heard", file=sys.stderr)
    assert capfd.readouterr().err == "heard\n"


def test_what_is_no_mp3_is_one_error_and_not_a_word_of_the_library(tmp_path, capfd):
    (tmp_path / "junk.mp3").write_bytes(np.random.default_rng(0).bytes(100_000))
    with pytest.raises(AudioError, match="no MPEG frame found"):
        audio.read(tmp_path / "junk.mp3")
    print("heard", file=sys.stderr)
    assert capfd.readouterr().err == "heard\n"


def test_a_part_that_is_not_there_is_an_error_but_a_rounded_duration_is_none(tmp_path):
    path = write(tmp_path / "a.wav", sine(16000, 2.0), 16000)
    assert len(audio.read(path, start_s=1.5, duration_s=0.54)) == 8000
    with pytest.raises(AudioError, match=r"a\.wav ends at 2\.00 s; 1\.50 to 2\.10 s were wanted"):
        audio.read(path, start_s=1.5, duration_s=0.6)
    with pytest.raises(AudioError, match=r"a\.wav has nothing at 9\.00 s"):
        audio.read(path, start_s=9.0, duration_s=0.6)
    with pytest.raises(AudioError, match=r"a\.wav has nothing at"):
        audio.read(path, start_s=1.7e18, duration_s=0.6)


def test_a_part_does_not_suffer_from_damage_beside_it(tmp_path):
    samples = sine(16000, 4.0)
    samples[[1000, 40000]] = np.nan
    path = write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    assert np.array_equal(audio.read(path, start_s=0.1, duration_s=2.3), samples[1600:38400])
    with pytest.raises(AudioError, match=r"not numbers, the first at 2\.500 s"):
        audio.read(path, start_s=0.1, duration_s=2.5)


def test_streaming_takes_the_memory_of_a_block_not_of_the_file(tmp_path):
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 48000, 2, "PCM_16") as file:
        for _ in range(30):
            file.write(np.zeros((48000 * 10, 2), np.int16))
    code = (
        "import resource; from asr import audio\n"
        f"peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"blocks = audio.stream({str(path)!r}, 16000, 1.0); next(blocks); before = peak()\n"
        "count = 16000 + sum(map(len, blocks)); print(count, peak() - before)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    count, grown_kib = map(int, out.split())
    assert count == 300 * 16000
    assert grown_kib < 8000  # the samples alone would be 19,200 KiB at 16 kHz


def test_int16_survives_reading_and_scaling_back(tmp_path):
    wave = np.array([-32768, -1, 0, 1, 32767], np.int16)
    got = audio.read(write(tmp_path / "a.wav", wave, 16000))
    assert np.array_equal(np.rint(got * 32768).astype(int), wave)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_what_is_written_is_read_again(tmp_path, suffix):
    path = tmp_path / "new" / f"a{suffix}"
    audio.write(path, sine(16000), 16000)
    assert audio.info(path).rate_hz == 16000
    assert abs(len(audio.read(path)) - 16000) <= 1


def test_ten_minutes_of_vorbis_are_written_in_a_process_that_survives(tmp_path):
    audio.write(tmp_path / "long.ogg", np.zeros(600 * 48_000, np.float32), 48_000)
    assert audio.info(tmp_path / "long.ogg").duration_s == pytest.approx(600)


def test_writing_clips_instead_of_wrapping_around(tmp_path):
    audio.write(tmp_path / "a.wav", np.array([1.5, -1.5, 0.0], np.float32), 16000)
    assert np.allclose(audio.read(tmp_path / "a.wav"), [1, -1, 0], atol=1e-4)


def test_overshoot_is_clipped_to_full_scale(tmp_path):
    path = write(tmp_path / "a.wav", np.array([0.5, 1.2, -1.3], np.float32), 16000, subtype="FLOAT")
    assert audio.read(path).tolist() == [0.5, 1.0, -1.0]


def test_a_name_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "~ab.wav", sine(16000), 16000)
    assert len(audio.read("~ab.wav")) == 16000


def pipe_header(content):
    """A wav as a program writes it that does not know the length beforehand."""
    at = content.index(b"data")
    return content[:4] + b"\xff" * 4 + content[8 : at + 4] + b"\xff" * 4 + content[at + 8 :]


def test_a_wav_from_a_pipe_has_all_of_its_samples(tmp_path):
    path = write(tmp_path / "a.wav", sine(16000), 16000)
    assert np.array_equal(audio.read(pipe_header(path.read_bytes())), audio.read(path))


def test_a_flac_that_does_not_tell_its_length_is_read_and_counted(tmp_path):
    content = bytearray(write(tmp_path / "a.flac", sine(16000, 0.5), 16000).read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    assert len(audio.read(bytes(content))) == audio.info(bytes(content)).samples == 8000


def damaged(tmp_path, name):
    wave = sine(16000, 2)
    content = {
        "half.wav": lambda p: write(p, wave, 16000).read_bytes()[:32000],
        "half.flac": lambda p: write(p, wave, 16000).read_bytes()[:9000],
        "half.mp3": lambda p: write(p, wave, 16000).read_bytes()[:2000],
        "half.ogg": lambda p: write(p, wave, 16000).read_bytes()[:5000],
        "header only.wav": lambda p: write(p, wave[:0], 16000).read_bytes(),
        "empty.wav": lambda p: b"",
        "text.wav": lambda p: b"This is a letter, not a recording.\n" * 50,
        "noise.flac": lambda p: np.random.default_rng(0).bytes(5000),
        "page.mp3": lambda p: b"<!doctype html><title>404</title>",
        "film.m4a": lambda p: b"\0\0\0\x20ftypM4A " + bytes(500),
        "no header.raw": lambda p: bytes(32000),
        "not numbers.wav": lambda p: write(p, np.append(wave, np.nan), 16000, subtype="FLOAT").read_bytes(),
        "endless.wav": lambda p: write(p, np.append(wave, np.inf), 16000, subtype="FLOAT").read_bytes(),
        "integers as floats.wav": lambda p: write(p, 20000 * wave, 16000, subtype="FLOAT").read_bytes(),
        "rate 3 Hz.wav": lambda p: write(p, wave, 3).read_bytes(),
    }[name](tmp_path / f"whole.{name.rpartition('.')[2]}" if "header.raw" not in name else None)
    path = tmp_path / name
    path.write_bytes(content)
    return path


REASONS = {
    "half.wav": "cut short: its header promises 2.00 s, 1.00 s are there",
    "half.flac": "damaged or cut short after 0.00 s",
    "half.mp3": "cut short: its header promises 2.00 s",
    "half.ogg": "no samples",
    "header only.wav": "no samples",
    "empty.wav": "0 bytes",
    "text.wav": "not a recording that libsndfile can read",
    "noise.flac": "not a recording that libsndfile can read",
    "page.mp3": "not a recording that libsndfile can read",
    "film.m4a": "convert it first: ffmpeg",
    "no header.raw": "no header",
    "not numbers.wav": "not numbers, the first at 2.000 s",
    "endless.wav": "not numbers",
    "integers as floats.wav": "samples within ±1 were expected",
    "rate 3 Hz.wav": "rate of 3 Hz",
}


@pytest.mark.parametrize("name", REASONS)
def test_damage_is_an_error_that_names_file_and_reason(tmp_path, name):
    path = damaged(tmp_path, name)
    for call in (audio.read, lambda p: list(audio.stream(p))):
        with pytest.raises(AudioError) as caught:
            call(path)
        assert str(path) in str(caught.value)
        assert REASONS[name] in str(caught.value)


@pytest.mark.parametrize("name", ["text.wav", "empty.wav", "noise.flac"])
def test_damaged_bytes_are_an_error_too(tmp_path, name):
    with pytest.raises(AudioError, match="the given bytes"):
        audio.read(damaged(tmp_path, name).read_bytes())


def test_a_closed_file_and_an_empty_name_are_called_that(tmp_path):
    path = write(tmp_path / "a.wav", sine(8000, 0.1), 8000)
    with path.open("rb") as file:
        pass
    with pytest.raises(AudioError, match=r"a\.wav is closed"):
        audio.read(file)
    with pytest.raises(AudioError, match="the name of the recording is empty"):
        audio.read("")


def test_places_without_a_recording_are_errors_that_say_which(tmp_path):
    with pytest.raises(AudioError, match=r"nowhere\.wav does not exist"):
        audio.read(tmp_path / "nowhere.wav")
    with pytest.raises(AudioError, match="is a folder"):
        audio.info(tmp_path)
    with pytest.raises(AudioError, match="binary mode"), io.StringIO("text") as text:
        audio.read(text)
    with pytest.raises(AudioError, match="cannot be written"):
        audio.write(tmp_path / "a.strange", sine(16000))
    with pytest.raises(AudioError, match="both rates must be positive"):
        audio.resample(sine(8000), 8000, 0)


@settings(max_examples=60)
@given(
    position=st.integers(0, 3000), value=st.integers(0, 255), suffix=st.sampled_from(["wav", "flac", "ogg"])
)
def test_a_changed_byte_gives_sound_or_an_audio_error(position, value, suffix):
    buffer = io.BytesIO()
    soundfile.write(buffer, sine(16000, 0.2), 16000, format=suffix.upper())
    content = bytearray(buffer.getvalue())
    content[position % min(len(content), 200)] = value
    try:
        got = audio.read(bytes(content))
    except AudioError:
        return
    assert got.ndim == 1 and len(got) and np.isfinite(got).all() and np.abs(got).max() <= 1
