"""Pauses in sound: by energy, and by a network that knows voices."""

import numpy as np
import pytest
import torch
from tones import RATE_HZ

from asr import audio
from asr.errors import ConfigError
from asr.voice import find_pause, pause_finder


def noise_with_pauses(seconds: float, pauses_s: list[tuple[float, float]]) -> np.ndarray:
    samples = np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE_HZ)).astype(np.float32)
    for start_s, end_s in pauses_s:
        samples[int(start_s * RATE_HZ) : int(end_s * RATE_HZ)] *= 0.01
    return samples


@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_pauses_are_found_whatever_the_level(gain):
    samples = gain * noise_with_pauses(8.0, [(5, 6)])
    assert find_pause(samples, RATE_HZ) == pytest.approx(5.5 * RATE_HZ, abs=0.02 * RATE_HZ)


def test_short_gaps_and_steady_sound_are_no_pauses():
    assert find_pause(noise_with_pauses(8.0, [(i + 0.4, i + 0.6) for i in range(8)]), RATE_HZ) is None
    assert find_pause(np.zeros(RATE_HZ, np.float32), RATE_HZ) is None


def test_a_pause_is_looked_for_behind_a_place_only():
    samples = noise_with_pauses(8.0, [(1, 3), (5, 6)])
    found = find_pause(samples, RATE_HZ, after_samples=4 * RATE_HZ)
    assert found == pytest.approx(5.5 * RATE_HZ, abs=0.02 * RATE_HZ)


@pytest.mark.parametrize("rate_hz", [8000, 16_000, 44_100])
def test_silero_hears_a_pause_that_noise_hides_from_energy(rate_hz):
    pytest.importorskip("silero_vad", reason="needs asr[vad]")
    espeak = pytest.importorskip("asr.espeak")
    pytest.importorskip("espeakng_loader", reason="needs asr[synth]")
    with espeak.Espeak() as voice:
        said = [voice.speak(text, espeak.Manner("en-us")) for text in ("one two three", "seven eight nine")]
        own_hz = voice.rate_hz
    first, second = (audio.resample(0.3 * s / np.abs(s).max(), own_hz, rate_hz) for s in said)
    pause = np.zeros(rate_hz, np.float32)
    samples = np.concatenate([first, pause, second])
    samples += np.random.default_rng(0).normal(0, 0.05, len(samples)).astype(np.float32)
    assert find_pause(samples, rate_hz) is None
    threads = torch.get_num_threads()
    found = pause_finder("silero")(samples, rate_hz)
    assert torch.get_num_threads() == threads
    assert len(first) < found < len(first) + len(pause)


@pytest.mark.parametrize("rate_hz", [8000, 16_000])
def test_silero_knows_where_somebody_speaks(rate_hz):
    pytest.importorskip("silero_vad", reason="needs asr[vad]")
    espeak = pytest.importorskip("asr.espeak")
    pytest.importorskip("espeakng_loader", reason="needs asr[synth]")
    with espeak.Espeak() as voice:
        said = audio.resample(voice.speak("three seven", espeak.Manner("en-us")), voice.rate_hz, rate_hz)
    noise = np.random.default_rng(0).normal(0, 0.02, 5 * rate_hz).astype(np.float32)
    noise[2 * rate_hz : 2 * rate_hz + len(said)] += 0.3 * said / np.abs(said).max()
    step = rate_hz // 25
    heard = pause_finder("silero").is_speech(noise, rate_hz, step)
    assert len(heard) == 1 + len(noise) // step
    places_s = np.flatnonzero(heard) * step / rate_hz
    assert places_s.min() == pytest.approx(1.5, abs=0.5)
    assert places_s.max() == pytest.approx(2.5 + len(said) / rate_hz, abs=0.5)
    assert len(places_s) == pytest.approx((places_s.max() - places_s.min()) * 25 + 1)


def test_an_unknown_detector_is_named():
    with pytest.raises(ConfigError, match="expected energy or silero"):
        pause_finder("ears")
