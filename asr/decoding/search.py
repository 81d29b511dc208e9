"""CTC prefix beam search over flat arrays, compiled by numba.

A *prefix* is a node of a tree: its parent and the output that was added. Each prefix of the beam carries two
masses, of the paths that end in the blank and of those that end in its last output (Hannun et al. 2014). The
masses are plain probabilities times the weights of language model and hotwords, scaled anew when they get
small: no logarithm and no exponential is taken per frame and prefix.

What makes it fast. A prefix that stays takes the inflow from its parent by a stored index, so merging costs
no look-up, and an extension is by construction a prefix that is not in the beam. Only extensions that can
survive are looked at further. Factors of language model and hotwords are computed once for a prefix and kept
in the tree. And a prefix that another one dominates is dropped: same future, both masses higher, and nothing
flows in any more, so it can never win.
"""

import math
from typing import Any

import numpy as np

from asr.decoding.prefixes import (
    BEST,
    ENTRIES,
    EXTENSIONS,
    FRAMES,
    NODES,
    TINY,
    Beam,
    Settings,
    compiled,
    count_bits,
    inlined,
)
from asr.decoding.selection import choose_outputs, drop_dominated, least_mass, rescale
from asr.decoding.tables import OUTSIDE, ROOT, Tables
from asr.lm.automaton import advance


@compiled
def start(beam: Beam, tree: Any, tables: Tables) -> None:
    """Make the empty prefix, of mass one, the only one."""
    root = tree[0]
    root.parent = root.child = root.sibling = -1
    root.token = root.slot = 0
    root.word_node, root.history, root.next_history = ROOT, tables.start_state, tables.start_state
    root.hot, root.next_hot, root.token_history = 0, 0, tables.token_start
    root.close, root.factor = np.nan, 1.0
    beam.seen_at[:] = -1
    beam.present[:] = -1
    beam.counts[:] = 0
    beam.counts[NODES] = 1
    beam.scale[0] = 0.0
    _insert(beam, tree, tables, 0, -1, 1.0)
    beam.blank[0], beam.spoken[0] = 1.0, 0.0


@compiled
def advance_beam(y_TV: Any, beam: Beam, tree: Any, tables: Tables, settings: Settings) -> int:
    """Take in frames of plain probabilities; how many, which is fewer than given if the tree is full."""
    for t in range(y_TV.shape[0]):
        y_V = y_TV[t]
        count = choose_outputs(y_V, settings.least_output, beam.chosen)
        if beam.counts[NODES] + beam.counts[ENTRIES] * count > tree.shape[0]:
            return t
        beam.counts[EXTENSIONS] = 0
        beam.counts[FRAMES] += 1
        best = _stay(y_V, beam)
        if count:
            best = _extend(y_V, beam.chosen[:count], best, beam, tree, tables, settings.cut)
        if not best > 0.0:
            beam.counts[ENTRIES] = 0
            break
        if settings.drop_dominated:
            drop_dominated(beam, tree)
        least, equals = least_mass(beam, best * settings.cut, settings.width)
        _compact(beam, tree, tables, least, equals)
        if best < TINY:
            rescale(beam, best)
    return y_TV.shape[0]


@compiled
def _stay(y_V: Any, beam: Beam) -> float:
    """The highest mass among the prefixes of the beam after a frame in which none is extended out of it.

    Blank: both masses go to `blank`. The last output again: `spoken` stays. Inflow: from the parent, if it is
    in the beam; only its `blank` mass if it ends in the same output.
    """
    best, y_blank, frame = 0.0, y_V[0], beam.counts[FRAMES]
    for i in range(beam.counts[ENTRIES]):
        token, parent = beam.token[i], beam.parent[i]
        mass = beam.spoken[i]
        if parent >= 0:
            inflow = beam.blank[parent] if beam.token[parent] == token else beam.total[parent]
            mass += inflow * beam.factor[i]
            beam.present[parent, token] = frame
        mass *= y_V[token]
        beam.new_spoken[i] = mass
        beam.new_blank[i] = beam.total[i] * y_blank
        best = max(best, mass + beam.new_blank[i])
    return best


@compiled
def _extend(y_V: Any, tokens: Any, best: float, beam: Beam, tree: Any, tables: Tables, cut: float) -> float:
    """The highest mass after all extensions that may survive are listed; `best` is that of stays."""
    first, frame = beam.counts[BEST], beam.counts[FRAMES]
    for c in tokens:
        y = y_V[c] * tables.bound
        for j in range(-1, beam.counts[ENTRIES]):
            i = first if j < 0 else j  # the best prefix first: it sets the threshold for the rest
            mass = beam.total[i]
            if mass * y < best * cut or j == first or beam.present[i, c] == frame:
                continue
            if beam.token[i] == c:
                mass = beam.blank[i]
            mass *= y_V[c]
            factor = _ceiling(beam, tree, tables, i, c)
            if mass * factor < best * cut or mass * factor <= 0.0:
                continue
            node = beam.node[i]
            child = tree[node].child
            while child >= 0 and tree[child].token != c:
                child = tree[child].sibling
            if child < 0:
                child = _add_node(tree, tables, beam.counts, node, c)
            mass *= tree[child].factor
            if mass < best * cut or mass <= 0.0:
                continue
            best = max(best, mass)
            e = beam.counts[EXTENSIONS]
            beam.extension_from[e], beam.extension_node[e], beam.extension_mass[e] = i, child, mass
            beam.counts[EXTENSIONS] += 1
    return best


@inlined
def _ceiling(beam: Beam, tree: Any, tables: Tables, i: int, c: int) -> float:
    """An upper bound of the factor of extending entry `i` by output `c`; mostly the factor itself."""
    if tables.closes[c]:
        if math.isnan(beam.closing[i]):
            close_word(tree, tables, beam.node[i])
            beam.closing[i] = math.exp(tree[beam.node[i]].close)
        return beam.closing[i] * tables.opening[c]
    at = tables.first[c]
    if tables.first[c + 1] - at > 1:
        return tables.bound
    digit, mask = np.int64(tables.digits[at]), beam.mask[i]
    if not (mask >> digit) & 1:
        return beam.leave[i]
    parent = tables.trie[tree[beam.node[i]].word_node]
    child = parent.first + count_bits(mask & ((1 << digit) - 1))
    return tables.trie[child].ahead * beam.ahead[i]


@inlined
def close_word(tree: Any, tables: Tables, node: int) -> None:
    """Note what it costs to end the word at this prefix, and what has been heard then.

    Of homophones only the one that is best here is followed.
    """
    at = tree[node]
    at.close, at.next_history, at.next_hot = 0.0, at.history, at.hot
    if at.word_node == ROOT:
        return
    foreseen, word, last = tables.outside, -1, -1
    if at.word_node > ROOT:
        ends = tables.trie[at.word_node]
        foreseen, word, last = ends.foreseen, ends.word, ends.word + max(ends.homophones, 1) - 1
    at.close = -np.inf
    for entry in range(word, last + 1):
        ln, history, hot = say_word(tables, entry, at.history, at.hot)
        if entry == word or ln - foreseen > at.close:
            at.close, at.next_history, at.next_hot = ln - foreseen, history, hot


@inlined
def say_word(tables: Tables, entry: int, history: int, hot: int) -> tuple[float, int, int]:
    """(value, history, state of the hotwords) with one word more; −1 stands for any word of no entry."""
    ln, word, number = 0.0, tables.unknown, 0
    if entry >= 0:
        word, number = tables.word_ids[entry], tables.hot_numbers[entry]
    else:
        ln -= np.inf if tables.outside == -np.inf else tables.unknown_penalty
    if tables.start_state >= 0:
        history, log10_p = advance(tables.ngrams, history, word)
        ln += tables.alpha * log10_p + tables.beta
    after = tables.hot_after[hot, number]
    return ln + tables.hot_promise[after] + tables.hot_reward[after] - tables.hot_promise[hot], history, after


@inlined
def _add_node(tree: Any, tables: Tables, counts: Any, parent_node: int, token: int) -> int:
    """A new node of the tree, with what it knows of words and what entering it is worth."""
    node, parent = counts[NODES], tree[parent_node]
    counts[NODES] += 1
    new = tree[node]
    word_node, ln = parent.word_node, 0.0
    new.history, new.hot = parent.history, parent.hot
    if tables.closes[token]:
        ln += parent.close
        word_node, new.history, new.hot = ROOT, parent.next_history, parent.next_hot
    else:
        ln -= tables.trie[word_node].foreseen if word_node >= ROOT else tables.outside
    for a in range(tables.first[token], tables.first[token + 1]):
        digit = np.int64(tables.digits[a])
        if digit:
            word_node = trie_child(tables.trie, word_node, digit)
            if word_node == OUTSIDE:
                ln -= tables.outside_step
    ln += tables.trie[word_node].foreseen if word_node >= ROOT else tables.outside
    new.token_history = parent.token_history
    if parent.token_history >= 0:
        after, log10_p = advance(tables.token_ngrams, parent.token_history, tables.token_word[token])
        new.token_history = after
        ln += tables.token_alpha * log10_p
    new.parent, new.token, new.child, new.slot, new.sibling = parent_node, token, -1, 0, parent.child
    parent.child = node
    new.word_node, new.close, new.factor = word_node, np.nan, math.exp(ln)
    return node


@inlined
def trie_child(trie: Any, node: int, digit: int) -> int:
    """The node of the trie below `node`, or OUTSIDE."""
    if node < ROOT or not (trie[node].mask >> digit) & 1:
        return OUTSIDE
    return trie[node].first + count_bits(trie[node].mask & ((1 << digit) - 1))


@compiled
def _compact(beam: Beam, tree: Any, tables: Tables, least: float, equals: int) -> None:
    """The beam of the next frame: what stays and has enough mass, moved together, then the extensions."""
    kept, top = 0, 0.0
    for i in range(beam.counts[ENTRIES]):
        mass = beam.new_blank[i] + beam.new_spoken[i]
        beam.move[i] = -1
        if mass < least or mass <= 0.0 or (mass == least and equals == 0):
            continue
        equals -= mass == least
        beam.move[i] = kept
        if i != kept:
            _move(beam, i, kept)
            tree[beam.node[kept]].slot = kept
        beam.blank[kept], beam.spoken[kept], beam.total[kept] = beam.new_blank[i], beam.new_spoken[i], mass
        if mass > top:
            top, beam.counts[BEST] = mass, kept
        kept += 1
    for i in range(kept):
        if beam.parent[i] >= 0:
            beam.parent[i] = beam.move[beam.parent[i]]
    beam.counts[ENTRIES] = kept
    for e in range(beam.counts[EXTENSIONS]):
        mass = beam.extension_mass[e]
        if mass < least or (mass == least and equals == 0):
            continue
        equals -= mass == least
        node = beam.extension_node[e]
        # a prefix that comes back may find extensions of itself in the beam
        child = tree[node].child
        while child >= 0:
            slot = tree[child].slot
            if slot < kept and beam.node[slot] == child:
                beam.parent[slot] = beam.counts[ENTRIES]
            child = tree[child].sibling
        if mass > top:
            top, beam.counts[BEST] = mass, beam.counts[ENTRIES]
        _insert(beam, tree, tables, node, beam.move[beam.extension_from[e]], mass)


@inlined
def _move(beam: Beam, i: int, k: int) -> None:
    """Entry `i` becomes entry `k`, its masses apart."""
    beam.node[k], beam.token[k], beam.parent[k] = beam.node[i], beam.token[i], beam.parent[i]
    beam.mask[k], beam.ahead[k], beam.leave[k] = beam.mask[i], beam.ahead[i], beam.leave[i]
    beam.closing[k], beam.factor[k], beam.key[k] = beam.closing[i], beam.factor[i], beam.key[i]


@inlined
def _insert(beam: Beam, tree: Any, tables: Tables, node: int, parent: int, mass: float) -> None:
    """Append a node to the beam."""
    i, at = beam.counts[ENTRIES], tree[node]
    beam.counts[ENTRIES] += 1
    beam.node[i], beam.token[i], beam.parent[i] = node, at.token, parent
    beam.blank[i], beam.spoken[i], beam.total[i] = 0.0, mass, mass
    beam.factor[i] = at.factor
    beam.closing[i] = math.exp(at.close) if not math.isnan(at.close) else np.nan
    if at.word_node >= ROOT:
        word = tables.trie[at.word_node]
        beam.mask[i], beam.ahead[i], beam.leave[i] = word.mask, 1.0 / word.ahead, word.leave
    else:
        beam.mask[i], beam.ahead[i], beam.leave[i] = 0, 1.0, math.exp(-tables.outside_step)
    key = np.int64(at.token)
    for part in (at.word_node, at.history, at.hot, at.token_history):
        key = (key ^ part) * 0x2545F4914F6CDD1D
        key ^= key >> 29
    beam.key[i] = key
    at.slot = i


@compiled
def leader(beam: Beam) -> int:
    """The node of the prefix that has the highest mass at present."""
    return beam.node[beam.counts[BEST]]
