"""Decoding while the sound still comes: a part that is settled for good, and a guess at what follows it.

Conventions. Log-probabilities come in blocks of any size, (time, outputs). Frames count from the first block.
What was found when the last block is in is what `greedy` and `BeamDecoder.decode` find in the whole; but
where a beam has lost the better labelling of the best path, the beam's is kept, since it was handed out.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from asr.decoding.best_path import greedy
from asr.decoding.hypothesis import Hypothesis, word_slices, write
from asr.errors import DecodingError
from asr.text import Alphabet

if TYPE_CHECKING:
    from asr.decoding.beam import BeamDecoder


@dataclass(frozen=True)
class Progress:
    """What is believed after some frames.

    Attributes:
        hypothesis: of all frames so far, as if they were all.
        settled: so many of its first tokens will be the first tokens at the end, whatever comes. A beam may
            still move their frames, by one or two, and think again about their confidence. How sure words
            are that are not settled, their own tokens alone say.
    """

    hypothesis: Hypothesis
    settled: int

    def settled_text(self, alphabet: Alphabet) -> str:
        """What the settled tokens spell: the text at the end begins with it."""
        if self.hypothesis.orthography is not None:
            return " ".join(self.hypothesis.orthography[: self.settled_words(alphabet)])
        tokens = self.hypothesis.tokens[: self.settled]
        if alphabet.lexicon is not None:  # phones spell nothing before their word is complete
            tokens = tokens[
                : max((i for i, token in enumerate(tokens) if token == alphabet.space), default=0)
            ]
        return write(tokens, alphabet)

    def settled_words(self, alphabet: Alphabet) -> int:
        """Of the first words so many are settled: their tokens are, and something that ends them."""
        alone = alphabet.space is None and not alphabet.is_subword
        ends = [end for _, end in word_slices(self.hypothesis.tokens, alphabet)]
        return sum(end < self.settled or (alone and end == self.settled) for end in ends)


class StreamDecoder(Protocol):
    """Takes log-probabilities as they come."""

    def feed(self, log_probs_TV: Tensor) -> Progress:
        """What is believed with these frames behind those before."""
        ...

    def finish(self) -> Hypothesis:
        """What was said in all; nothing may be fed any more."""
        ...


class GreedyStream:
    """The best path, block by block.

    All its tokens are settled but one that the next frame may still make longer.

    >>> import torch
    >>> stream = GreedyStream()
    >>> probs_TV = torch.tensor([[0.1, 0.9], [0.3, 0.7], [0.8, 0.2], [0.4, 0.6]])
    >>> [(now.hypothesis.frames, now.settled) for now in map(stream.feed, probs_TV.log().split(2))]
    [(((0, 2),), 0), (((0, 2), (3, 4)), 1)]
    """

    def __init__(self) -> None:
        self._frames = 0
        self._closed: list[tuple[int, tuple[int, int], float]] = []
        self._open: tuple[int, tuple[int, int], float] | None = None
        self._log_prob = 0.0

    def feed(self, log_probs_TV: Tensor) -> Progress:
        """What is believed with these frames behind those before.

        Raises:
            DecodingError: wrong axes, NaN, or values that are not normalised log-probabilities.
        """
        _check_axes(log_probs_TV)
        [new] = greedy(log_probs_TV[None], [len(log_probs_TV)])
        for token, (start, end), confidence in zip(new.tokens, new.frames, new.confidences, strict=True):
            span = start + self._frames, end + self._frames
            before = self._open
            if before is not None and before[0] == token and before[1][1] == span[0]:
                self._open = token, (before[1][0], span[1]), max(before[2], confidence)
            else:
                self._close()
                self._open = token, span, confidence
        self._frames += len(log_probs_TV)
        self._log_prob += new.log_prob
        if self._open is not None and self._open[1][1] < self._frames:
            self._close()
        return Progress(self.finish(), len(self._closed))

    def finish(self) -> Hypothesis:
        """What was said in all."""
        found = [*self._closed, self._open] if self._open is not None else self._closed
        tokens, frames, confidences = zip(*found, strict=True) if found else ((), (), ())
        return Hypothesis(tokens, frames, confidences, self._log_prob, self._log_prob)

    def _close(self) -> None:
        if self._open is not None:
            self._closed.append(self._open)
            self._open = None


class BeamStream:
    """A beam search, block by block: settled is what all prefixes that are alive have in common.

    With a lexicon, only whole words are, because an utterance must not end within one, the last of them even
    before its end is heard, if all that is alive can only become this word and no other word goes on from
    it; with pronunciations only up to the first that what follows may still turn into a homophone.
    """

    def __init__(self, decoder: "BeamDecoder") -> None:
        self._search, self._alphabet = decoder.begin(), decoder.alphabet
        self._confidences: tuple[float, ...] = ()  # of the words that are settled

    def feed(self, log_probs_TV: Tensor) -> Progress:
        """What is believed with these frames behind those before.

        Raises:
            DecodingError: wrong axes, NaN, or values that are not normalised log-probabilities.
        """
        _check_axes(log_probs_TV)
        self._search.advance(log_probs_TV)
        settled = self._search.settled()
        [best] = self._search.finish(settled, judge=False)
        count = Progress(best, len(settled)).settled_words(self._alphabet)
        if count > len(self._confidences):
            self._confidences = self._sure(*self._search.judged([best]))[:count]
        sure = self._confidences + self._sure(best)[len(self._confidences) :]
        return Progress(replace(best, word_confidences=sure), len(settled))

    def finish(self) -> Hypothesis:
        """What was said in all."""
        [best] = self._search.finish(self._search.settled())
        return best

    def _sure(self, hypothesis: Hypothesis) -> tuple[float, ...]:
        return tuple(word.confidence for word in hypothesis.words(self._alphabet))


def _check_axes(log_probs_TV: Tensor) -> None:
    if log_probs_TV.dim() != 2:
        raise DecodingError(
            f"a block of log-probabilities of shape {tuple(log_probs_TV.shape)}: expected (time, outputs)"
        )
