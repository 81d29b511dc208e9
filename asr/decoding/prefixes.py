"""Data structures of the beam search: the tree of prefixes and the beam, as flat arrays."""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from asr.machine.compilation import kernel

# Beam.counts
ENTRIES, NODES, EXTENSIONS, FRAMES, BEST, QUIET, ALTERNATIVES = range(7)
TINY = 1e-100

# No reference counting: for the arrays of a tuple in every call it would cost more than the search. Functions
# compiled with these options must therefore not create arrays.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
compiled = kernel(**_OPTIONS)
inlined = njit(forceinline=True, **_OPTIONS)

NODE = np.dtype(
    [
        ("parent", np.int32),
        ("token", np.int32),  # the output that was added
        ("child", np.int32),  # the one added last; −1 if none
        ("sibling", np.int32),  # the parent's child that was added before this one; −1 if none
        ("slot", np.int32),  # its index when it was last in the beam
        ("word_node", np.int32),  # of the trie
        ("history", np.int32),  # state of the n-grams after the last complete word
        ("next_history", np.int32),  # the same if the word ended here
        ("hot", np.int32),  # state of the hotwords after the last complete word
        ("next_hot", np.int32),  # the same if the word ended here
        ("alternative", np.int32),  # the one noted last; −1 if none
        ("better", np.int32),  # the node that this one was last dropped for; −1 if never
        ("children", np.int64),  # bit (output mod 64) is set if there is a child with such an output
        ("close", np.float64),  # ln of the factor for ending the word here; NaN if not computed yet
    ],
    align=True,
)

ENTRY = np.dtype(
    [
        ("node", np.int32),  # of the tree
        ("token", np.int32),  # the last output
        ("parent", np.int32),  # index in the beam of the prefix without its last output, or −1
        ("move", np.int32),  # its new index when the beam is compacted, or −1
        ("blank", np.float64),  # mass of the paths that end in the blank
        ("spoken", np.float64),  # mass of those that end in the last output
        ("total", np.float64),  # their sum
        ("factor", np.float64),  # for extending the parent to this prefix
        ("new_blank", np.float64),  # the masses after the current frame
        ("new_spoken", np.float64),
        ("mask", np.int64),  # digits with a child in the trie, see TRIE
        ("first", np.int32),  # the first child there
        ("ahead", np.float64),  # 1 / exp(foreseen value) here, see TRIE
        ("leave", np.float64),  # factor for leaving the trie here
        ("closing", np.float64),  # factor for ending the word here; NaN if not computed yet
        ("key", np.int64),  # a hash of all that determines the prefix's future
    ],
    align=True,
)

EXTENSION = np.dtype(
    [
        ("entry", np.int32),  # index in the beam of the prefix that is extended
        ("node", np.int32),  # its node
        ("token", np.int32),  # the added output
        ("word_node", np.int32),  # of the trie, after it
        ("mass", np.float64),
        ("factor", np.float64),
    ],
    align=True,
)

ALTERNATIVE = np.dtype(
    [
        ("node", np.int32),  # a prefix that was dropped for another with the same future and more mass
        ("next", np.int32),  # the alternative to that other prefix that was noted before; −1 if none
        ("ln", np.float64),  # ln of the ratio of its mass to the other's
    ],
    align=True,
)


class Beam(NamedTuple):
    """The prefixes that are alive and the extensions under consideration.

    Attributes:
        entries: (W,) ENTRY records of the prefixes.
        extensions: (W · V,) EXTENSION records.
        order: (2, W + W · V) scratch for selection.
        seen, seen_at: (hash table) entries by their key, and the frame in which they were put there.
        present: (W, V) the last frame in which the entry's extension by an output was itself in the beam.
        chosen: (V,) outputs to extend with in the current frame.
        alternatives: ALTERNATIVE records; room for at least W more.
        counts: entries, nodes, extensions, frames so far, index of the best entry,
            frames in a row in which nothing was extended, alternatives.
        scale: (1,) ln of the scale: a mass m stands for m · exp(scale).
    """

    entries: np.ndarray
    extensions: np.ndarray
    order: np.ndarray
    seen: np.ndarray
    seen_at: np.ndarray
    present: np.ndarray
    chosen: np.ndarray
    alternatives: np.ndarray
    counts: np.ndarray
    scale: np.ndarray


class Settings(NamedTuple):
    """Pruning limits of the search.

    Attributes:
        width: prefixes that are kept.
        cut: mass below which a prefix is dropped, relative to the best.
        least_output: probability below which an output extends no prefix, unless it is the frame's best; > 0.
    """

    width: int
    cut: float
    least_output: float


def new_beam(width: int, outputs: int) -> Beam:
    """An empty beam; `start` inserts the empty prefix."""
    slots = 1 << max(6, (4 * width - 1).bit_length())
    return Beam(
        entries=np.empty(width, ENTRY),
        extensions=np.empty(width * outputs, EXTENSION),
        order=np.empty((2, width + width * outputs)),
        seen=np.empty(slots, np.int32),
        seen_at=np.full(slots, -1, np.int64),
        present=np.full((width, outputs), -1, np.int32),
        chosen=np.empty(outputs, np.int32),
        alternatives=np.empty(width, ALTERNATIVE),
        counts=np.zeros(7, np.int64),
        scale=np.zeros(1),
    )


def with_room(records: np.ndarray, needed: int) -> np.ndarray:
    """The same records, moved to a larger array if `needed` of them do not fit."""
    if needed <= len(records):
        return records
    bigger = np.empty((needed + len(records), *records.shape[1:]), records.dtype)
    # as bytes: field by field takes longer
    bigger.reshape(-1).view(np.uint8)[: records.nbytes] = records.reshape(-1).view(np.uint8)
    return bigger
