"""Transcripts in one spelling: composed, and without case, punctuation and symbols if so wished."""

import re
import unicodedata
from typing import Literal

from asr.errors import TextError

Style = Literal["none", "basic", "upper"]

_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]"
)  # soft hyphen, word joiner, byte order mark, marks of direction, variants of symbols, tags, and the like
_NON_JOINER, _JOINER = "\u200c", "\u200d"
_JOINERS = re.compile(f"[{_NON_JOINER}{_JOINER}]+")
_KEPT = f"'-·{_NON_JOINER}{_JOINER}"  # within words
_VIRAMA = 9  # the combining class of viramas
_GERSHAYIM = re.compile('(?<=[\u05d0-\u05ea])["\u05f4](?=[\u05d0-\u05ea])')  # marks a Hebrew acronym
_LOOSE = re.compile(  # not between letters, accents or digits; the point of Catalan, not between two l
    r"(?<![^\s'·-])['-]+|['-]+(?![^\s'·-])|(?<![lL])·|·(?![lL])"
)


class _Plain(dict[int, str]):
    """What each character becomes without punctuation and symbols, found out when it is first met."""

    def __missing__(self, code: int) -> str:
        c = chr(code)
        kind = unicodedata.category(c)
        self[code] = " " if (kind[0] in "PSC" or kind == "Me") and c not in _KEPT else c
        return self[code]


_PLAIN = _Plain(str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'", "\u05f3": "'", "ŀ": "l·", "Ŀ": "L·"}))


def composed(text: str) -> str:
    """The text in NFC, in which words are compared and characters counted."""
    return unicodedata.normalize("NFC", text)


def normalise(text: str, style: Style = "basic") -> str:
    """The transcript normalised for training and scoring.

    Args:
        text: any Unicode text.
        style: `none` composes to NFC and joins white space; `basic` also lowers case and removes punctuation
            and symbols except apostrophes, hyphens and Catalan `l·l` within words, and characters without
            width, which never separate words, except joiners that are part of the spelling; `upper` is
            `basic` in upper case.

    Raises:
        TextError: an unknown style.

    >>> normalise("  Don’t  STOP — now!")
    "don't stop now"
    >>> normalise("Grüße, 세계")
    'grüße 세계'
    """
    if style not in ("none", "basic", "upper"):
        raise TextError(f"text style {style!r}: expected one of none, basic, upper")
    if style == "none":
        return " ".join(composed(text).split())
    text = composed(_INVISIBLE.sub("", text))
    text = _JOINERS.sub(_spelled, _GERSHAYIM.sub("", text)).lower().replace("i\u0307", "i")
    text = composed(text.upper() if style == "upper" else text).translate(_PLAIN)
    return " ".join(_LOOSE.sub(" ", text).split())


def _spelled(joiners: re.Match[str]) -> str:
    """The joiner if it changes how the word is written, nothing elsewhere.

    It does beside a virama, which joins the consonants of Indic scripts; a non-joiner does between letters of
    Arabic.

    Source: RFC 5892, appendix A.1 and A.2; Unicode Standard, section 12.2, for one before a virama (Bengali).
    """
    text, kind, first, last = joiners.string, joiners[0][0], joiners.start(), joiners.end()
    while first and unicodedata.combining(text[first - 1]):
        first -= 1
    while last < len(text) and unicodedata.combining(text[last]):
        last += 1
    joins = any(unicodedata.combining(c) == _VIRAMA for c in text[first:last])
    letters = text[max(first - 1, 0) : first], text[last : last + 1]
    parts = kind == _NON_JOINER and all(c.isalpha() and unicodedata.bidirectional(c) == "AL" for c in letters)
    return kind if joins or parts else ""
