"""Ranks the hypotheses of a beam anew with a second language model, which judges whole sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from asr.decoding.hypothesis import Hypothesis
from asr.errors import DecodingError
from asr.text import Alphabet


class SentenceModel(Protocol):
    """A language model that may look at a whole sentence, such as `asr.lm.RecurrentModel`."""

    def log_probs(self, sentences: Sequence[str]) -> np.ndarray:
        """(N,) the natural-log probability of each sentence with its end."""
        ...


@dataclass(frozen=True)
class Rescoring:
    """How hypotheses are ranked anew: ln P(words) becomes (1 − share) ln P₁(words) + share ln P₂(words).

    P₁ is the n-gram model of the search and P₂ that of the sentence model: they are combined log-linearly,
    within the weight α that the search had.

    Args:
        model: the sentence model.
        count: hypotheses of each utterance that it judges, at least 2.
        share: its share of the language model's weight, 0 to 1.

    Raises:
        DecodingError: settings out of these ranges.
    """

    model: SentenceModel
    count: int
    share: float

    def __post_init__(self) -> None:
        if self.count < 2 or not 0 <= self.share <= 1:
            raise DecodingError(
                f"rescore={self.count}, rescore_share={self.share}: expected 2 or more hypotheses (0: off) "
                "and a share between 0 and 1"
            )

    def ranked(
        self, lists: Sequence[list[Hypothesis]], alphabet: Alphabet, *, alpha: float
    ) -> list[list[Hypothesis]]:
        """The hypotheses of each utterance with their new scores, best first; equal ones keep their order.

        Args:
            lists: the N-best list of each utterance.
            alphabet: of the hypotheses.
            alpha: the weight of the language model in the search.
        """
        texts = [hypothesis.text(alphabet) for hypotheses in lists for hypothesis in hypotheses]
        judged = iter(self.model.log_probs(texts).tolist())

        def rescored(hypothesis: Hypothesis) -> Hypothesis:
            more = next(judged)
            return replace(
                hypothesis, score=rescore(hypothesis, more, alpha * self.share), sentence_log_prob=more
            )

        return [sorted(map(rescored, hypotheses), key=lambda h: -h.score) for hypotheses in lists]


def rescore(hypothesis: Hypothesis, sentence_log_prob: float, weight: float) -> float:
    """The hypothesis' score of the search, `weight` of it moved from the n-grams to the sentence model."""
    return hypothesis.score + weight * (sentence_log_prob - hypothesis.lm_log_prob)
