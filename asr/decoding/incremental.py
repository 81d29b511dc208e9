"""Decodes one utterance incrementally, for streams and whole recordings alike."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from asr.decoding import outcome, search
from asr.decoding.emissions import check
from asr.decoding.hypothesis import Hypothesis
from asr.decoding.occurrence import Heard
from asr.decoding.prefixes import ALTERNATIVES, NODE, NODES, Settings, new_beam, with_room
from asr.decoding.ranking import judged, rank
from asr.decoding.tables import Tables
from asr.text import Alphabet

NODES_PER_FRAME = 32  # tree nodes to allocate for each frame to come
LOST = 0.25  # nats per frame by which a hypothesis that explains the recording may lose to the best path
UNPRUNED = math.exp(-200.0)  # limit for outputs and prefixes when a lost search is repeated


class Decoder(Protocol):
    """What a search takes from its `asr.decoding.BeamDecoder`."""

    alphabet: Alphabet
    tables: Tables
    words: list[str] | None
    settings: Settings

    def weighed(self, log_probs_TV: Tensor) -> np.ndarray:
        """The probabilities of a recording, the prior divided out."""
        ...


class Search:
    """Decodes one utterance incrementally: feed its frames in blocks of any size, then ask for hypotheses.

    The result is that of `BeamDecoder.decode`, whatever the blocks. Tokens are outputs 1 … V−1. `agreed` only
    ever grows, and every prefix of the beam begins with it.

    Args:
        decoder: whose alphabet, tables and weights it uses.
        n_best: the most hypotheses that it returns.
        settings: the limits of pruning, if others than the decoder's.

    >>> import torch
    >>> log_probs_TV = torch.tensor([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.2, 0.7]]).log()
    >>> from asr.decoding import BeamDecoder
    >>> from asr.text import Alphabet
    >>> search = BeamDecoder(Alphabet(["a", "b"])).begin()
    >>> search.advance(log_probs_TV[:2])
    >>> search.agreed()
    ()
    >>> search.advance(log_probs_TV[2:])
    >>> [best] = search.finish()
    >>> best.tokens, best.frames
    ((1, 2), ((0, 1), (2, 3)))
    """

    def __init__(self, decoder: Decoder, n_best: int, settings: Settings | None = None) -> None:
        self._decoder, self._n_best, self._settings = decoder, n_best, settings or decoder.settings
        self._alphabet, self._tables, self._words = decoder.alphabet, decoder.tables, decoder.words
        self._beam, self._tree = new_beam(self._settings.width, self._alphabet.size), np.empty(1, NODE)
        self._heard = Heard(np.empty((0, self._alphabet.size)))
        self._agreed: tuple[int, ...] = ()
        self._agreed_node = 0  # of the tree, where these tokens end
        self._wider: Search | None = None  # the search that found the hypotheses of `finish`, if another
        search.start(self._beam, self._tree, self._tables)

    def advance(self, log_probs_TV: Tensor) -> None:
        """Process a block of frames: natural logs, (frames, outputs), blank at 0.

        Raises:
            DecodingError: as `BeamDecoder.decode`; frame numbers count from the start of the block.
        """
        block_BTV, _ = check(log_probs_TV[None], [len(log_probs_TV)], outputs=self._alphabet.size)
        self.take(self._decoder.weighed(block_BTV[0]))

    def take(self, y_TV: np.ndarray) -> None:
        """Process a block of frames: probabilities (float64) that have been checked."""
        self._heard.add(y_TV)
        done = 0
        while done < len(y_TV):
            self._make_room(len(y_TV) - done)
            done += search.advance_beam(y_TV[done:], self._beam, self._tree, self._tables, self._settings)

    def _make_room(self, frames: int) -> None:
        """Make the arrays large enough for one more frame, and probably for all `frames`."""
        counts, width = self._beam.counts, self._settings.width
        self._tree = with_room(self._tree, int(counts[NODES]) + width + NODES_PER_FRAME * frames)
        alternatives = with_room(self._beam.alternatives, int(counts[ALTERNATIVES]) + width)
        self._beam = self._beam._replace(alternatives=alternatives)

    def agreed(self) -> tuple[int, ...]:
        """The tokens that all prefixes of the beam begin with."""
        node = outcome.shared_node(self._beam, self._tree)
        self._agreed += tuple(outcome.trace(self._tree, node, self._agreed_node).tolist())
        self._agreed_node = node
        return self._agreed

    def settled(self) -> tuple[int, ...]:
        """The tokens that will be written as they are now, whatever follows.

        With a lexicon these are whole words, as an utterance cannot end inside one; the last may be settled
        before it is fully spelled, if every surviving prefix can only become that word. With pronunciations
        they stop before the first word that may still turn into a homophone.
        """
        tables = self._tables
        if not math.isinf(tables.outside):  # any word may be written
            return self.agreed()
        if self._words is None:
            return tuple(outcome.inevitable_words(self._beam, self._tree, tables).tolist())
        agreed = self.agreed()
        agreed = agreed[: next((i for i in reversed(range(len(agreed))) if tables.closes[agreed[i]]), 0)]
        certain = outcome.certain_words(np.array(agreed, np.int64), tables)
        starts = [start for start, _ in self._alphabet.word_slices(agreed)]
        return agreed[: starts[certain]] if certain < len(starts) else agreed

    def finish(self, begin: tuple[int, ...] = (), *, judge: bool = True) -> list[Hypothesis]:
        """The best hypotheses, best first, if the utterance ends here; more frames may follow.

        If the best one explains the frames far worse than the best path does, the output that every permitted
        word needed may have been pruned. The frames are then searched again without pruning, except by
        `beam_width`, and the better result counts.

        Args:
            begin: tokens of `settled` that were already handed out: every hypothesis begins with them.
            judge: whether to compute word confidences, see `judged`.
        """
        found, self._wider = self.provisional(begin), None
        y_TV = self._heard.y_TV
        if found[0].log_prob < self._heard.best_ln() - LOST * len(y_TV):
            wider = Search(self._decoder, self._n_best, Settings(self._settings.width, UNPRUNED, UNPRUNED))
            wider.take(y_TV)
            again = wider.provisional(begin)
            if again and again[0].score > found[0].score:
                found, self._wider = again, wider
        return self.judged(found) if judge else found

    def provisional(self, begin: tuple[int, ...] = ()) -> list[Hypothesis]:
        """The hypotheses of this search, without word confidences; the arguments are those of `finish`."""
        return rank(
            self._beam,
            self._tree,
            self._heard,
            self._tables,
            self._alphabet,
            words=self._words,
            n_best=self._n_best,
            begin=begin,
        )

    def judged(self, hypotheses: list[Hypothesis], known: Sequence[float] = ()) -> list[Hypothesis]:
        """Hypotheses of `finish` with word confidences that take competing labellings into account.

        Args:
            known: the confidences of their first words, all settled, which are kept.
        """
        by = self._wider or self
        return judged(by._beam, by._tree, self._tables, self._alphabet, hypotheses, known=known)
