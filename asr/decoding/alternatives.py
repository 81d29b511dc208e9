"""What could have been said instead: the labellings that a search dropped on the way; compiled by numba.

A prefix is dropped as soon as another one has the same future and more mass. So a beam ends with few
different beginnings, though it has seen many. What was dropped is put in again here: the prefix, then
whatever followed the other one. It is as much less probable than that as it was when it was dropped.
Alternatives have numbers in the order in which they were noted: at the nodes of a prefix that was put in by
one of them, only those of lower numbers had been noted when it was still alive.

Source: k shortest paths by their deviations, after Eppstein 1998.
"""

import heapq
import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from asr.decoding.outcome import trace
from asr.decoding.prefixes import ALTERNATIVES, NODES, Beam

_SWEEPS = 4


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

    A way is a prefix, and what it takes over: the end of another way, from behind one of its nodes on, and
    the number of the alternative that led there. One deviates from it at the nodes of its prefix. The same
    labelling may come by several ways: one deviates at each of its nodes once. A prefix that is put in again
    can be too long for the frames there are.

    Args:
        beam, tree: of a search that has taken all frames.
        scores: (entries,) of the prefixes of the beam as whole utterances.
    """
    ways: Any = [(0, 0, 0, 0)]
    heap, depths = [(0.0, 0)][:0], {np.int64(0): 0}
    for i in range(len(scores)):
        if scores[i] > -np.inf:
            heap.append((-scores[i], len(ways)))
            ways.append((np.int64(beam.entries[i].node), 0, 0, beam.counts[ALTERNATIVES]))
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
            at = _before(ways[way][3], beam, tree, node)
            while at >= 0:
                one = beam.alternatives[at]
                heapq.heappush(heap, (behind - one.ln, len(ways)))
                ways.append((np.int64(one.node), way, node, at))
                at = np.int64(one.next)
            node = np.int64(tree[node].parent)
    return Labellings(np.array(tokens, np.int64), np.array(ends, np.int64))


@njit(nogil=True, cache=True)
def _before(number: Any, beam: Beam, tree: Any, node: Any) -> Any:
    """The last alternative of a node with a lower number, or −1."""
    at = np.int64(tree[node].alternative)
    while at >= number:
        at = np.int64(beam.alternatives[at].next)
    return at


@njit(nogil=True, cache=True)
def _append(tokens: Any, ways: Any, way: int, tree: Any) -> int:
    """Append the outputs of a way: of its prefix, how many is returned, then of what it takes over."""
    node, other, behind, _ = ways[way]
    prefix = trace(tree, node)
    tokens.extend(prefix)
    while other:
        first = len(tokens)
        node, other, next_behind, _ = ways[other]
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
    masses = _masses(beam, tree)
    weights = scores + masses[beam.entries["node"][: len(scores)]]
    sums = np.cumsum(np.exp(weights - np.max(weights)))
    if not sums[-1] > 0.0:
        count = 0
    tokens, ends, random = [np.int64(0)][:0], np.empty(count, np.int64), np.uint64(0)
    for k in range(count):
        first = len(tokens)
        number: Any = beam.counts[ALTERNATIVES]
        node = np.int64(beam.entries[np.searchsorted(sums, (k + 0.5) / count * sums[-1])].node)
        while node > 0:
            at = _before(number, beam, tree, node)
            if at >= 0:  # Knuth's linear congruential generator
                random = random * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            left, other = np.float64(random >> np.uint64(11)) * 2.0**-53, np.int64(-1)
            while at >= 0 and other < 0:
                one = beam.alternatives[at]
                left -= math.exp(one.ln + masses[one.node] - masses[node])
                if left < 0.0:
                    other, number = np.int64(one.node), at
                at = np.int64(one.next)
            if other < 0:
                tokens.append(np.int64(tree[node].token))
                other = np.int64(tree[node].parent)
            node = other
        tokens[first:] = tokens[first:][::-1]
        ends[k] = len(tokens)
    return Labellings(np.array(tokens, np.int64), ends)


@njit(nogil=True, cache=True)
def _masses(beam: Beam, tree: Any) -> Any:
    """(nodes,) ln of how much more mass each prefix would have if nothing had been dropped.

    What was dropped for a prefix may have come later than that, may even begin with it, or the two may have
    been dropped for each other, one after the other. So the nodes are gone through several times, in the
    order in which they came, which has each behind its parent.
    """
    masses = np.zeros(beam.counts[NODES])
    for _ in range(_SWEEPS):
        for node in range(1, len(masses)):
            total, at = masses[tree[node].parent], np.int64(tree[node].alternative)
            while at >= 0:
                one = beam.alternatives[at]
                total = np.logaddexp(total, one.ln + masses[one.node])
                at = np.int64(one.next)
            masses[node] = total
    return masses
