"""Turns the prefixes that a search ends with into ranked hypotheses."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from asr.ctc import required_frames
from asr.decoding import agreement, alternatives, outcome, search
from asr.decoding.hypothesis import Hypothesis, write
from asr.decoding.occurrence import Heard
from asr.decoding.prefixes import FRAMES, Beam
from asr.decoding.tables import LN_10, Tables
from asr.text import Alphabet

DRAWN = 64  # labellings sampled for the confidences
_CONTEXT = 32  # words before those that are judged: there labellings with different beginnings are aligned
_SCORED = 2  # texts scored per wanted hypothesis, of several: candidates are only roughly in order
_LABELLINGS = 2  # scored per text, of several: the first to be found is nearly always the best
_LOOKED_AT = 16  # labellings per wanted hypothesis: many differ only in leading or trailing spaces


def rank(
    beam: Beam,
    tree: np.ndarray,
    heard: Heard,
    tables: Tables,
    alphabet: Alphabet,
    *,
    words: Sequence[str] | None,
    n_best: int,
    begin: tuple[int, ...] = (),
) -> list[Hypothesis]:
    """At most n_best hypotheses of different texts, best first; none if no prefix begins with `begin`.

    The labelling of the best path competes, so the best hypothesis never scores below it. If a lexicon allows
    neither that nor any prefix, the result is the inevitable words or the leader's whole words, the longer.

    Args:
        beam, tree: of a search that has processed all frames.
        heard: those frames.
        words: see `_spell_out`.
        begin: tokens that every hypothesis must begin with.
    """
    found: dict[object, Hypothesis] = {}  # by text
    known: set[tuple[int, ...]] = set()
    scored: Counter[object] = Counter()
    hopeless = -math.inf  # the score that a further text has to exceed

    def add(tokens: np.ndarray, *, even_if_impossible: bool = False) -> None:
        nonlocal hopeless
        labelling = tuple(tokens.tolist())
        if labelling in known or labelling[: len(begin)] != begin:
            return
        known.add(labelling)
        entries, log10_p, other = outcome.read(tokens, tables)
        weight = tables.alpha * log10_p + other
        if weight <= hopeless:  # no labelling has ln p > 0
            return
        orthography = _spell_out(entries, words)
        text = labelling if n_best == 1 else write(labelling, alphabet, orthography)
        scored[text] += 1
        if scored[text] > _LABELLINGS:
            return
        ln, spans, peaks = heard.locate(tokens, len(begin))
        new = Hypothesis(labelling, spans, peaks, ln, ln + weight, log10_p * LN_10, other, orthography)
        is_better = text not in found or new.score > found[text].score
        if is_better and (new.log_prob > -math.inf or even_if_impossible):
            found[text] = new
            if len(found) >= n_best:
                hopeless = min(h.score for h in found.values())

    for tokens in _candidates(beam, tree, tables, n_best):
        if len(found) == (1 if n_best == 1 else _SCORED * n_best):
            break
        add(tokens)
    scored.clear()  # the best path is scored whatever its text
    add(heard.best_path())
    if not found:
        words_known = _whole_words(beam, tree, tables), outcome.inevitable_words(beam, tree, tables)
        add(max(words_known, key=len), even_if_impossible=True)
    return sorted(found.values(), key=lambda h: -h.score)[:n_best]


def _candidates(beam: Beam, tree: np.ndarray, tables: Tables, n_best: int) -> Iterable[np.ndarray]:
    """Labellings, roughly best first; for n_best = 1 the prefixes that the search ends with."""
    scores = outcome.finish(beam, tree, tables)
    if n_best > 1:
        several = alternatives.best(beam, tree, scores, _LOOKED_AT * n_best).each()
        return (tokens for tokens in several if required_frames(tokens) <= beam.counts[FRAMES])
    order = np.argsort(-scores, kind="stable")
    return (outcome.trace(tree, beam.entries["node"][i]) for i in order if scores[i] > -math.inf)


def judged(
    beam: Beam,
    tree: np.ndarray,
    tables: Tables,
    alphabet: Alphabet,
    hypotheses: list[Hypothesis],
    *,
    known: Sequence[float] = (),
) -> list[Hypothesis]:
    """The hypotheses with word confidences; unchanged if no prefix of the beam may be written.

    Args:
        known: the confidences of the first words, which are kept. The words after them are judged by what
            competes in their neighbourhood, at a cost that does not depend on how much was said before.
    """
    first = max(len(known) - _CONTEXT, 0)
    begin = alphabet.word_slices(hypotheses[0].tokens)[first][0] if first else 0
    numbers, ends = agreement.drawn(beam, tree, tables, DRAWN, begin)
    if not len(ends):
        return hypotheses

    def sure(hypothesis: Hypothesis) -> tuple[float, ...]:
        share_W = agreement.shares(np.array(hypothesis.tokens[begin:], np.int64), tables, numbers, ends)
        found = agreement.confidences(share_W, hypothesis.peaks(alphabet, first))
        return (*known, *found[len(known) - first :])

    return [replace(h, word_confidences=sure(h) or None) for h in hypotheses]


def _spell_out(entries: np.ndarray, words: Sequence[str] | None) -> tuple[str, ...] | None:
    """The written words of the entries, if `words` gives that of each entry of the tables; else None."""
    return None if words is None else tuple(words[entry] if entry >= 0 else "" for entry in entries)


def _whole_words(beam: Beam, tree: np.ndarray, tables: Tables) -> np.ndarray:
    """The longest initial part of the leading prefix that consists of whole words that may be written."""
    tokens = outcome.trace(tree, search.leader(beam))
    ends = [0, *np.flatnonzero(tables.closes[tokens]).tolist()]
    return next(tokens[:end] for end in reversed(ends) if outcome.read(tokens[:end], tables)[2] > -math.inf)
