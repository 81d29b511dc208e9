"""Transcripts in one spelling: composed, and without case, punctuation and symbols if so wished."""

import re
import unicodedata
from typing import Literal

from asr.errors import TextError

Style = Literal["none", "basic", "upper"]

_INVISIBLE = re.compile("[\u00ad\u200b\ufeff]")  # soft hyphen, zero-width space, byte order mark
_LOOSE = re.compile(r"(?<![^\s'-])['-]+|['-]+(?![^\s'-])")  # not between letters, accents or digits


class _Plain(dict[int, str]):
    """What each character becomes without punctuation and symbols, found out when it is first met."""

    def __missing__(self, code: int) -> str:
        c = chr(code)
        self[code] = " " if unicodedata.category(c)[0] in "PSC" and c not in "'-" else c
        return self[code]


_PLAIN = _Plain(str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'"}))


def normalise(text: str, style: Style = "basic") -> str:
    """The transcript normalised for training and scoring.

    Args:
        text: any Unicode text.
        style: `none` composes to NFC and joins white space; `basic` also lowers case and removes punctuation
            and symbols except apostrophes and hyphens within words, and characters without width that only
            say where a line may break; `upper` is `basic` in upper case.

    Raises:
        TextError: an unknown style.

    >>> normalise("  Don’t  STOP — now!")
    "don't stop now"
    >>> normalise("Grüße, 세계")
    'grüße 세계'
    """
    if style not in ("none", "basic", "upper"):
        raise TextError(f"text style {style!r}: expected one of none, basic, upper")
    text = unicodedata.normalize("NFC", text if style == "none" else _INVISIBLE.sub("", text))
    if style != "none":
        text = unicodedata.normalize("NFC", text.lower()).translate(_PLAIN)
        text = _LOOSE.sub(" ", text)
        if style == "upper":
            text = unicodedata.normalize("NFC", text.upper())
    return " ".join(text.split())
