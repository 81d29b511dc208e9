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
from asr.decoding.prefixes import ALTERNATIVES, NODES, Beam, inlined
from asr.machine.compilation import kernel

_MOST = 1e290  # of a multiple, so that no sum of some overflows


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
            at = before(ways[way][3], beam, tree, node)
            while at >= 0:
                one = beam.alternatives[at]
                heapq.heappush(heap, (behind - one.ln, len(ways)))
                ways.append((np.int64(one.node), way, node, at))
                at = np.int64(one.next)
            node = np.int64(tree[node].parent)
    return Labellings(np.array(tokens, np.int64), np.array(ends, np.int64))


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


@inlined
def hashed(key: int, part: int) -> int:
    """The hash of a sequence: `part` is its last element, `key` the hash of all before."""
    key = (key ^ (part + 1)) * 0x2545F4914F6CDD1D
    return key ^ (key >> 29)


@kernel()
def restored(beam: Beam, tree: Any, since: int) -> tuple[Any, Any, Any]:
    """The masses that prefixes would have, had nothing been dropped after node `since` entered the tree.

    Only what concerns later nodes is computed and filled in.

    Returns:
        (nodes,) what the alternatives to a prefix add to its mass, as a multiple of it;
        (alternatives,) the mass of the dropped prefix, as a multiple of what it had when it was dropped;
        (alternatives,) the same, as a multiple of what the other prefix had then.
    """
    parents, gains = np.empty(beam.counts[NODES], np.int32), np.empty(beam.counts[NODES])
    first = beam.counts[ALTERNATIVES]
    others = np.empty(first, np.int32)
    for node in range(since, len(parents)):
        parents[node], gains[node] = tree[node].parent, 0.0
        at = np.int64(tree[node].alternative if node > since else -1)
        while at >= 0:
            if at < first:
                others[at:first], first = -1, at
            others[at] = node
            at = np.int64(beam.alternatives[at].next)
    roots = _common_roots(beam, parents, others, first, since)
    masses, shares = np.empty(len(others)), np.empty(len(others))
    above, root = 1.0, np.int64(since)  # the mass by all before the root, which cannot gain any more
    for k in range(first, len(others)):
        if others[k] >= 0:
            above += sum_up(gains, parents, parents[roots[k]], max(root, since + 1))
            root = np.int64(roots[k])
            masses[k] = above + sum_up(gains, parents, beam.alternatives[k].node, max(root, since + 1))
            shares[k] = min(math.exp(beam.alternatives[k].ln) * masses[k], _MOST)
            gains[others[k]] += shares[k]
    return gains, masses, shares


@kernel()
def _common_roots(beam: Beam, parents: Any, others: Any, first: int, since: int) -> Any:
    """(alternatives,) the longest common prefix of it, the other, and all later ones; at least `since`."""
    roots, root = np.empty(len(others), np.int32), np.int64(beam.entries[0].node)
    for k in range(len(others) - 1, first - 1, -1):
        for other in (np.int64(others[k]), np.int64(beam.alternatives[k].node)):
            node = other if others[k] >= 0 else root
            while root != node and root > since:
                if root > node:
                    root = np.int64(parents[root])
                else:
                    node = np.int64(parents[node])
        roots[k] = max(root, since)
    return roots


@kernel()
def sum_up(values: Any, parents: Any, node: Any, last: Any) -> float:
    """The sum of the values of a node and its ancestors, as long as their numbers are at least `last`."""
    total = 0.0
    while node >= last:
        total += values[node]
        node = np.int64(parents[node])
    return total


@inlined
def before(number: Any, beam: Beam, tree: Any, node: Any) -> Any:
    """The latest alternative of a node whose number is below `number`, or −1."""
    at = np.int64(tree[node].alternative)
    while at >= number:
        at = np.int64(beam.alternatives[at].next)
    return at
