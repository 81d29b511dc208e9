"""Which outputs and prefixes of a frame are worth keeping; compiled by numba."""

import math
from typing import Any

from asr.decoding.prefixes import ENTRIES, EXTENSIONS, FRAMES, Beam, compiled, inlined


@compiled
def choose_outputs(y_V: Any, least: float, tokens: Any) -> int:
    """How many outputs are worth extending with; fills `tokens` with them, the most probable first."""
    count, top = 0, 0
    for c in range(1, y_V.shape[0]):
        if y_V[c] > y_V[top]:
            top = c
        if y_V[c] >= least and y_V[c] > 0.0:
            tokens[count] = c
            count += 1
    if count == 0 and top > 0:
        tokens[0] = top
        return 1
    for q in range(1, count):
        if y_V[tokens[q]] > y_V[tokens[0]]:
            tokens[0], tokens[q] = tokens[q], tokens[0]
    return count


@compiled
def drop_dominated(beam: Beam, tree: Any) -> None:
    """Take the mass of prefixes that can never win: another has the same future and more of both masses.

    A prefix whose parent is in the beam still gets inflow and is spared.
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
            _drop(other)
        elif one.new_blank <= other.new_blank and one.new_spoken <= other.new_spoken:
            _drop(one)


@inlined
def _drop(one: Any) -> None:
    if one.parent < 0:
        one.new_blank = one.new_spoken = 0.0


@inlined
def _same_future(tree: Any, a: int, b: int) -> bool:
    """Whether whatever follows is worth the same after both prefixes."""
    one, other = tree[a], tree[b]
    return (
        one.token == other.token
        and one.word_node == other.word_node
        and one.history == other.history
        and one.hot == other.hot
        and one.token_history == other.token_history
    )


@compiled
def least_mass(beam: Beam, least: float, width: int) -> tuple[float, int]:
    """The least mass that stays in the beam, and how many of exactly that mass."""
    entries, extensions, count = beam.counts[ENTRIES], beam.counts[EXTENSIONS], 0
    for i in range(entries):
        mass = beam.entries[i].new_blank + beam.entries[i].new_spoken
        if mass >= least:
            beam.order[count] = mass
            count += 1
    for e in range(extensions):
        if beam.extensions[e].mass >= least:
            beam.order[count] = beam.extensions[e].mass
            count += 1
    if count <= width:
        return least, width
    least = _nth_highest(beam.order, count, width)
    above = 0
    for i in range(count):
        above += beam.order[i] > least
    return least, width - above


@compiled
def _nth_highest(values: Any, count: int, n: int) -> float:
    """The n-th highest of the first `count` values, n ≥ 1; they are reordered (Hoare's quickselect)."""
    low, high, wanted = 0, count - 1, n - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return values[wanted]


@compiled
def rescale(beam: Beam, best: float) -> None:
    """Make the highest mass one."""
    for i in range(beam.counts[ENTRIES]):
        one = beam.entries[i]
        one.blank /= best
        one.spoken /= best
        one.total = one.blank + one.spoken
    beam.scale[0] += math.log(best)
