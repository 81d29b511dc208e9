"""Train your own speech recogniser, transcribe with it, know how good it is.

>>> import asr
>>> asr.Alphabet([" ", "a", "b"]).encode("ab a")
[2, 3, 1, 2]

Names are loaded on first use, so that importing `asr` costs milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Alphabet": "asr.text",
    "AsrError": "asr.errors",
    "Recognizer": "asr.recognizer",
    "Score": "asr.scoring",
    "Transcript": "asr.transcript",
    "load": "asr.recognizer",
    "score": "asr.scoring",
}
_ROOMS = ("ctc", "decoding", "lab", "lm", "scoring", "corpus", "training", "serving")

if TYPE_CHECKING:
    from asr.errors import AsrError as AsrError
    from asr.recognizer import Recognizer as Recognizer
    from asr.recognizer import load as load
    from asr.scoring import Score as Score
    from asr.scoring import score as score
    from asr.text import Alphabet as Alphabet
    from asr.transcript import Transcript as Transcript

__all__ = ["Alphabet", "AsrError", "Recognizer", "Score", "Transcript", "__version__", "load", "score"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"asr.{name}")
    raise AttributeError(f"module 'asr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*_HOMES, *_ROOMS, *(name for name in globals() if name.startswith("__"))})
