"""From the prefixes that a search ends with to the hypotheses that it hands out."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from asr.ctc import align, ctc_loss
from asr.decoding import occurrence, outcome, search
from asr.decoding.hypothesis import Hypothesis, write
from asr.decoding.prefixes import Beam
from asr.decoding.tables import LN_10, Tables
from asr.text import Alphabet


class Reading(NamedTuple):
    """What a labelling writes, and what that is worth apart from the audio."""

    text: str
    orthography: tuple[str, ...] | None
    log10_p: float
    other: float


def read(tokens: np.ndarray, tables: Tables, alphabet: Alphabet, words: Sequence[str] | None) -> Reading:
    """The text of a labelling, of homophones the best; `other` is −∞ if it may not be written.

    Args:
        words: the word of each entry of the tables where words are written by their pronunciation.
    """
    nodes, cost = outcome.read_words(tokens, tables)
    entries = outcome.choose_words(nodes, tables)
    log10_p, other = outcome.weigh(tokens, entries, tables)
    if words is None:
        return Reading(write(tokens.tolist(), alphabet), None, log10_p, other + cost)
    orthography = tuple(words[entry] if entry >= 0 else "" for entry in entries)
    return Reading(" ".join(orthography), orthography, log10_p, other + cost)


def rank(
    beam: Beam,
    tree: np.ndarray,
    y_TV: np.ndarray,
    tables: Tables,
    alphabet: Alphabet,
    *,
    words: Sequence[str] | None,
    n_best: int,
    begin: tuple[int, ...] = (),
) -> list[Hypothesis]:
    """At most n_best hypotheses of different texts, at least one, best first.

    The best path takes part, so nothing is handed out that scores below its labelling. Where a lexicon
    allows neither that nor any prefix of the beam, the leading prefix is cut back to its last whole word.

    Args:
        beam, tree: of a search that has taken all frames.
        y_TV: those frames, plain probabilities.
        words: see `read`.
        begin: tokens that the prefixes of the beam begin with. The best path takes part only if it does too.
    """
    found: dict[str, Hypothesis] = {}

    def add(tokens: np.ndarray) -> None:
        reading = read(tokens, tables, alphabet, words)
        known = found.get(reading.text)
        if reading.other > -math.inf and (known is None or known.tokens != tuple(tokens.tolist())):
            new = _hypothesis(tokens, reading, y_TV, tables.alpha)
            if known is None or new.score > known.score:
                found[reading.text] = new

    scores = outcome.finish(beam, tree, tables)
    for i in np.argsort(-scores, kind="stable"):
        if len(found) == n_best or scores[i] == -math.inf:
            break
        add(outcome.trace(tree, beam.node[i]))
    best_path = _best_path(y_TV)
    if tuple(best_path[: len(begin)].tolist()) == begin:
        add(best_path)
    if not found:
        add(_whole_words(outcome.trace(tree, search.leader(beam)), tables, alphabet, words))
    return sorted(found.values(), key=lambda h: -h.score)[:n_best]


def _hypothesis(tokens: np.ndarray, reading: Reading, y_TV: np.ndarray, alpha: float) -> Hypothesis:
    log_prob, spans = _locate(y_TV, tokens)
    peaks = [float(y_TV[a:b, c].max()) for c, (a, b) in zip(tokens, spans, strict=True)]
    return Hypothesis(
        tuple(tokens.tolist()),
        tuple(spans),
        tuple(min(peak, 1.0) for peak in peaks),
        log_prob,
        log_prob + alpha * reading.log10_p + reading.other,
        lm_log_prob=reading.log10_p * LN_10,
        bonus=reading.other,
        orthography=reading.orthography,
    )


def _locate(y_TV: np.ndarray, tokens: np.ndarray) -> tuple[float, list[tuple[int, int]]]:
    """ln p(tokens) and the frames of each; in logarithms where plain probabilities do not suffice."""
    spans = np.empty((len(tokens), 2), np.int64)
    ln = occurrence.locate(y_TV, tokens, spans)
    if ln > -math.inf:
        return ln, [(a, b) for a, b in spans.tolist()]
    log_probs_TV = torch.from_numpy(np.log(np.maximum(y_TV, np.finfo(float).tiny)))
    lengths = torch.tensor([len(y_TV)]), torch.tensor([len(tokens)])
    ln = -float(ctc_loss(log_probs_TV[None], torch.from_numpy(tokens)[None], *lengths)[0])
    return ln, [(span.start_frame, span.end_frame) for span in align(log_probs_TV, tokens)]


def _best_path(y_TV: np.ndarray) -> np.ndarray:
    """The labelling of the most probable path."""
    best_T = y_TV.argmax(1)
    return best_T[(best_T > 0) & (np.diff(best_T, prepend=0) != 0)]


def _whole_words(
    tokens: np.ndarray, tables: Tables, alphabet: Alphabet, words: Sequence[str] | None
) -> np.ndarray:
    """The longest beginning of the tokens that consists of words that may be written."""
    ends = [0, *np.flatnonzero(tables.closes[tokens]).tolist()]
    allowed = [end for end in ends if read(tokens[:end], tables, alphabet, words).other > -math.inf]
    return tokens[: max(allowed)]
