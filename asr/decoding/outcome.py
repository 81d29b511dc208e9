"""Reads the results of a search and rescores them independently of the beam; compiled by numba.

The beam ranks by sums over the paths that it kept, and follows one of several homophones. Final hypotheses
are scored from their labelling alone, here and in `occurrence`: a score means the same at any beam width.
"""

import math
from typing import Any

import numpy as np

from asr.decoding.prefixes import ENTRIES, FRAMES, Beam
from asr.decoding.tables import ROOT, Tables
from asr.decoding.words import close_word, say_word, spell_on, trie_child
from asr.lm.automaton import advance
from asr.machine.compilation import kernel
from asr.machine.instructions import count_bits


@kernel()
def finish(beam: Beam, tree: Any, tables: Tables) -> Any:
    """(entries,) ln score of each prefix of the beam as a whole utterance, its last word closed."""
    scores = np.empty(beam.counts[ENTRIES])
    for i in range(len(scores)):
        at = tree[beam.entries[i].node]
        if math.isnan(at.close):
            close_word(tree, tables, beam.entries[i].node)
        ln = at.close - tables.hot_promise[at.next_hot]
        if tables.start_state >= 0:
            ln += tables.alpha * advance(tables.ngrams, at.next_history, tables.end)[1]
        scores[i] = math.log(beam.entries[i].total) + beam.scale[0] + ln
    return scores


@kernel()
def trace(tree: Any, node: int, since: int = 0) -> Any:
    """The outputs of a prefix, from one that it begins with, `since`, on."""
    length, at = 0, node
    while at > since:
        length += 1
        at = tree[at].parent
    tokens = np.empty(length, np.int64)
    while node > since:
        length -= 1
        tokens[length] = tree[node].token
        node = tree[node].parent
    return tokens


@kernel()
def shared_node(beam: Beam, tree: Any) -> int:
    """The longest common prefix of the beam, as a node; a node's number is above its parent's."""
    node = beam.entries[0].node
    for i in range(1, beam.counts[ENTRIES]):
        other = beam.entries[i].node
        while node != other:
            if node > other:
                node = tree[node].parent
            else:
                other = tree[other].parent
    return node


@kernel()
def ancestor(tree: Any, node: int, length: int) -> int:
    """The node of the first `length` outputs of a prefix; itself if it has no more."""
    excess = len(trace(tree, node)) - length
    while excess > 0:
        node = tree[node].parent
        excess -= 1
    return node


@kernel()
def read(tokens: Any, tables: Tables) -> tuple[Any, float, float]:
    """(entry of each word, log10 P of the words, all other weights in nats) of a labelling as an utterance.

    The entry is that of the best homophone, −1 for a word without one. The weights are −∞ if the words may
    not be written.
    """
    nodes, cost = _word_nodes(tokens, tables)
    entries = _choose(nodes, tables)
    log10_p, other = _weigh(entries, tables)
    return entries, log10_p, other + cost


@kernel()
def _word_nodes(tokens: Any, tables: Tables) -> tuple[Any, float]:
    """(trie node at the end of each word, ln of the per-digit penalties of words outside the trie)."""
    nodes, count, node, cost = np.empty(len(tokens) + 1, np.int64), 0, ROOT, 0.0
    for c in tokens:
        if tables.closes[c] and node != ROOT:
            nodes[count] = node
            count, node = count + 1, ROOT
        node, ln = spell_on(tables, node, c)
        cost += ln
    if node != ROOT:
        nodes[count] = node
        count += 1
    return nodes[:count], cost


@kernel()
def _choose(nodes: Any, tables: Tables) -> Any:
    """The entry of each word, the best one where several are spelled alike; −1 for a word without one.

    Viterbi over the homophones, exact under language model and hotwords.

    Args:
        nodes: from `_word_nodes`.
    """
    entries, alike = np.full(len(nodes), -1), 0
    for i, node in enumerate(nodes):
        if node > ROOT:
            entries[i] = tables.trie[node].word
            alike = max(alike, tables.trie[node].homophones)
    if alike < 2:
        return entries
    trail, now = _follow(nodes, tables)
    best, at = -np.inf, now[0][3]
    for ln, history, hot, end in now:
        if tables.start_state >= 0:
            ln += tables.alpha * advance(tables.ngrams, history, tables.end)[1]
        if ln - tables.hot_promise[hot] > best:
            best, at = ln - tables.hot_promise[hot], end
    for i in range(len(nodes) - 1, -1, -1):
        entries[i], at = trail[at]
    return entries


@kernel()
def _follow(nodes: Any, tables: Tables) -> tuple[Any, Any]:
    """(trail, ways): the best way to write the words for each state in which they can end.

    The trail holds back-pointers (entry, index of the word before in the trail); a way is (ln, language model
    state, hotword state, index of its last word in the trail).
    """
    trail = [(-1, -1)]
    now = [(0.0, tables.start_state, 0, 0)]
    for node in nodes:
        first: Any = np.int64(-1)
        count: Any = 1
        if node > ROOT and tables.trie[node].word >= 0:
            first, count = np.int64(tables.trie[node].word), tables.trie[node].homophones
        then = now[:0]
        for ln, history, hot, at in now:
            for entry in range(first, first + count):
                value, after, hot_after = say_word(tables, entry, history, hot)
                trail.append((entry, at))
                new = (ln + value, int(after), int(hot_after), len(trail) - 1)
                same = 0
                while same < len(then) and (then[same][1] != new[1] or then[same][2] != new[2]):
                    same += 1
                if same == len(then):
                    then.append(new)
                elif new[0] > then[same][0]:
                    then[same] = new
        now = then
    return trail, now


@kernel()
def certain_words(tokens: Any, tables: Tables) -> int:
    """How many of the first words will be written as they are now; the tokens must end with a whole word.

    These are the words common to all ways of writing that may still turn out best.
    """
    nodes, _ = _word_nodes(tokens, tables)
    trail, now = _follow(nodes, tables)
    places = [way[3] for way in now]
    count = len(nodes)
    for i in range(len(nodes) - 1, -1, -1):
        entry = trail[places[0]][0]
        for w in range(len(places)):
            if trail[places[w]][0] != entry:
                count = i
            places[w] = trail[places[w]][1]
    return count


@kernel()
def inevitable_words(beam: Beam, tree: Any, tables: Tables) -> Any:
    """The tokens of the whole words that every prefix of the beam will begin with, whatever follows.

    A prefix inside a word has a single continuation where no other word of the lexicon begins like it.
    """
    since = shared_node(beam, tree)
    tokens = _spell_to_end(tree, tables, beam.entries[0].node, since)
    shared = len(tokens)
    for i in range(1, beam.counts[ENTRIES]):
        others = _spell_to_end(tree, tables, beam.entries[i].node, since)
        shared = min(shared, len(others))
        for t in range(shared):
            if tokens[t] != others[t]:
                shared = t
                break
    tokens = np.concatenate((trace(tree, since), tokens[:shared]))
    shared, node, last = len(tokens), ROOT, max(len(tokens) - 1, 0)
    while last and not tables.closes[tokens[last]]:
        last -= 1
    for t in range(last, shared):
        node, _ = spell_on(tables, node, tokens[t])
    is_whole = node > ROOT and tables.trie[node].word >= 0 and not tables.trie[node].mask
    needed = shared + np.sum(tokens[1:shared] == tokens[: max(shared - 1, 0)])
    return tokens[: shared if is_whole and needed <= beam.counts[FRAMES] else last]


@kernel()
def _spell_to_end(tree: Any, tables: Tables, node: int, since: int) -> Any:
    """The outputs of a prefix after `since`, and those that must follow to end with a word of the trie."""
    tokens, at, more = trace(tree, node, since), tree[node].word_node, [0][:0]
    is_unique = np.max(tables.first[1:] - tables.first[:-1]) <= 1  # no output writes several digits
    while is_unique and at > ROOT and tables.trie[at].word < 0 and count_bits(tables.trie[at].mask) == 1:
        digit = count_bits(tables.trie[at].mask - 1)
        more.append(int(tables.writer[digit]))
        at = trie_child(tables.trie, at, digit)
    return np.concatenate((tokens, np.array(more, np.int64)))


@kernel()
def _weigh(entries: Any, tables: Tables) -> tuple[float, float]:
    """(log10 P of the words, all other weights in nats except per-digit penalties) of an utterance."""
    log10_p, other, history, hot = 0.0, 0.0, tables.start_state, 0
    for entry in entries:
        if entry < 0:
            other -= np.inf if tables.outside == -np.inf else tables.unknown_penalty
        hot = tables.hot_after[hot, tables.hot_numbers[entry] if entry >= 0 else 0]
        other += tables.hot_reward[hot]
        if tables.start_state >= 0:
            word = tables.word_ids[entry] if entry >= 0 else tables.unknown
            history, p = advance(tables.ngrams, history, word)
            log10_p += p
            other += tables.beta
    if tables.start_state >= 0:
        log10_p += advance(tables.ngrams, history, tables.end)[1]
    return log10_p, other
