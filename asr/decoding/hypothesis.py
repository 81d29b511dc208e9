"""What a decoder returns: the tokens of one utterance, when they were said, and how sure it is."""

from collections.abc import Iterator
from dataclasses import dataclass

from asr.text import Alphabet


@dataclass(frozen=True)
class Word:
    """A word with the frames it covers (end exclusive) and the probability that it is right."""

    text: str
    start_frame: int
    end_frame: int
    confidence: float


@dataclass(frozen=True)
class Hypothesis:
    """One labelling of an utterance.

    log_prob is what the decoder ranks by (natural log): `acoustic` plus `lm` (weights applied).
    """

    tokens: tuple[int, ...]
    frames: tuple[tuple[int, int], ...]
    """Start and end (exclusive) of each token."""
    confidences: tuple[float, ...]
    """Of each token, 0 to 1."""
    log_prob: float
    acoustic: float
    lm: float = 0.0

    def text(self, alphabet: Alphabet) -> str:
        """The written hypothesis, with single spaces between words."""
        text = alphabet.decode(self.tokens)
        return " ".join(text.split()) if alphabet.space is not None or alphabet.is_subword else text

    def words(self, alphabet: Alphabet) -> list[Word]:
        """The words in order; in a script without spaces every symbol is one. Confidence: the least sure token's."""
        return [
            Word(
                alphabet.decode(self.tokens[i] for i in group),
                self.frames[group[0]][0],
                self.frames[group[-1]][1],
                min(self.confidences[i] for i in group),
            )
            for group in self._groups(alphabet)
        ]

    def _groups(self, alphabet: Alphabet) -> Iterator[list[int]]:
        """Positions of the tokens of each word."""
        group: list[int] = []
        has_words = alphabet.space is not None or alphabet.is_subword
        for i, token in enumerate(self.tokens):
            if group and (token == alphabet.space or alphabet.word_starts[token] or not has_words):
                yield group
                group = []
            if token != alphabet.space:
                group.append(i)
        if group:
            yield group
