"""The result of a decoder: tokens with their frames, and the words that they spell."""

from collections.abc import Sequence
from dataclasses import dataclass

from asr.text import Alphabet


@dataclass(frozen=True)
class Word:
    """A word, its frames (end exclusive), and the probability that it is correct."""

    text: str
    start_frame: int
    end_frame: int
    confidence: float


@dataclass(frozen=True)
class Hypothesis:
    """A labelling of one utterance.

    Attributes:
        tokens: outputs 1 … V−1, in order.
        frames: for each token its first frame and the frame after its last.
        confidences: for each token the highest probability that the model gives it, in [0, 1].
        log_prob: ln p(tokens | audio) as the decoder found it: for the best path the probability of that one
            path, for a beam the sum over the paths that it kept.
        score: what the decoder ranks by: `log_prob` + α `lm_log_prob` + `bonus`, unless rescored.
        lm_log_prob: ln P(words) by the language model, </s> included, before its weight; 0 without one.
        bonus: sum of word and hotword bonuses and weighted token LM scores, less unknown-word penalties.
        orthography: the written words, if the tokens are phones, which do not determine them; else None.
        word_confidences: for each word the probability that it is correct, given the beam search's competing
            labellings; None if only the tokens' confidences are known.
        sentence_log_prob: ln P(words) by the model that rescores, see `Rescoring`; None if none does.
    """

    tokens: tuple[int, ...]
    frames: tuple[tuple[int, int], ...]
    confidences: tuple[float, ...]
    log_prob: float
    score: float
    lm_log_prob: float = 0.0
    bonus: float = 0.0
    orthography: tuple[str, ...] | None = None
    word_confidences: tuple[float, ...] | None = None
    sentence_log_prob: float | None = None

    def text(self, alphabet: Alphabet) -> str:
        """The words in writing: separated by one space, or by nothing in a script without spaces.

        >>> said = Hypothesis((1, 2, 1, 1, 3), ((0, 1),) * 5, (1.0,) * 5, -0.1, -0.1)
        >>> said.text(Alphabet([" ", "a", "b"]))
        'a b'
        """
        return write(self.tokens, alphabet, self.orthography)

    def words(self, alphabet: Alphabet) -> list[Word]:
        """The words with their frames.

        Without `word_confidences`, a word's confidence is the lowest of its tokens'.

        >>> said = Hypothesis((2, 3, 1, 2), ((0, 1), (2, 4), (4, 5), (7, 8)), (0.9, 0.8, 0.7, 0.6), -1, -1)
        >>> said.words(Alphabet([" ", "a", "b"]))
        [Word(text='ab', start_frame=0, end_frame=4, confidence=0.8), Word(text='a', start_frame=7, end_frame=8, confidence=0.6)]
        """  # noqa: E501
        slices = alphabet.word_slices(self.tokens)
        texts = self.orthography or [alphabet.decode(self.tokens[first:end]) for first, end in slices]
        sure = self.word_confidences or self.peaks(alphabet)
        return [
            Word(text, self.frames[first][0], self.frames[end - 1][1], confidence)
            for text, (first, end), confidence in zip(texts, slices, sure, strict=True)
        ]

    def peaks(self, alphabet: Alphabet, first: int = 0) -> list[float]:
        """For each word from the `first` on, the lowest confidence of its tokens."""
        return [min(self.confidences[a:b]) for a, b in alphabet.word_slices(self.tokens)[first:]]


def write(tokens: Sequence[int], alphabet: Alphabet, orthography: Sequence[str] | None = None) -> str:
    """The text of the tokens, without spaces at the ends or doubled ones inside; the orthography if given.

    >>> write([1, 2, 1, 1, 3], Alphabet([" ", "a", "b"]))
    'a b'
    """
    if orthography is not None:
        return " ".join(orthography)
    text = alphabet.decode(tokens)
    return " ".join(text.split()) if alphabet.separates_words else text
