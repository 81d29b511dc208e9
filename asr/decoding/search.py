"""CTC prefix beam search over flat arrays, compiled by numba.

A *prefix* is a node of a tree: its parent plus one output. Each prefix of the beam carries two masses, of the
paths that end in the blank and of those that end in its last output (Hannun et al. 2014). The masses are
probabilities times the factors of language model and hotwords, rescaled when they get small: no logarithm or
exponential is needed per frame and prefix.

What makes it fast. A prefix that stays in the beam takes the inflow from its parent by a stored index, so
merging needs no look-up, and an extension is by construction a prefix that is not in the beam. Only
extensions that can survive are considered: the outputs that continue a word are one AND of two masks. Factors
of language model and hotwords are computed once per prefix and kept in the tree, and the slots of the large
n-gram table that they will need are prefetched as soon as a word could end. A dominated prefix is dropped:
another has the same future and more of both masses, and nothing flows in any more, so it can never win. Its
extensions in the beam lose its inflow, which may cost one of them the win (seen, rarely, where some outputs
have probability 0).
"""

import math
from typing import Any

import numpy as np

from asr.decoding.prefixes import (
    ALTERNATIVES,
    BEST,
    ENTRIES,
    EXTENSIONS,
    FRAMES,
    NODES,
    QUIET,
    TINY,
    Beam,
    Settings,
    compiled,
    inlined,
)
from asr.decoding.selection import choose_outputs, drop_dominated, least_mass, rescale
from asr.decoding.tables import OUTSIDE, ROOT, Tables
from asr.decoding.words import close_word, spell_on
from asr.lm.automaton import foresee
from asr.machine.instructions import count_bits, prefetch


@compiled
def start(beam: Beam, tree: Any, tables: Tables) -> None:
    """Put the empty prefix, of mass one, into a new beam."""
    root = tree[0]
    root.parent = root.child = root.sibling = root.alternative = root.better = -1
    root.token = root.slot = root.children = 0
    root.word_node, root.history, root.next_history = ROOT, tables.start_state, tables.start_state
    root.hot, root.next_hot = 0, 0
    root.close = np.nan
    beam.counts[NODES] = 1
    _insert(beam, tree, tables, 0, -1, 1.0, 1.0)
    beam.entries[0].blank, beam.entries[0].spoken = 1.0, 0.0


@compiled
def advance_beam(y_TV: Any, beam: Beam, tree: Any, tables: Tables, settings: Settings) -> int:
    """Process frames of probabilities; returns how many, fewer than given if an array is full.

    Once no prefix has mass, the beam stays empty, and its last leader remains the leader.
    """
    for t in range(y_TV.shape[0]):
        y_V = y_TV[t]
        if beam.counts[NODES] + settings.width > tree.shape[0]:
            return t
        if beam.counts[ALTERNATIVES] + settings.width > beam.alternatives.shape[0]:
            return t
        count = choose_outputs(y_V, settings.least_output, beam.chosen)
        beam.counts[FRAMES] += 1
        if not beam.counts[ENTRIES]:
            continue
        beam.counts[EXTENSIONS] = 0
        best = _stay(y_V, beam)
        if count:
            best = _extend(y_V, count, best, beam, tree, tables, settings.cut)
        if not best > 0.0:
            beam.entries[0].node = leader(beam)
            beam.counts[ENTRIES] = beam.counts[BEST] = 0
            continue
        beam.counts[QUIET] = 0 if count else beam.counts[QUIET] + 1
        if beam.counts[QUIET] > 1:
            _settle(beam)
        else:
            drop_dominated(beam, tree, settings.cut)
            least, equals = least_mass(beam, best * settings.cut, settings.width)
            _compact(beam, tree, tables, least, equals)
        if best < TINY:
            rescale(beam, best)
    return y_TV.shape[0]


@inlined
def _stay(y_V: Any, beam: Beam) -> float:
    """Update the masses of the beam's prefixes for a frame, without new prefixes; returns the highest.

    Blank: both masses go to `blank`. The last output again: `spoken` stays. Inflow: from the parent, if it is
    in the beam; only its `blank` mass if it ends in the same output.
    """
    best, y_blank, frame = 0.0, y_V[0], beam.counts[FRAMES]
    for i in range(beam.counts[ENTRIES]):
        one = beam.entries[i]
        mass = one.spoken
        if one.parent >= 0:
            parent = beam.entries[one.parent]
            mass += (parent.blank if parent.token == one.token else parent.total) * one.factor
            beam.present[one.parent, one.token] = frame
        mass *= y_V[one.token]
        one.new_spoken, one.new_blank = mass, one.total * y_blank
        best = max(best, mass + one.new_blank)
    return best


@inlined
def _settle(beam: Beam) -> None:
    """The beam after another frame without extensions: only the masses change."""
    top = 0.0
    for i in range(beam.counts[ENTRIES]):
        one = beam.entries[i]
        one.blank, one.spoken = one.new_blank, one.new_spoken
        one.total = one.blank + one.spoken
        if one.total > top:
            top, beam.counts[BEST] = one.total, i


@inlined
def _extend(y_V: Any, count: int, best: float, beam: Beam, tree: Any, tables: Tables, cut: float) -> float:
    """List the extensions that may survive; returns the highest mass, `best` being that without extensions.

    Closing a word is not tried if only its language model score could lift it above the threshold.
    """
    first, going, others, top = beam.counts[BEST], 0, 0, 0.0
    for q in range(count):
        c = beam.chosen[q]
        top = max(top, y_V[c])
        if tables.single[c]:
            going |= 1 << tables.single[c]
        else:
            beam.chosen[q], beam.chosen[others] = beam.chosen[others], c
            others += 1
    for j in range(-1, beam.counts[ENTRIES]):
        i = first if j < 0 else j  # the best prefix first: it sets the threshold for the rest
        one = beam.entries[i]
        if one.total * top * tables.bound < best * cut or j == first:
            continue
        for c in beam.chosen[:others]:
            if one.total * y_V[c] * tables.bound >= best * cut:
                factor, node = _factor(one, tree, tables, c)
                best = _list(y_V, i, c, node, factor, best, beam, tables, cut)
        ways = one.mask & going
        if one.total * top * one.leave >= best * cut:
            for c in beam.chosen[others:count]:
                if not (ways >> tables.single[c]) & 1:
                    best = _list(y_V, i, c, OUTSIDE, one.leave, best, beam, tables, cut)
        while ways:
            before = (ways & -ways) - 1  # all digits below the lowest
            ways &= ways - 1
            node = one.first + count_bits(one.mask & before)
            c, factor = tables.writer[count_bits(before)], tables.ahead[node] * one.ahead
            best = _list(y_V, i, c, node, factor, best, beam, tables, cut)
    return best


@inlined
def _list(
    y_V: Any,
    i: int,
    c: int,
    word_node: int,
    factor: float,
    best: float,
    beam: Beam,
    tables: Tables,
    cut: float,
) -> float:
    """List an extension unless it is in the beam or has too little mass; returns the highest mass so far."""
    one = beam.entries[i]
    mass = (one.blank if one.token == c else one.total) * y_V[c] * factor
    if mass < best * cut or mass <= 0.0 or beam.present[i, c] == beam.counts[FRAMES]:
        return best
    new = beam.extensions[beam.counts[EXTENSIONS]]
    beam.counts[EXTENSIONS] += 1
    new.entry, new.node, new.token, new.mass, new.factor = i, one.node, c, mass, factor
    new.word_node = word_node
    if word_node >= ROOT:
        prefetch(tables.trie, word_node)
    return max(best, mass)


@inlined
def _factor(one: Any, tree: Any, tables: Tables, c: int) -> tuple[float, int]:
    """(factor for extending an entry by an output that `single` does not cover, trie node after it)."""
    at = tree[one.node].word_node
    if tables.closes[c]:
        if math.isnan(one.closing):
            close_word(tree, tables, one.node)
            one.closing = math.exp(tree[one.node].close)
        return one.closing * tables.opening[c], spell_on(tables, ROOT, c)[0]
    node, ln = spell_on(tables, at, c)
    ln += tables.trie[node].foreseen if node >= ROOT else tables.outside
    return math.exp(ln - (tables.trie[at].foreseen if at >= ROOT else tables.outside)), node


@inlined
def _compact(beam: Beam, tree: Any, tables: Tables, least: float, equals: int) -> None:
    """The beam of the next frame: old prefixes with enough mass, moved together, then such extensions."""
    kept, top, entries = 0, 0.0, beam.entries
    for i in range(beam.counts[ENTRIES]):
        mass = entries[i].new_blank + entries[i].new_spoken
        entries[i].move = -1
        if mass < least or mass <= 0.0 or (mass == least and equals == 0):
            continue
        equals -= mass == least
        entries[i].move = kept
        one = entries[kept]
        if i != kept:
            _copy(entries[i], one)
            tree[one.node].slot = kept
        one.blank, one.spoken, one.total = entries[i].new_blank, entries[i].new_spoken, mass
        if mass > top:
            top, beam.counts[BEST] = mass, kept
        kept += 1
    for i in range(kept):
        if entries[i].parent >= 0:
            entries[i].parent = entries[entries[i].parent].move
    beam.counts[ENTRIES] = kept
    for e in range(beam.counts[EXTENSIONS]):
        new = beam.extensions[e]
        if new.mass < least or (new.mass == least and equals == 0):
            continue
        equals -= new.mass == least
        if new.mass > top:
            top, beam.counts[BEST] = new.mass, beam.counts[ENTRIES]
        node = _child(beam, tree, tables, new.node, new.token, new.word_node)
        _insert(beam, tree, tables, node, entries[new.entry].move, new.mass, new.factor)


@inlined
def _copy(one: Any, to: Any) -> None:
    """Copy an entry, except its masses, over an earlier one."""
    to.node, to.token, to.parent = one.node, one.token, one.parent
    to.mask, to.first, to.ahead, to.leave = one.mask, one.first, one.ahead, one.leave
    to.closing, to.factor, to.key = one.closing, one.factor, one.key


@inlined
def _child(beam: Beam, tree: Any, tables: Tables, parent_node: int, token: int, word_node: int) -> int:
    """The node of a prefix that enters the beam. If it was there before, extensions of it that are still in
    the beam get their inflow from it again."""
    parent = tree[parent_node]
    node = parent.child if (parent.children >> (token & 63)) & 1 else -1
    while node >= 0 and tree[node].token != token:
        node = tree[node].sibling
    if node < 0:
        return _add_node(tree, tables, beam.counts, parent_node, token, word_node)
    below = tree[node].child
    while below >= 0:
        slot = tree[below].slot
        if slot < beam.counts[ENTRIES] and beam.entries[slot].node == below:
            beam.entries[slot].parent = beam.counts[ENTRIES]
        below = tree[below].sibling
    return node


@inlined
def _add_node(tree: Any, tables: Tables, counts: Any, parent_node: int, token: int, word_node: int) -> int:
    """A new node of the tree, with its trie, language model and hotword states."""
    node, parent = counts[NODES], tree[parent_node]
    counts[NODES] += 1
    new = tree[node]
    new.history, new.hot = parent.history, parent.hot
    if tables.closes[token]:
        new.history, new.hot = parent.next_history, parent.next_hot
    new.word_node = word_node
    new.parent, new.token, new.child, new.slot, new.sibling = parent_node, token, -1, 0, parent.child
    parent.child, new.children, new.alternative, new.better = node, 0, -1, -1
    parent.children |= 1 << (token & 63)
    new.close = np.nan
    return node


@inlined
def _insert(
    beam: Beam, tree: Any, tables: Tables, node: int, parent: int, mass: float, factor: float
) -> None:
    """Append a node to the beam."""
    i, at = beam.counts[ENTRIES], tree[node]
    beam.counts[ENTRIES] += 1
    one = beam.entries[i]
    one.node, one.token, one.parent = node, at.token, parent
    one.blank, one.spoken, one.total, one.factor = 0.0, mass, mass, factor
    one.closing = at.close if math.isnan(at.close) else math.exp(at.close)
    if at.word_node >= ROOT:
        word = tables.trie[at.word_node]
        one.mask, one.first = word.mask, word.first
        one.ahead, one.leave = 1.0 / tables.ahead[at.word_node], word.leave
        if tables.start_state >= 0 and word.word >= 0 and math.isnan(at.close):
            foresee(tables.ngrams, at.history, tables.word_ids[word.word])
    else:
        one.mask, one.first, one.ahead, one.leave = 0, 0, 1.0, math.exp(-tables.outside_step)
    key = np.int64(0)
    for part in (at.token, at.word_node, at.history, at.hot):
        key = (key ^ part) * 0x2545F4914F6CDD1D
        key ^= key >> 29
    one.key = key
    at.slot = i


@compiled
def leader(beam: Beam) -> int:
    """The node of the prefix with the highest mass."""
    return beam.entries[beam.counts[BEST]].node
