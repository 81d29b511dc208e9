"""What a search has found, scored anew from the outputs alone; compiled by numba.

The beam ranks by sums over the paths that it kept. What it hands out is scored by `weigh` and `locate`, which
know nothing of beams: so a score means the same at any width.
"""

import math
from typing import Any

import numpy as np
from numba import njit

from asr.decoding.prefixes import ENTRIES, Beam
from asr.decoding.search import close_word, trie_child
from asr.decoding.tables import OUTSIDE, ROOT, Tables
from asr.lm.automaton import advance

FORGET = 1e-40  # a state of the lattice with so much less mass than the frame's best is not followed


@njit(nogil=True, cache=True)
def finish(beam: Beam, tree: Any, tables: Tables) -> Any:
    """(entries,) ln score of each prefix of the beam as a whole utterance, its words closed."""
    scores = np.empty(beam.counts[ENTRIES])
    for i in range(len(scores)):
        at = tree[beam.node[i]]
        if math.isnan(at.close):
            close_word(tree, tables, beam.node[i])
        ln = at.close - tables.hot_promise[at.hot]
        ln += tables.hot_reward[tables.hot_after[at.hot, 0]] if tables.hot_start else 0.0
        if tables.start_state >= 0:
            ln += tables.alpha * advance(tables.ngrams, at.next_history, tables.end)[1]
        if at.token_history >= 0:
            ln += tables.token_alpha * advance(tables.token_ngrams, at.token_history, tables.token_end)[1]
        scores[i] = math.log(beam.total[i]) + beam.scale[0] + ln
    return scores


@njit(nogil=True, cache=True)
def trace(tree: Any, node: int) -> Any:
    """The outputs of a prefix."""
    length, at = 0, node
    while at > 0:
        length += 1
        at = tree[at].parent
    tokens = np.empty(length, np.int64)
    while node > 0:
        length -= 1
        tokens[length] = tree[node].token
        node = tree[node].parent
    return tokens


@njit(nogil=True, cache=True)
def shared_node(beam: Beam, tree: Any) -> int:
    """The longest prefix that all prefixes of the beam begin with; a node's number is above its parent's."""
    node = beam.node[0]
    for i in range(1, beam.counts[ENTRIES]):
        other = beam.node[i]
        while node != other:
            if node > other:
                node = tree[node].parent
            else:
                other = tree[other].parent
    return node


@njit(nogil=True, cache=True)
def weigh(tokens: Any, tables: Tables) -> tuple[float, float]:
    """(log10 P by the word n-grams, all other weights in nats) of a labelling as a whole utterance.

    Found anew from the tokens alone, nothing foreseen: an independent account of what the search adds up.
    """
    log10_p, other, history, word_node, spelled = 0.0, 0.0, tables.start_state, ROOT, 0.0
    hot, token_history = tables.hot_start, tables.token_start
    for i in range(len(tokens) + 1):
        c = tokens[i] if i < len(tokens) else -1
        if c < 0 or tables.closes[c]:
            if word_node != ROOT:
                word = tables.trie[word_node].word if word_node > ROOT else -1
                if word < 0:
                    word = tables.unknown
                    other -= np.inf if tables.outside == -np.inf else tables.unknown_penalty + spelled
                if tables.start_state >= 0:
                    history, p = advance(tables.ngrams, history, word)
                    log10_p += p
                    other += tables.beta
            word_node, spelled = ROOT, 0.0
        if c < 0:
            break
        for a in range(tables.first[c], tables.first[c + 1]):
            digit = np.int64(tables.digits[a])
            if digit:
                word_node = trie_child(tables.trie, word_node, digit)
                spelled += tables.outside_step if word_node == OUTSIDE else 0.0
            hot = tables.hot_after[hot, digit]
            other += tables.hot_reward[hot]
        if token_history >= 0:
            token_history, p = advance(tables.token_ngrams, token_history, tables.token_word[c])
            other += tables.token_alpha * p
    if tables.hot_start:
        other += tables.hot_reward[tables.hot_after[hot, 0]]
    if token_history >= 0:
        other += tables.token_alpha * advance(tables.token_ngrams, token_history, tables.token_end)[1]
    if tables.start_state >= 0:
        log10_p += advance(tables.ngrams, history, tables.end)[1]
    return log10_p, other


@njit(nogil=True, cache=True)
def locate(y_TV: Any, tokens: Any, spans: Any) -> float:
    """ln p(tokens) by all paths; fills spans (S, 2) with first frame and end of each token on the best path.

    Forward variable and Viterbi over the states blank, token, blank, … (see `asr.ctc`), both in plain
    probabilities scaled anew in every frame, and only over the window of states that are not negligible.
    −∞ if none of them spells the tokens; the spans then say nothing.
    """
    frames, states = y_TV.shape[0], 2 * len(tokens) + 1
    moves = np.empty((frames, states), np.int8)
    mass, best = np.zeros(states + 2), np.zeros(states + 2)  # state s lies at s + 2
    mass[2] = best[2] = 1.0
    low, high, ln = 0, 0, 0.0
    for t in range(frames):
        top, high = 0.0, min(high + 2, states - 1)
        for s in range(high, low - 1, -1):
            label = tokens[s >> 1] if s & 1 else 0
            total, path, move = mass[s + 2] + mass[s + 1], best[s + 2], 0
            if best[s + 1] > path:
                path, move = best[s + 1], 1
            if s & 1 and s > 1 and label != tokens[(s >> 1) - 1]:
                total += mass[s]
                if best[s] > path:
                    path, move = best[s], 2
            mass[s + 2], best[s + 2], moves[t, s] = total * y_TV[t, label], path * y_TV[t, label], move
            top = max(top, mass[s + 2])
        if not top > 0.0:
            return -np.inf
        while mass[high + 2] < FORGET * top:
            mass[high + 2] = best[high + 2] = 0.0
            high -= 1
        while mass[low + 2] < FORGET * top:
            mass[low + 2] = best[low + 2] = 0.0
            low += 1
        for s in range(low, high + 1):
            mass[s + 2] /= top
            best[s + 2] /= top
        ln += math.log(top)
    s = states - 1
    total = mass[s + 2] + (mass[s + 1] if states > 1 else 0.0)
    if states > 1 and best[s + 1] > best[s + 2]:
        s -= 1
    if not best[s + 2] > 0.0:
        return -np.inf
    spans[:, 1] = 0
    for t in range(frames - 1, -1, -1):
        if s & 1:
            spans[s >> 1, 0] = t
            spans[s >> 1, 1] = max(spans[s >> 1, 1], t + 1)
        s -= moves[t, s]
    return ln + math.log(total)
