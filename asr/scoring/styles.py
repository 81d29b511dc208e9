"""Which spellings count as the same word: the normalisation that is applied to both sides before scoring."""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, get_args

from asr.errors import ScoringError
from asr.normalisation import composed, normalise

Style = Literal["none", "basic", "upper", "english"]
"""`none`, `basic` and `upper` are those of `asr.text.normalise` and serve any language; `english` spells
numbers, contractions, titles and British spellings one way and drops fillers (“um”) and what stands in
brackets: the normalisation by which Whisper's results are published."""


def word_splitter(style: Style) -> Callable[[str], tuple[str, ...]]:
    """The function that turns a text into its words in the style.

    Raises:
        ScoringError: an unknown style, or `english` without the package that it needs.

    >>> word_splitter("basic")("Yes, Sir!")
    ('yes', 'sir')
    """
    if style not in get_args(Style):
        raise ScoringError(f"normalisation {style!r}: expected one of {', '.join(get_args(Style))}")
    if style == "none":  # what normalise does, without joining only to split again
        return lambda text: tuple(composed(text).split())
    if style == "english":
        english = _english()
        return lambda text: tuple(normalise(english(text), "none").split())
    return lambda text: tuple(normalise(text, style).split())


@cache
def _english() -> Any:
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise ScoringError(
            "the normalisation 'english' needs a package that is not here: pip install whisper-normalizer; "
            "or score with 'basic', which removes case and punctuation"
        ) from error
    return EnglishTextNormalizer()
