"""The scores for continuing and for ending a word; compiled by numba."""

from typing import Any

import numpy as np

from asr.decoding.prefixes import inlined
from asr.decoding.tables import OUTSIDE, ROOT, Tables
from asr.lm.automaton import advance
from asr.machine.instructions import count_bits


@inlined
def spell_on(tables: Tables, word_node: int, c: int) -> tuple[int, float]:
    """(trie node after the digits of output `c`, ln of the penalty for spelling outside the trie)."""
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
    """Store the score for ending the word at this prefix, and the LM and hotword states after it.

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
    """(value, LM state, hotword state) after one more word; entry −1 stands for a word without one."""
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
