"""Ranks the hypotheses of a beam anew with a second language model, which judges whole sentences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from asr.decoding.hypothesis import Hypothesis
from asr.errors import DecodingError
from asr.lm import NGramModel, SentenceModel, Steps, by_words, mixed
from asr.text import Alphabet


@dataclass(frozen=True)
class Rescoring:
    """How hypotheses are ranked anew: P₁(word) becomes (1 − share) P₁(word) + share P₂(word).

    P₁ is the n-gram model of the search and P₂ that of the sentence model; their mean (`asr.lm.mixed`) has
    the weight α that P₁ had in the search. Without n-grams it is P₂ to the power of α · share.

    Args:
        model: the sentence model.
        count: hypotheses of each utterance that it judges, at least 2.
        share: its share of the probability, 0 to 1.
        ngrams: the model of the search; None if it had none.

    Raises:
        DecodingError: settings out of these ranges.
    """

    model: SentenceModel
    count: int
    share: float
    ngrams: NGramModel | None = None

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
        judged = iter(judge(texts, alphabet, self.model, self.ngrams))

        def rescored(hypothesis: Hypothesis) -> Hypothesis:
            judgement = next(judged)
            return replace(
                hypothesis,
                score=judgement.score(hypothesis, alpha, self.share),
                sentence_log_prob=float(judgement.sentence.ln.sum()),
            )

        return [sorted(map(rescored, hypotheses), key=lambda h: -h.score) for hypotheses in lists]


class Judgement(NamedTuple):
    """What both models say of a text."""

    ngrams: Steps | None
    sentence: Steps

    def score(self, hypothesis: Hypothesis, alpha: float, share: float) -> float:
        """The hypothesis' score of the search with the mean of both models instead of the n-grams alone."""
        if self.ngrams is None:
            return hypothesis.score + alpha * share * float(self.sentence.ln.sum())
        return hypothesis.score + alpha * (mixed(self.ngrams, self.sentence, share) - hypothesis.lm_log_prob)


def judge(
    texts: Sequence[str], alphabet: Alphabet, model: SentenceModel, ngrams: NGramModel | None
) -> list[Judgement]:
    """What the models say of each text; the n-grams read it with white space between what are their words."""
    sentences = model.steps(texts)
    if ngrams is None:
        return [Judgement(None, sentence) for sentence in sentences]
    words = by_words(ngrams, [alphabet.separate(text) for text in texts])
    return [Judgement(*both) for both in zip(words, sentences, strict=True)]
