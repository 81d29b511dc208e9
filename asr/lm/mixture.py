"""Two language models as one: the mean of their probabilities, word by word.

The models may cut a text differently, into words and subword pieces or, in a script without spaces, into
characters and pieces of several. What lies between two places at which both end a token has a probability in
each, the product over its tokens, and of these the weighted mean is taken.

Source: linear interpolation, Jelinek & Mercer 1980.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from asr.lm.ngram import NGramModel
from asr.normalisation import composed

AFTER = 1 << 62
"""Where the end of a sentence ends, after all of its characters."""


class Steps(NamedTuple):
    """How a model reads a sentence, token by token.

    Attributes:
        ends: (K,) characters of the sentence up to each token's end, without spaces; the last is `AFTER`.
        ln: (K,) natural-log probability of each token after those before; the last is the sentence's end.
    """

    ends: np.ndarray
    ln: np.ndarray


class SentenceModel(Protocol):
    """A language model that may look at a whole sentence, such as `asr.lm.RecurrentModel`."""

    def steps(self, sentences: Sequence[str]) -> list[Steps]:
        """How it reads each sentence."""
        ...


def by_words(model: NGramModel, sentences: Sequence[str]) -> list[Steps]:
    """How an n-gram model reads sentences whose words are separated by white space."""
    _, log10 = model.token_scores(sentences)
    ln, ends = log10 * math.log(10), [np.cumsum([*map(len, s.split())]) for s in map(composed, sentences)]
    parts = np.split(ln, np.cumsum([len(part) + 1 for part in ends])[:-1])
    return [
        Steps(np.append(end, AFTER).astype(np.int64), part) for end, part in zip(ends, parts, strict=True)
    ]


def mixed(first: Steps, second: Steps, share: float) -> float:
    """ln P of a sentence if each stretch of it has (1 − share) P₁ + share P₂.

    >>> words = Steps(np.array([3, 7, AFTER]), np.log([0.1, 0.2, 0.5]))
    >>> pieces = Steps(np.array([3, 5, 7, AFTER]), np.log([0.3, 0.5, 0.8, 0.5]))
    >>> round(math.exp(mixed(words, pieces, 0.5)), 4)  # 0.2 · 0.3 · 0.5
    0.03
    """
    ends = np.intersect1d(first.ends, second.ends)
    one, other = (np.diff(np.cumsum(of.ln)[_last(of, ends)], prepend=0.0) for of in (first, second))
    with np.errstate(divide="ignore"):
        return float(np.logaddexp(np.log1p(-share) + one, np.log(share) + other).sum())


def _last(steps: Steps, ends: np.ndarray) -> np.ndarray:
    """The last token that ends at each of these places."""
    return np.searchsorted(steps.ends, ends, side="right") - 1
