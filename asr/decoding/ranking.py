"""From the prefixes that a search ends with to the hypotheses that it hands out."""

import math

import numpy as np
import torch

from asr.ctc import align, ctc_loss
from asr.decoding import outcome, search
from asr.decoding.hypothesis import Hypothesis, write
from asr.decoding.prefixes import Beam
from asr.decoding.tables import LN_10, Tables
from asr.text import Alphabet


def rank(
    beam: Beam, tree: np.ndarray, tables: Tables, alphabet: Alphabet, y_TV: np.ndarray, n_best: int
) -> list[Hypothesis]:
    """At most n_best hypotheses of different texts, at least one, best first.

    The best path takes part, so nothing is handed out that scores below its labelling. Where a lexicon
    allows neither that nor any prefix of the beam, the leading prefix is cut back to its last whole word.

    Args:
        beam, tree, tables: of a search that has taken all frames.
        y_TV: those frames, plain probabilities.
    """
    scores = outcome.finish(beam, tree, tables)
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] > -math.inf]
    found: dict[str, Hypothesis] = {}
    for i in order:
        _add(found, outcome.trace(tree, beam.node[i]), tables, alphabet, y_TV)
        if len(found) == n_best:
            break
    _add(found, _best_path(y_TV), tables, alphabet, y_TV)
    if not found:
        leading = outcome.trace(tree, search.leader(beam))
        _add(found, _whole_words(leading, tables), tables, alphabet, y_TV)
    return sorted(found.values(), key=lambda h: -h.score)[:n_best]


def _add(
    found: dict[str, Hypothesis], tokens: np.ndarray, tables: Tables, alphabet: Alphabet, y_TV: np.ndarray
) -> None:
    """Put the hypothesis of these tokens under its text, unless a better one stands there or none may."""
    text = write(tokens.tolist(), alphabet)
    if text in found and found[text].tokens == tuple(tokens.tolist()):
        return
    log10_p, other = outcome.weigh(tokens, tables)
    if other == -math.inf:
        return
    log_prob, spans = _locate(y_TV, tokens)
    score = log_prob + tables.alpha * log10_p + other
    if text in found and found[text].score >= score:
        return
    peaks = [float(y_TV[a:b, c].max()) for c, (a, b) in zip(tokens, spans, strict=True)]
    found[text] = Hypothesis(
        tuple(tokens.tolist()),
        tuple(spans),
        tuple(min(peak, 1.0) for peak in peaks),
        log_prob,
        score,
        lm_log_prob=log10_p * LN_10,
        bonus=other,
    )


def _locate(y_TV: np.ndarray, tokens: np.ndarray) -> tuple[float, list[tuple[int, int]]]:
    """ln p(tokens) and the frames of each; in logarithms where plain probabilities do not suffice."""
    spans = np.empty((len(tokens), 2), np.int64)
    ln = outcome.locate(y_TV, tokens, spans)
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


def _whole_words(tokens: np.ndarray, tables: Tables) -> np.ndarray:
    """The longest beginning of the tokens that consists of words that may be written."""
    ends = [0, *np.flatnonzero(tables.closes[tokens]).tolist()]
    allowed = [end for end in ends if outcome.weigh(tokens[:end], tables)[1] > -math.inf]
    return tokens[: max(allowed, default=0)]
