"""From the prefixes that a search ends with to the hypotheses that it hands out."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from asr.ctc import align, ctc_loss
from asr.decoding import occurrence, outcome, search
from asr.decoding.hypothesis import Hypothesis
from asr.decoding.prefixes import Beam
from asr.decoding.tables import LN_10, Tables
from asr.text import Alphabet


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

    The best path takes part, so nothing is handed out that scores below its labelling. If a lexicon allows
    neither that nor any prefix, it is what all must begin with in the end, or the leader's whole words.

    Args:
        beam, tree: of a search that has taken all frames.
        y_TV: those frames, plain probabilities.
        words: see `spell_out`.
        begin: what all prefixes must begin with. The best path takes part only if it does too.
    """
    found: dict[object, Hypothesis] = {}  # by text
    known: set[tuple[int, ...]] = set()

    def add(tokens: np.ndarray) -> None:
        if (labelling := tuple(tokens.tolist())) in known:
            return
        known.add(labelling)
        entries, log10_p, other = outcome.read(tokens, tables)
        weight = tables.alpha * log10_p + other
        worst = min((h.score for h in found.values()), default=-math.inf)
        if weight == -math.inf or (len(found) >= n_best and weight <= worst):  # no labelling has ln p > 0
            return
        log_prob, spans, peaks = _locate(y_TV, tokens)
        new = Hypothesis(
            labelling,
            tuple(map(tuple, spans.tolist())),
            tuple(peaks.tolist()),
            log_prob,
            log_prob + weight,
            lm_log_prob=log10_p * LN_10,
            bonus=other,
            orthography=spell_out(entries, words),
        )
        text = new.text(alphabet) if n_best > 1 else new.tokens
        if text not in found or new.score > found[text].score:
            found[text] = new

    scores = outcome.finish(beam, tree, tables)
    for i in np.argsort(-scores, kind="stable"):
        if len(found) == n_best or scores[i] == -math.inf:
            break
        add(outcome.trace(tree, beam.entries["node"][i]))
    best_path = occurrence.best_path(y_TV)
    if tuple(best_path[: len(begin)].tolist()) == begin:
        add(best_path)
    if not found:
        add(max(_whole_words(beam, tree, tables), outcome.inevitable_words(beam, tree, tables), key=len))
    return sorted(found.values(), key=lambda h: -h.score)[:n_best]


def spell_out(entries: np.ndarray, words: Sequence[str] | None) -> tuple[str, ...] | None:
    """The words of entries in writing, if `words` says what each entry of the tables is."""
    return None if words is None else tuple(words[entry] if entry >= 0 else "" for entry in entries)


def _locate(y_TV: np.ndarray, tokens: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """ln p(tokens), the frames of each, its highest probability there.

    In logarithms where plain probabilities do not suffice.
    """
    spans, peaks = np.empty((len(tokens), 2), np.int64), np.empty(len(tokens))
    ln = occurrence.locate(y_TV, tokens, spans, peaks)
    if ln > -math.inf:
        return ln, spans, peaks
    log_probs_TV = torch.from_numpy(np.log(np.maximum(y_TV, np.finfo(float).tiny)))
    lengths = torch.tensor([len(y_TV)]), torch.tensor([len(tokens)])
    ln = -float(ctc_loss(log_probs_TV[None], torch.from_numpy(tokens)[None], *lengths)[0])
    for i, span in enumerate(align(log_probs_TV, tokens)):
        spans[i] = span.start_frame, span.end_frame
        peaks[i] = min(y_TV[span.start_frame : span.end_frame, span.token].max(), 1.0)
    return ln, spans, peaks


def _whole_words(beam: Beam, tree: np.ndarray, tables: Tables) -> np.ndarray:
    """The longest beginning of the leading prefix that consists of words that may be written."""
    tokens = outcome.trace(tree, search.leader(beam))
    ends = [0, *np.flatnonzero(tables.closes[tokens]).tolist()]
    return tokens[: max(end for end in ends if outcome.read(tokens[:end], tables)[2] > -math.inf)]
