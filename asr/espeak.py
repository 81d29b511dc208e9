"""The espeak-ng synthesiser through ctypes: text in, samples or phones out, the same for the same request.

The library and its voices come with the package `espeakng-loader`; nothing is compiled or downloaded. The
library has global state, so use only one `Espeak` per process at a time.
"""

import _ctypes
import ctypes
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from asr.errors import CorpusError, TextError, how_to_install

_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_IPA, _SEPARATOR = 0x02, "_"  # alphabet of the phones, and what separates them within a word
_LONGEST_PATH = 120  # the library stores its data path, with a suffix, in 160 bytes

_PARAMETERS = {"rate_wpm": 1, "pitch": 3, "pitch_range": 4, "gap": 7}

_NO_PHONE = re.compile(r"[ˈˌ]|\([^)]*\)")  # stress, and marks of a switch to another language

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Manner:
    """Who speaks and how."""

    voice: str
    """Accent and timbre, e.g. `en-us+f3`."""
    rate_wpm: int = 175
    pitch: int = 50
    pitch_range: int = 50
    gap: int = 0
    """Extra pause between words, in 10 ms at normal speed."""


class Espeak:
    """A running synthesiser, as a context manager.

    Raises:
        CorpusError: the package `espeakng-loader` is missing, or the library does not start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise CorpusError(
                f"espeak-ng, which speaks and pronounces, is not installed: {how_to_install('synth')}"
            ) from error
        self._path = espeakng_loader.get_library_path()
        self._data = Path(espeakng_loader.get_data_path())
        self._near: tempfile.TemporaryDirectory[str] | None = None
        self._parts: list[np.ndarray] = []
        self._callback = _Callback(self._collect)
        self.rate_hz = 0

    def _collect(self, wave: "ctypes._Pointer[ctypes.c_short]", count: int, _: int) -> int:
        if wave and count > 0:
            self._parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    def __enter__(self) -> Self:
        if len(str(self._data)) > _LONGEST_PATH:
            self._near = tempfile.TemporaryDirectory(prefix="espeak-")
            link = Path(self._near.name) / "espeak-ng-data"
            link.symlink_to(self._data)
            self._data = link
        self._start()
        return self

    def _start(self) -> None:
        self._library, self._language = ctypes.CDLL(self._path), ""
        self.rate_hz = self._library.espeak_Initialize(
            _SYNCHRONOUS, 0, str(self._data).encode(), _DO_NOT_EXIT
        )
        if self.rate_hz <= 0:
            raise CorpusError(f"espeak-ng does not start with the data in {self._data}; reinstall asr[synth]")
        self._library.espeak_SetSynthCallback(self._callback)

    def __exit__(self, *_: object) -> None:
        self._stop()
        if self._near is not None:
            self._near.cleanup()

    def _stop(self) -> None:
        self._library.espeak_Terminate()
        _ctypes.dlclose(self._library._handle)

    def _restart(self) -> None:
        """Reset the synthesiser, so that earlier utterances have no influence.

        The voice's phase survives an utterance, in variables that only unloading the library clears. Breathy
        and rough voices draw random numbers, seeded with the time of day at each start.
        """
        self._stop()
        self._start()
        self._library.espeak_ng_SetRandSeed(1)
        ctypes.CDLL(None).srand(1)

    def speak(self, text: str, manner: Manner) -> np.ndarray:
        """The spoken text, float32 in [-1, 1] at `rate_hz`, independent of earlier calls.

        Raises:
            CorpusError: a voice that does not exist, or text that gives no sound.
        """
        self._restart()
        timbre = manner.voice.partition("+")[2]
        unknown = timbre and timbre not in self.variants()  # which the library would silently ignore
        if unknown or self._library.espeak_SetVoiceByName(manner.voice.encode()) != 0:
            raise CorpusError(f"espeak-ng has no voice {manner.voice!r}")
        for name, number in _PARAMETERS.items():
            self._library.espeak_SetParameter(number, int(getattr(manner, name)), 0)
        self._parts = []
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        if not any(part.any() for part in self._parts):
            raise CorpusError(f"espeak-ng gives no sound for {text!r} with voice {manner.voice!r}")
        return np.concatenate(self._parts).astype(np.float32) / 32768

    def phones(self, word: str, language: str, *, unstressed: bool = False) -> list[str]:
        """The phones of a word in the International Phonetic Alphabet, without stress; none if it is silent.

        Args:
            word: in ordinary spelling.
            language: a voice of espeak-ng, e.g. `en-us` or `de`.
            unstressed: as pronounced before another word; alone, English `a` and Russian `с` are read as
                letter names.

        Raises:
            TextError: there is no such language.

        Source: espeak-ng, speak_lib.h, espeak_TextToPhonemes.
        """
        if language != self._language:
            if self._library.espeak_SetVoiceByName(language.encode()) != 0:
                raise TextError(
                    f"espeak-ng does not speak {language!r}; `en-us` and `de` are among its voices"
                )
            self._language = language
        to_phonemes = self._library.espeak_TextToPhonemes
        to_phonemes.restype = ctypes.c_char_p
        text = f"{word} {word}" if unstressed else word
        rest, words = ctypes.c_char_p(text.encode()), []
        while rest.value:  # the library returns clause by clause and moves the pointer on
            clause = to_phonemes(ctypes.byref(rest), _UTF8, ord(_SEPARATOR) << 8 | _IPA)
            words += _NO_PHONE.sub("", (clause or b"").decode()).split()
        said = words[: len(words) // 2] if unstressed else words
        return [phone for phone in _SEPARATOR.join(said).split(_SEPARATOR) if phone]

    def variants(self) -> list[str]:
        """Names of the timbres, which any accent can be combined with."""
        return sorted(p.name for p in (self._data / "voices" / "!v").iterdir())
