"""Competing labellings, restored from the prefixes that a search dropped; compiled by numba.

The beam drops a prefix once another with the same future has more mass, so it ends with few of the
beginnings that it has seen. Here dropped prefixes are restored: the dropped prefix, continued as its winner
was, at the probability ratio they had when it was dropped. Alternatives are numbered in the order in which
they were noted; inside a restored prefix only lower numbers apply, those noted while it was still alive.

Source: k shortest paths by their deviations, after Eppstein 1998.
"""

import heapq
import math
from typing import Any, NamedTuple

import numpy as np

from asr.decoding.outcome import trace
from asr.decoding.prefixes import ALTERNATIVES, NODES, Beam
from asr.machine.compilation import kernel

_SWEEPS = 4


class Labellings(NamedTuple):
    """Several labellings, concatenated.

    Attributes:
        tokens: their outputs.
        ends: (labellings,) where each ends.
    """

    tokens: np.ndarray
    ends: np.ndarray

    def each(self) -> list[np.ndarray]:
        """The outputs of each."""
        return np.split(self.tokens, self.ends[:-1]) if len(self.ends) else []


@kernel()
def best(beam: Beam, tree: Any, scores: Any, count: int) -> Labellings:
    """At most `count` labellings, approximately the most probable ones, best first.

    A way is a prefix plus a borrowed tail: another way's tokens after a given node, and the number of the
    alternative that led there. Deviations are tried at each node of its prefix, once per labelling, as
    several ways can spell the same. A restored prefix may need more frames than there are.

    Args:
        beam, tree: of a search that has processed all frames.
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


@kernel()
def _before(number: Any, beam: Beam, tree: Any, node: Any) -> Any:
    """The latest alternative of a node whose number is below `number`, or −1."""
    at = np.int64(tree[node].alternative)
    while at >= number:
        at = np.int64(beam.alternatives[at].next)
    return at


@kernel()
def _append(tokens: Any, ways: Any, way: int, tree: Any) -> int:
    """Append the outputs of a way, its prefix and then its borrowed tail; returns the prefix's length."""
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


@kernel()
def hashed(key: int, part: int) -> int:
    """The hash of a sequence: `part` is its last element, `key` the hash of all before."""
    key = (key ^ (part + 1)) * 0x2545F4914F6CDD1D
    return key ^ (key >> 29)


@kernel()
def drawn(beam: Beam, tree: Any, scores: Any, count: int, since: int) -> Labellings:
    """`count` labellings sampled in proportion to their probability; none if no prefix may be written.

    Deterministic.

    Args:
        beam, tree, scores: as for `best`.
        since: only what was said after this node entered the tree is returned and costs time; 0 is all.
    """
    masses = _masses(beam, tree, since)
    weights = scores + masses[np.maximum(beam.entries["node"][: len(scores)] - since, 0)]
    sums = np.cumsum(np.exp(weights - np.max(weights))) if len(weights) else np.zeros(1)
    if not sums[-1] > 0.0:
        count = 0
    tokens, ends, random = [np.int64(0)][:0], np.empty(count, np.int64), np.uint64(0)
    for k in range(count):
        first = len(tokens)
        number: Any = beam.counts[ALTERNATIVES]
        node = np.int64(beam.entries[np.searchsorted(sums, (k + 0.5) / count * sums[-1])].node)
        while node > since:
            at = _before(number, beam, tree, node)
            if at >= 0:  # Knuth's linear congruential generator
                random = random * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            left, other = np.float64(random >> np.uint64(11)) * 2.0**-53, np.int64(-1)
            while at >= 0 and other < 0:
                one = beam.alternatives[at]
                left -= math.exp(one.ln + masses[max(one.node - since, 0)] - masses[node - since])
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


@kernel()
def _masses(beam: Beam, tree: Any, since: int) -> Any:
    """(nodes − since,) ln of the factor by which a prefix would have more mass if nothing had been dropped
    after node `since`; the first is that node's, and stands for all before it.

    Alternatives can refer to later nodes or to each other, so the masses are iterated a few times, parents
    first.
    """
    masses = np.zeros(beam.counts[NODES] - since)
    for _ in range(_SWEEPS):
        for node in range(since + 1, beam.counts[NODES]):
            total, at = masses[max(tree[node].parent - since, 0)], np.int64(tree[node].alternative)
            while at >= 0:
                one = beam.alternatives[at]
                total = np.logaddexp(total, one.ln + masses[max(one.node - since, 0)])
                at = np.int64(one.next)
            masses[node - since] = total
    return masses
