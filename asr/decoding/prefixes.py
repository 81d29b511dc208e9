"""What the beam search works on: the tree of prefixes and the beam, as flat arrays; two tricks of numba."""

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

# Beam.counts
ENTRIES, NODES, EXTENSIONS, FRAMES, BEST = range(5)
TINY = 1e-100

# No reference counts: counting the arrays of a tuple in every call would cost more than the search. What is
# compiled with these must therefore not make arrays.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
compiled = njit(cache=True, **_OPTIONS)
inlined = njit(forceinline=True, **_OPTIONS)

NODE = np.dtype(
    [
        ("parent", np.int32),
        ("token", np.int32),
        ("child", np.int32),  # the one added last; −1 if none
        ("sibling", np.int32),  # the child of the same parent that was added before; −1 if none
        ("slot", np.int32),  # index in the beam when last in it
        ("word_node", np.int32),  # of the trie
        ("history", np.int32),  # state of the n-grams after the last complete word
        ("next_history", np.int32),  # the same if the word ended here
        ("hot", np.int32),  # state of the hotwords after the last complete word
        ("next_hot", np.int32),  # the same if the word ended here
        ("token_history", np.int32),  # state of the n-grams over outputs
        ("close", np.float64),  # ln of the factor of ending the word here; NaN if not asked for yet
        ("factor", np.float64),  # of entering
    ]
)


class Beam(NamedTuple):
    """The prefixes that are alive and the extensions under consideration.

    Attributes:
        node, token, parent: (W,) node in the tree, last output, index of the parent in the beam or −1.
        mask, ahead, leave: (W,) see TRIE; `ahead` inverted.
        closing: (W,) factor of ending the word here; NaN if not asked for yet.
        blank, spoken: (W,) masses of the paths that end in the blank and in the last output.
        total, factor: (W,) their sum; the factor of entering the node.
        new_blank, new_spoken: (W,) the masses after the present frame.
        move: (W,) where an entry goes when the beam is compacted, or −1.
        key: (W,) a hash of all that decides the future of a prefix.
        extension_from, extension_node, extension_mass: (E,) index of the prefix, node of the extension, mass.
        order: (W + E,) scratch for selection.
        seen, seen_at: (hash table) entries by their key, and the frame that put them there.
        present: (W, V) the last frame in which the extension by an output was in the beam itself.
        chosen: (V,) outputs to extend with in the present frame.
        counts: entries, nodes, extensions, frames so far, index of the best entry.
        scale: (1,) ln of the scale: a mass m stands for m · exp(scale).
    """

    node: np.ndarray
    token: np.ndarray
    parent: np.ndarray
    mask: np.ndarray
    ahead: np.ndarray
    leave: np.ndarray
    closing: np.ndarray
    blank: np.ndarray
    spoken: np.ndarray
    total: np.ndarray
    factor: np.ndarray
    new_blank: np.ndarray
    new_spoken: np.ndarray
    move: np.ndarray
    key: np.ndarray
    extension_from: np.ndarray
    extension_node: np.ndarray
    extension_mass: np.ndarray
    order: np.ndarray
    seen: np.ndarray
    seen_at: np.ndarray
    present: np.ndarray
    chosen: np.ndarray
    counts: np.ndarray
    scale: np.ndarray


class Settings(NamedTuple):
    """What bounds the search.

    Attributes:
        width: prefixes that are kept.
        cut: mass below which a prefix is dropped, relative to the best.
        least_output: probability below which an output extends nothing, unless it is the frame's best.
        drop_dominated: whether prefixes that can never be the best are dropped; they may be second best.
    """

    width: int
    cut: float
    least_output: float
    drop_dominated: bool


def new_beam(width: int, outputs: int) -> Beam:
    """A beam of nothing; `start` puts the empty prefix in."""
    extensions, slots = width * outputs, 1 << max(6, (4 * width - 1).bit_length())
    return Beam(
        *(np.zeros(width, np.int32) for _ in range(3)),
        np.zeros(width, np.int64),
        *(np.zeros(width) for _ in range(9)),
        np.zeros(width, np.int32),
        np.zeros(width, np.int64),
        np.zeros(extensions, np.int32),
        np.zeros(extensions, np.int32),
        np.zeros(extensions),
        np.zeros(width + extensions),
        np.zeros(slots, np.int32),
        np.full(slots, -1, np.int64),
        np.zeros((width, outputs), np.int64),
        np.zeros(outputs, np.int64),
        np.zeros(5, np.int64),
        np.zeros(1),
    )


def new_tree(nodes: int) -> np.ndarray:
    """A tree with room for so many nodes."""
    return np.empty(nodes, NODE)


@intrinsic
def count_bits(_typing: Any, _x: Any) -> Any:
    """The number of bits that are set in an int64."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.int64), generate
