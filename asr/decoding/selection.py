"""Pruning: which outputs and prefixes of a frame are kept; compiled by numba."""

import math
from typing import Any

from asr.decoding.prefixes import ALTERNATIVES, ENTRIES, EXTENSIONS, FRAMES, Beam, inlined


@inlined
def choose_outputs(y_V: Any, least: float, tokens: Any) -> int:
    """The number of outputs to extend prefixes with; fills `tokens`, as long as y_V, with them."""
    count = 0
    for c in range(1, y_V.shape[0]):
        tokens[count] = c
        count += y_V[c] >= least
    if count == 0:
        top = 0
        for c in range(1, y_V.shape[0]):
            if y_V[c] > y_V[top]:
                top = c
        tokens[0] = top
        return int(top > 0)
    return count


@inlined
def drop_dominated(beam: Beam, tree: Any, cut: float) -> None:
    """Zero the masses of prefixes that can never win: another has the same future and more of both masses.

    A prefix whose parent is in the beam still gets inflow and is spared. Extensions of a dropped prefix lose
    its inflow. It is noted as an alternative to the other.
    """
    mask, stamp = beam.seen.shape[0] - 1, beam.counts[FRAMES]
    for i in range(beam.counts[ENTRIES]):
        one = beam.entries[i]
        h = one.key & mask
        while beam.seen_at[h] == stamp and beam.entries[beam.seen[h]].key != one.key:
            h = (h + 1) & mask
        if beam.seen_at[h] != stamp:
            beam.seen_at[h] = stamp
            beam.seen[h] = i
            continue
        other = beam.entries[beam.seen[h]]
        if not _same_future(tree, one.node, other.node):
            continue
        if one.new_blank >= other.new_blank and one.new_spoken >= other.new_spoken:
            beam.seen[h] = i
            _drop(other, one, beam, tree, cut)
        elif one.new_blank <= other.new_blank and one.new_spoken <= other.new_spoken:
            _drop(one, other, beam, tree, cut)


@inlined
def _drop(one: Any, other: Any, beam: Beam, tree: Any, cut: float) -> None:
    """Drop `one` for `other` unless it still gets inflow, and note it if it has enough mass.

    Not noted if its parent was dropped for the other's parent: the parents' alternative covers this one.
    """
    if one.parent >= 0:
        return
    share = (one.new_blank + one.new_spoken) / (other.new_blank + other.new_spoken)
    one.new_blank = one.new_spoken = 0.0
    dropped, better = tree[one.node], tree[other.node]
    dropped.better = other.node
    if share > cut and tree[dropped.parent].better != better.parent:
        new = beam.alternatives[beam.counts[ALTERNATIVES]]
        new.node, new.next, new.ln = one.node, better.alternative, math.log(share)
        better.alternative = beam.counts[ALTERNATIVES]
        beam.counts[ALTERNATIVES] += 1


@inlined
def _same_future(tree: Any, a: int, b: int) -> bool:
    """Whether any continuation scores the same after both prefixes."""
    one, other = tree[a], tree[b]
    return (
        one.token == other.token
        and one.word_node == other.word_node
        and one.history == other.history
        and one.hot == other.hot
    )


@inlined
def least_mass(beam: Beam, least: float, width: int) -> tuple[float, int]:
    """(the least mass that stays in the beam, how many of exactly that mass stay)."""
    values, count = beam.order[0], 0
    for i in range(beam.counts[ENTRIES]):
        values[count] = beam.entries[i].new_blank + beam.entries[i].new_spoken
        count += values[count] >= least
    for e in range(beam.counts[EXTENSIONS]):
        values[count] = beam.extensions[e].mass
        count += values[count] >= least
    return _nth_highest(values, beam.order[1], count, width) if count > width else (least, width)


@inlined
def _nth_highest(values: Any, spare: Any, count: int, n: int) -> tuple[float, int]:
    """(the n-th highest of the first `count` values, how many of the n highest equal it); 1 ≤ n ≤ count.

    Quickselect, from one array into the other so that the inner loop has no branches. Both are overwritten.
    """
    while True:
        pivot, higher, lower = values[count >> 1], 0, 0
        for i in range(count):
            value = values[i]
            values[higher] = value
            spare[lower] = value
            higher += value > pivot
            lower += value < pivot
        if n <= higher:
            count = higher
        elif n <= count - lower:
            return pivot, n - higher
        else:
            values, spare, n, count = spare, values, n - (count - lower), lower


@inlined
def rescale(beam: Beam, best: float) -> None:
    """Make the highest mass one."""
    for i in range(beam.counts[ENTRIES]):
        one = beam.entries[i]
        one.blank /= best
        one.spoken /= best
        one.total = one.blank + one.spoken
    beam.scale[0] += math.log(best)
