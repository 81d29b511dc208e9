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
    QUIET,
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
    """Make the empty prefix, of mass one, the only one; the beam must be new."""
    root = tree[0]
    root.parent = root.child = root.sibling = -1
    root.token = root.slot = 0
    root.word_node, root.history, root.next_history = ROOT, tables.start_state, tables.start_state
    root.hot, root.next_hot, root.token_history = 0, 0, tables.token_start
    root.close = np.nan
    beam.counts[NODES] = 1
    _insert(beam, tree, tables, 0, -1, 1.0, 1.0)
    beam.entries[0].blank, beam.entries[0].spoken = 1.0, 0.0


@compiled
def advance_beam(y_TV: Any, beam: Beam, tree: Any, tables: Tables, settings: Settings) -> int:
    """Take in frames of plain probabilities; how many, which is fewer than given if the tree is full."""
    for t in range(y_TV.shape[0]):
        y_V = y_TV[t]
        if beam.counts[NODES] + settings.width > tree.shape[0]:
            return t
        count = choose_outputs(y_V, settings.least_output, beam.chosen)
        beam.counts[FRAMES] += 1
        beam.counts[EXTENSIONS] = 0
        best = _stay(y_V, beam)
        if count:
            best = _extend(y_V, count, best, beam, tree, tables, settings.cut)
        if not best > 0.0:
            beam.counts[ENTRIES] = 0
            break
        beam.counts[QUIET] = 0 if count else beam.counts[QUIET] + 1
        if beam.counts[QUIET] > 1:
            _settle(beam)
        else:
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


@compiled
def _settle(beam: Beam) -> None:
    """The beam after a further frame in which nothing is extended: none needs to go."""
    top = 0.0
    for i in range(beam.counts[ENTRIES]):
        one = beam.entries[i]
        one.blank, one.spoken = one.new_blank, one.new_spoken
        one.total = one.blank + one.spoken
        if one.total > top:
            top, beam.counts[BEST] = one.total, i


@compiled
def _extend(y_V: Any, count: int, best: float, beam: Beam, tree: Any, tables: Tables, cut: float) -> float:
    """The highest mass after all extensions that may survive are listed; `best` is that of stays.

    A word is not closed in the hope that the language model will lift it above the threshold.
    """
    first, frame, found = beam.counts[BEST], beam.counts[FRAMES], 0
    for c in beam.chosen[:count]:
        y, reach = y_V[c], y_V[c] * tables.bound
        for j in range(-1, beam.counts[ENTRIES]):
            i = first if j < 0 else j  # the best prefix first: it sets the threshold for the rest
            one = beam.entries[i]
            if one.total * reach < best * cut or j == first or beam.present[i, c] == frame:
                continue
            factor = _factor(one, tree, tables, c)
            mass = (one.blank if one.token == c else one.total) * y * factor
            if mass < best * cut or mass <= 0.0:
                continue
            best = max(best, mass)
            new = beam.extensions[found]
            new.entry, new.node, new.token, new.mass, new.factor = i, one.node, c, mass, factor
            found += 1
    beam.counts[EXTENSIONS] = found
    return best


@inlined
def _factor(one: Any, tree: Any, tables: Tables, c: int) -> float:
    """What extending an entry by output `c` is worth."""
    if tables.closes[c]:
        if math.isnan(one.closing):
            close_word(tree, tables, one.node)
            one.closing = math.exp(tree[one.node].close)
        factor = one.closing * tables.opening[c]
    elif tables.first[c + 1] - tables.first[c] == 1:
        digit = np.int64(tables.digits[tables.first[c]])
        if (one.mask >> digit) & 1:
            factor = tables.ahead[one.first + count_bits(one.mask & ((1 << digit) - 1))] * one.ahead
        else:
            factor = one.leave
    else:
        at = tree[one.node].word_node
        node, ln = spell_on(tables, at, c)
        ln += tables.trie[node].foreseen if node >= ROOT else tables.outside
        factor = math.exp(ln - (tables.trie[at].foreseen if at >= ROOT else tables.outside))
    if tables.token_start >= 0:
        ngrams, word = tables.token_ngrams, tables.token_word[c]
        factor *= math.exp(tables.token_alpha * advance(ngrams, tree[one.node].token_history, word)[1])
    return factor


@inlined
def spell_on(tables: Tables, word_node: int, c: int) -> tuple[int, float]:
    """(node of the trie after the digits of output `c`, ln of what it costs to spell outside the trie)."""
    ln = 0.0
    for a in range(tables.first[c], tables.first[c + 1]):
        digit = np.int64(tables.digits[a])
        if digit:
            word_node = trie_child(tables.trie, word_node, digit)
            if word_node == OUTSIDE:
                ln -= tables.outside_step
    return word_node, ln


@inlined
def trie_child(trie: Any, node: int, digit: int) -> int:
    """The node of the trie below `node`, or OUTSIDE."""
    if node < ROOT or not (trie[node].mask >> digit) & 1:
        return OUTSIDE
    return trie[node].first + count_bits(trie[node].mask & ((1 << digit) - 1))


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


@compiled
def _compact(beam: Beam, tree: Any, tables: Tables, least: float, equals: int) -> None:
    """The beam of the next frame: what stays and has enough mass, moved together, then the extensions."""
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
        node = _child(beam, tree, tables, new.node, new.token)
        _insert(beam, tree, tables, node, entries[new.entry].move, new.mass, new.factor)


@inlined
def _copy(one: Any, to: Any) -> None:
    """Put an entry, its masses apart, in the place of another that stands before it."""
    to.node, to.token, to.parent = one.node, one.token, one.parent
    to.mask, to.first, to.ahead, to.leave = one.mask, one.first, one.ahead, one.leave
    to.closing, to.factor, to.key = one.closing, one.factor, one.key


@inlined
def _child(beam: Beam, tree: Any, tables: Tables, parent_node: int, token: int) -> int:
    """The node of a prefix that enters the beam. It may have been there before; then its extensions may
    still be, and get their inflow from it again."""
    parent = tree[parent_node]
    node = parent.child
    while node >= 0 and tree[node].token != token:
        node = tree[node].sibling
    if node < 0:
        return _add_node(tree, tables, beam.counts, parent_node, token)
    below = tree[node].child
    while below >= 0:
        slot = tree[below].slot
        if slot < beam.counts[ENTRIES] and beam.entries[slot].node == below:
            beam.entries[slot].parent = beam.counts[ENTRIES]
        below = tree[below].sibling
    return node


@inlined
def _add_node(tree: Any, tables: Tables, counts: Any, parent_node: int, token: int) -> int:
    """A new node of the tree, with what it knows of words."""
    node, parent = counts[NODES], tree[parent_node]
    counts[NODES] += 1
    new, word_node = tree[node], parent.word_node
    new.history, new.hot, new.token_history = parent.history, parent.hot, parent.token_history
    if tables.closes[token]:
        word_node, new.history, new.hot = ROOT, parent.next_history, parent.next_hot
    new.word_node = spell_on(tables, word_node, token)[0]
    if parent.token_history >= 0:
        ngrams, word = tables.token_ngrams, tables.token_word[token]
        new.token_history = advance(ngrams, parent.token_history, word)[0]
    new.parent, new.token, new.child, new.slot, new.sibling = parent_node, token, -1, 0, parent.child
    parent.child = node
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
    one.closing = math.exp(at.close) if not math.isnan(at.close) else np.nan
    if at.word_node >= ROOT:
        word = tables.trie[at.word_node]
        one.mask, one.first = word.mask, word.first
        one.ahead, one.leave = 1.0 / tables.ahead[at.word_node], word.leave
    else:
        one.mask, one.first, one.ahead, one.leave = 0, 0, 1.0, math.exp(-tables.outside_step)
    key = np.int64(at.token)
    for part in (at.word_node, at.history, at.hot, at.token_history):
        key = (key ^ part) * 0x2545F4914F6CDD1D
        key ^= key >> 29
    one.key = key
    at.slot = i


@compiled
def leader(beam: Beam) -> int:
    """The node of the prefix that has the highest mass at present."""
    return beam.entries[beam.counts[BEST]].node
