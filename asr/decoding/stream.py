"""Streaming decoding: a settled part that no longer changes, and a provisional rest.

Conventions. Log-probabilities come in blocks of any size, (time, outputs). Frames count from the first block.
The final result is that of `greedy` or `BeamDecoder.decode` for the whole; but if the best path's labelling
or a search without pruning finds better and contradicts settled tokens, the beam's is kept, since those were
handed out.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from asr.decoding.best_path import greedy
from asr.decoding.hypothesis import Hypothesis, write
from asr.errors import DecodingError
from asr.text import Alphabet

if TYPE_CHECKING:
    from asr.decoding.beam import BeamDecoder


@dataclass(frozen=True)
class Progress:
    """The state of a decoding after some frames.

    Attributes:
        hypothesis: of the frames so far, as if the utterance ended here.
        settled: how many of its first tokens are final, whatever follows. A beam search may still shift their
            frames by one or two. Until a word is settled its confidence comes from its own tokens only; then
            it stays as it is until the final result, which judges all words anew.
    """

    hypothesis: Hypothesis
    settled: int

    def settled_text(self, alphabet: Alphabet) -> str:
        """The text of the settled tokens: the final text begins with it."""
        if self.hypothesis.orthography is not None:
            return " ".join(self.hypothesis.orthography[: self.settled_words(alphabet)])
        tokens = self.hypothesis.tokens[: self.settled]
        if alphabet.lexicon is not None:  # phones spell nothing before their word is complete
            space = alphabet.space
            tokens = tokens[: next((i for i in reversed(range(len(tokens))) if tokens[i] == space), 0)]
        return write(tokens, alphabet)

    def settled_words(self, alphabet: Alphabet) -> int:
        """How many words are settled: all their tokens are, and whatever ends them."""
        ends = [end for _, end in alphabet.word_slices(self.hypothesis.tokens)]
        return sum(end < self.settled + (not alphabet.separates_words) for end in ends)


class StreamDecoder(Protocol):
    """Decodes log-probabilities as they arrive."""

    def feed(self, log_probs_TV: Tensor) -> Progress:
        """The progress with these frames added."""
        ...

    def finish(self) -> Hypothesis:
        """The final hypothesis; nothing may be fed afterwards."""
        ...


class GreedyStream:
    """The best path, block by block.

    All tokens are settled except one that the next frame may still extend.

    >>> import torch
    >>> stream = GreedyStream()
    >>> probs_TV = torch.tensor([[0.1, 0.9], [0.3, 0.7], [0.8, 0.2], [0.4, 0.6]])
    >>> [(now.hypothesis.frames, now.settled) for now in map(stream.feed, probs_TV.log().split(2))]
    [(((0, 2),), 0), (((0, 2), (3, 4)), 1)]
    """

    def __init__(self) -> None:
        self._frames = 0
        self._found: list[tuple[int, tuple[int, int], float]] = []  # token, frames, confidence
        self._log_prob = 0.0

    def feed(self, log_probs_TV: Tensor) -> Progress:
        """The progress with these frames added.

        Raises:
            DecodingError: wrong axes, NaN, or values that are not normalised log-probabilities.
        """
        _check_axes(log_probs_TV)
        [new] = greedy(log_probs_TV[None], [len(log_probs_TV)])
        for token, (start, end), confidence in zip(new.tokens, new.frames, new.confidences, strict=True):
            span = start + self._frames, end + self._frames
            if self._found and self._found[-1][0] == token and self._found[-1][1][1] == span[0]:
                _, (first, _), before = self._found.pop()
                span, confidence = (first, span[1]), max(before, confidence)
            self._found.append((token, span, confidence))
        self._frames += len(log_probs_TV)
        self._log_prob += new.log_prob
        is_open = bool(self._found) and self._found[-1][1][1] == self._frames
        return Progress(self.finish(), len(self._found) - is_open)

    def finish(self) -> Hypothesis:
        """The hypothesis of all frames."""
        tokens, frames, confidences = zip(*self._found, strict=True) if self._found else ((), (), ())
        return Hypothesis(tokens, frames, confidences, self._log_prob, self._log_prob)


class BeamStream:
    """A beam search, block by block: settled is what all surviving prefixes have in common.

    With a lexicon only whole words settle, as an utterance cannot end inside one; the last may settle early
    if every surviving prefix can only become that word and no longer word begins with it. With pronunciations
    words settle only up to the first that may still turn into a homophone.
    """

    def __init__(self, decoder: "BeamDecoder") -> None:
        self._search, self._alphabet = decoder.begin(), decoder.alphabet
        self._confidences: tuple[float, ...] = ()  # of the settled words

    def feed(self, log_probs_TV: Tensor) -> Progress:
        """The progress with these frames added.

        Raises:
            DecodingError: wrong axes, NaN, or values that are not normalised log-probabilities.
        """
        _check_axes(log_probs_TV)
        self._search.advance(log_probs_TV)
        settled = self._search.settled()
        [best] = self._search.provisional(settled)
        count = Progress(best, len(settled)).settled_words(self._alphabet)
        if (known := len(self._confidences)) < count:
            [judged] = self._search.judged([best], self._confidences)
            sure = judged.word_confidences or (*self._confidences, *best.peaks(self._alphabet, known))
            self._confidences += sure[known:count]
        sure = (*self._confidences, *best.peaks(self._alphabet, len(self._confidences)))
        return Progress(replace(best, word_confidences=sure), len(settled))

    def finish(self) -> Hypothesis:
        """The hypothesis of all frames."""
        [best] = self._search.finish(self._search.settled())
        return best


def _check_axes(log_probs_TV: Tensor) -> None:
    if log_probs_TV.dim() != 2:
        raise DecodingError(
            f"a block of log-probabilities of shape {tuple(log_probs_TV.shape)}: expected (time, outputs)"
        )
