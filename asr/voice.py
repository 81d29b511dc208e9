"""Voice activity detection: finds pauses by their energy, or by the silero-vad network.

Conventions. A pause is at least a quarter of a second long. Energies are those of frames of 10 ms, in dB
relative to full scale; a pause by energy lies below a threshold between the noise and the speech around it,
so it needs no absolute level. Steady noise masks it, but not for a network trained on voices: silero-vad 6.2
reads 16 kHz in frames of 32 ms and gives the probability of speech in each. Its files come with its package,
nothing is downloaded, and it runs on onnxruntime, independently of the version of torch.
"""

import warnings
from functools import cache
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from asr import audio
from asr.errors import ConfigError, how_to_install

VoiceDetector = Literal["energy", "silero"]
SHORTEST_PAUSE_S = 0.25
"""Longer than the closure of a plosive."""
FRAME_S = 0.010
SILERO_FRAME_SAMPLES = 512
"""At 16 kHz."""

_SMALLEST_RANGE_DB = 10.0  # between the quiet and the loud frames of sound that has pauses at all
_THRESHOLD = 0.3  # of that range, above the quiet frames
_MARGIN_S = 0.5  # around speech found by silero: models output a word up to 0.3 s before it is said
_QUIETEST_DB = -80.0  # floor for digital silence, which would pull the threshold down with it


class PauseFinder(Protocol):
    """Finds where to cut."""

    def __call__(self, samples: np.ndarray, rate_hz: int, /, *, after_samples: int = 0) -> int | None:
        """The sample in the middle of the longest pause after `after_samples`, or None if there is none."""


@runtime_checkable
class SpeechFinder(PauseFinder, Protocol):
    """Also detects speech, so that no words are written where nobody speaks."""

    def is_speech(self, samples: np.ndarray, rate_hz: int, step_samples: int) -> np.ndarray:
        """Whether somebody speaks near the time of each output; bool (1 + n // step_samples,)."""


@cache
def pause_finder(name: VoiceDetector) -> PauseFinder:
    """The finder of that name.

    Raises:
        ConfigError: an unknown name, or silero-vad is not installed.
    """
    if name == "energy":
        return find_pause
    if name == "silero":
        return Silero()
    raise ConfigError(f"vad {name!r}: expected energy or silero")


def find_pause(samples: np.ndarray, rate_hz: int, *, after_samples: int = 0) -> int | None:
    """The sample in the middle of the longest pause after `after_samples`, or None if there is none.

    >>> noise = np.random.default_rng(0).standard_normal(16000)
    >>> noise[8000:12000] *= 0.01
    >>> find_pause(noise, 16000)
    10000
    >>> find_pause(noise[:8000], 16000) is None
    True
    """
    frame = max(1, round(FRAME_S * rate_hz))
    level_N = levels_db(samples, frame)
    if not len(level_N):
        return None
    quiet, loud = np.percentile(level_N, [10, 95])
    if loud - quiet < _SMALLEST_RANGE_DB:
        return None
    is_quiet_N = level_N < quiet + _THRESHOLD * (loud - quiet)
    return _longest_pause(is_quiet_N, frame_samples=frame, rate_hz=rate_hz, after_samples=after_samples)


def levels_db(samples: np.ndarray, frame_samples: int) -> np.ndarray:
    """The level of each whole frame, in dB relative to full scale, not below −80.

    >>> levels_db(np.array([1.0, -1.0, 0.1, 0.1, 0.0, 0.0]), 2).round(3).tolist()
    [0.0, -20.0, -80.0]
    """
    frames_NT = samples[: len(samples) // frame_samples * frame_samples].reshape(-1, frame_samples)
    power_N = np.einsum("nt,nt->n", frames_NT, frames_NT) / frame_samples
    return 10 * np.log10(np.maximum(power_N, 10 ** (_QUIETEST_DB / 10)))


class Silero:
    """Finds pauses by the probability of speech.

    Raises:
        ConfigError: silero-vad is not installed.
    """

    def __init__(self) -> None:
        import torch

        threads = torch.get_num_threads()
        try:
            import silero_vad

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of how it finds its own files
                self._model = silero_vad.load_silero_vad(sequence=True)
        except ImportError as error:
            raise ConfigError(
                f"{error.name} is not installed; silero needs: {how_to_install('vad')}"
            ) from error
        finally:
            torch.set_num_threads(threads)  # importing it sets one thread for the whole program

    def __call__(self, samples: np.ndarray, rate_hz: int, /, *, after_samples: int = 0) -> int | None:
        """The sample in the middle of the longest stretch without speech after `after_samples`, or None."""
        frame = rate_hz * SILERO_FRAME_SAMPLES / audio.RATE_HZ
        is_quiet_N = self.speech(samples, rate_hz) < 0.5
        middle = _longest_pause(is_quiet_N, frame_samples=frame, rate_hz=rate_hz, after_samples=after_samples)
        return None if middle is None else min(len(samples) - 1, middle)

    def is_speech(self, samples: np.ndarray, rate_hz: int, step_samples: int) -> np.ndarray:
        """Whether somebody speaks within half a second of the time of each output; bool (N,).

        Args:
            samples: mono float32 (n,), n at least 1.
            rate_hz: theirs.
            step_samples: from one output to the next; N is 1 + n // step_samples.
        """
        frame = rate_hz * SILERO_FRAME_SAMPLES / audio.RATE_HZ
        spoken_at = (np.flatnonzero(self.speech(samples, rate_hz) >= 0.5) + 0.5) * frame
        moment_N = np.arange(1 + len(samples) // step_samples) * step_samples
        bounds = np.array([-_MARGIN_S, _MARGIN_S]) * rate_hz
        first_N, end_N = np.searchsorted(spoken_at, moment_N + bounds[:, None])
        near_N: np.ndarray = end_N > first_N
        return near_N

    def speech(self, samples: np.ndarray, rate_hz: int) -> np.ndarray:
        """The probability of speech in each frame of 32 ms, float32 (N,)."""
        heard = audio.resample(np.ascontiguousarray(samples, np.float32), rate_hz, audio.RATE_HZ)
        probabilities_N: np.ndarray = self._model.audio_forward(heard)
        return probabilities_N


def _longest_pause(
    is_quiet_N: np.ndarray, *, frame_samples: float, rate_hz: int, after_samples: int
) -> int | None:
    """The sample in the middle of the longest run of quiet frames; None if it is too short for a pause.

    >>> is_quiet_N = np.array([1, 1, 1, 0, 1, 1, 0], bool)
    >>> [_longest_pause(is_quiet_N, frame_samples=10, rate_hz=80, after_samples=n) for n in (0, 20, 50)]
    [15, 50, None]
    """
    first = int(after_samples / frame_samples)
    runs = runs_of(is_quiet_N[first:])
    if not runs:
        return None
    begin, end = max(runs, key=lambda run: run[1] - run[0])
    is_pause = (end - begin) * frame_samples >= SHORTEST_PAUSE_S * rate_hz
    return int((first + (begin + end) / 2) * frame_samples) if is_pause else None


def runs_of(is_true_N: np.ndarray) -> list[tuple[int, int]]:
    """First and end of each run of true values, in their order.

    >>> runs_of(np.array([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    edges = np.flatnonzero(np.diff(is_true_N, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
