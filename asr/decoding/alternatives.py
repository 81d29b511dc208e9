"""What could have been said instead: the labellings that a search dropped on the way; compiled by numba.

A prefix is dropped as soon as another one has the same future and more mass. So a beam ends with few
different beginnings, though it has seen many. What was dropped is put in again here: the prefix, then
whatever followed the other one. It is as much less probable than that as it was when it was dropped.

Source: k shortest paths by their deviations, after Eppstein 1998.
"""

import heapq
import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from asr.decoding.outcome import trace
from asr.decoding.prefixes import ENTRIES, NODES, Beam


class Labellings(NamedTuple):
    """Labellings one after the other.

    Attributes:
        tokens: their outputs.
        ends: (labellings,) where each ends.
    """

    tokens: np.ndarray
    ends: np.ndarray

    def each(self) -> list[np.ndarray]:
        """The outputs of each."""
        return np.split(self.tokens, self.ends[:-1])


@njit(nogil=True, cache=True)
def best(beam: Beam, tree: Any, scores: Any, count: int) -> Labellings:
    """At most `count` labellings, probably the best, best first.

    A way is a prefix, and what it takes over: the end of another way, from behind one of its nodes on. One
    deviates from it at the nodes of its prefix. The same labelling may come by several ways: one deviates
    at each of its nodes once. A prefix that is put in again can be too long for the frames there are.

    Args:
        beam, tree: of a search that has taken all frames.
        scores: (entries,) of the prefixes of the beam as whole utterances.
    """
    ways: Any = [(0, 0, 0)]
    heap, depths = [(0.0, 0)][:0], {np.int64(0): 0}
    for i in range(len(scores)):
        if scores[i] > -np.inf:
            heap.append((-scores[i], len(ways)))
            ways.append((np.int64(beam.entries[i].node), 0, 0))
    heapq.heapify(heap)
    tokens: Any = [np.int64(0)][:0]
    ends: Any = [np.int64(0)][:0]
    while heap and len(ends) < count:
        behind, way = heapq.heappop(heap)
        node, first = ways[way][0], len(tokens)
        key: Any = np.int64(1)
        depth = _append(tokens, ways, way, tree)
        for token in tokens[first:]:
            key = hashed(key, token)
        known = depths.get(key, -1)
        depths[key] = max(known, depth)
        if known < 0:
            ends.append(len(tokens))
        else:
            del tokens[first:]
        for _ in range(depth - max(known, 0)):
            at = np.int64(tree[node].alternative)
            while at >= 0:
                one = beam.alternatives[at]
                heapq.heappush(heap, (behind - one.ln, len(ways)))
                ways.append((np.int64(one.node), way, node))
                at = np.int64(one.next)
            node = np.int64(tree[node].parent)
    return Labellings(np.array(tokens, np.int64), np.array(ends, np.int64))


@njit(nogil=True, cache=True)
def _append(tokens: Any, ways: Any, way: int, tree: Any) -> int:
    """Append the outputs of a way: of its prefix, how many is returned, then of what it takes over."""
    node, other, behind = ways[way]
    prefix = trace(tree, node)
    tokens.extend(prefix)
    while other:
        first = len(tokens)
        node, other, next_behind = ways[other]
        while node != behind:
            tokens.append(np.int64(tree[node].token))
            node = np.int64(tree[node].parent)
        tokens[first:] = tokens[first:][::-1]
        behind = next_behind
    return len(prefix)


@njit(nogil=True, cache=True)
def hashed(key: int, part: int) -> int:
    """A hash of a sequence whose last part is `part`, `key` being that of the others."""
    key = (key ^ (part + 1)) * 0x2545F4914F6CDD1D
    return key ^ (key >> 29)


@njit(nogil=True, cache=True)
def drawn(beam: Beam, tree: Any, scores: Any, count: int) -> Labellings:
    """`count` labellings, each about as often as it is probable; none if no prefix may be written.

    The same search always gives the same. Arguments as for `best`.
    """
    masses, turns = _masses(beam, tree)
    sums = np.cumsum(np.exp(scores - np.max(scores)) * masses[beam.entries["node"][: len(scores)]])
    if not sums[-1] > 0.0:
        count = 0
    tokens, ends, random = [np.int64(0)][:0], np.empty(count, np.int64), np.uint64(0)
    for k in range(count):
        first = len(tokens)
        node = np.int64(beam.entries[np.searchsorted(sums, (k + 0.5) / count * sums[-1])].node)
        while node > 0:
            at = np.int64(tree[node].alternative)
            if at >= 0:  # Knuth's linear congruential generator
                random = random * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            left = np.float64(random >> np.uint64(11)) * 2.0**-53 * masses[node]
            other = np.int64(-1)
            while at >= 0 and other < 0:
                one = beam.alternatives[at]
                left -= math.exp(one.ln) * masses[one.node] if turns[one.node] < turns[node] else 0.0
                other, at = np.int64(one.node) if left < 0.0 else other, np.int64(one.next)
            if other < 0:
                tokens.append(np.int64(tree[node].token))
                other = np.int64(tree[node].parent)
            node = other
        tokens[first:] = tokens[first:][::-1]
        ends[k] = len(tokens)
    return Labellings(np.array(tokens, np.int64), ends)


@njit(nogil=True, cache=True)
def _masses(beam: Beam, tree: Any) -> tuple[Any, Any]:
    """How much more mass each prefix of the beam would have if nothing had been dropped.

    Two prefixes may have been dropped for each other, one after the other: then one of them counts for
    nothing in the other, whose turn comes first.

    Returns (nodes,) that for the beam and what it hangs on, 0 for others; and (nodes,) the turns.
    """
    nodes = beam.counts[NODES]
    masses, turns, is_open, turn = np.zeros(nodes), np.full(nodes, nodes), np.zeros(nodes, np.bool_), 0
    masses[0], turns[0], is_open[0] = 1.0, -1, True
    stack: Any = [np.int64(node) for node in beam.entries["node"][: beam.counts[ENTRIES]]]
    while len(stack):
        node, depth = stack[-1], len(stack)
        if not is_open[node]:
            is_open[node] = True
            _push_what_it_needs(stack, is_open, beam, tree, node)
        if len(stack) > depth:
            continue
        stack.pop()
        if turns[node] == nodes:
            masses[node], turns[node], turn = masses[tree[node].parent], turn, turn + 1
            at = np.int64(tree[node].alternative)
            while at >= 0:
                one = beam.alternatives[at]
                masses[node] += math.exp(one.ln) * masses[one.node]
                at = np.int64(one.next)
    return masses, turns


@njit(nogil=True, cache=True)
def _push_what_it_needs(stack: Any, is_open: Any, beam: Beam, tree: Any, node: int) -> None:
    """Put the parent and the alternatives of a node on the stack, but those that are open."""
    if not is_open[tree[node].parent]:
        stack.append(np.int64(tree[node].parent))
    at = np.int64(tree[node].alternative)
    while at >= 0:
        one = beam.alternatives[at]
        if not is_open[one.node]:
            stack.append(np.int64(one.node))
        at = np.int64(one.next)
