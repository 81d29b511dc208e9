"""The batch plan of an epoch: a pure function of lengths, seed and epoch.

Utterances of similar length, after augmentation, share a batch. They are sorted by length after a random
change of up to 3 %, so that batches differ from epoch to epoch with little padding, cut into batches where
`items × longest` would exceed the bound, and the batches are shuffled. With several ranks, batch k of the
plan goes to rank k mod world_size; the last batches are split so that every rank has the same number, and
nothing is left out or repeated. One process that accumulates `world_size` batches therefore sees the same
utterances at every update.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from asr.errors import CorpusError

JITTER = 0.03
"""Largest relative change of a length before sorting."""

Item = tuple[int, ...]


def plan(
    lengths_samples: Sequence[int] | np.ndarray,
    *,
    seed: int,
    epoch: int,
    seconds_per_batch: float,
    rate_hz: int,
    rank: int = 0,
    world_size: int = 1,
    ascending: bool = False,
    shuffle: bool = True,
    join: int = 1,
    groups: Sequence[Hashable | None] | None = None,
    heard: Callable[[Sequence[Item]], np.ndarray] | None = None,
) -> list[list[Item]]:
    """The batches of one rank: lists of items; an item is a tuple of indices of utterances to be joined.

    Every utterance is in exactly one item of one batch of one rank.

    Args:
        lengths_samples: length of each utterance.
        seed, epoch: determine all randomness.
        seconds_per_batch: bound of items × longest item. An item beyond it is a batch of its own; if nearly
            all are, pairs of the shortest may share a batch to give all ranks the same number.
        rate_hz: samples per second.
        rank, world_size: this process and how many there are; all else must be the same in all of them.
        ascending: short utterances first, without shuffling, as in a first epoch.
        shuffle: False for no randomness: in order of length.
        join: utterances of one group are joined into items of 1 to `join`, each number equally likely.
        groups: the group (speaker) of each utterance; utterances of group None stay single.
        heard: lengths in samples of items after augmentation; None: the sum of their utterances' lengths.

    Raises:
        CorpusError: arguments that contradict each other, or fewer utterances than ranks.

    >>> plan([3, 1, 2, 9], seed=1, epoch=0, seconds_per_batch=6, rate_hz=1, shuffle=False)
    [[(1,), (2,)], [(0,)], [(3,)]]
    """
    lengths = np.asarray(lengths_samples, np.int64)
    budget = seconds_per_batch * rate_hz
    _check(lengths, budget, rank, world_size, join, groups)
    rng = np.random.default_rng([seed & (2**64 - 1), epoch])
    items: list[Item] = [(i,) for i in range(len(lengths))]
    if join > 1 and groups is not None:
        items = _join(lengths, groups, join, budget, rng if shuffle else None)
    totals = _sums(lengths, items) if heard is None else heard(items)
    keys = totals * rng.uniform(1 - JITTER, 1 + JITTER, len(items)) if shuffle and not ascending else totals
    batches = _cut(items, totals, np.argsort(keys, kind="stable"), budget)
    if shuffle and not ascending:
        batches = [batches[k] for k in np.argsort(rng.random(len(batches)), kind="stable")]
    return _even(batches, lengths, world_size)[rank::world_size]


def padding_share(batches: Iterable[np.ndarray]) -> float:
    """The share, 0 to 1, of the batches' samples that is padding; each batch is the lengths of its items.

    >>> padding_share([np.array([10, 5])])
    0.25
    """
    real = padded = 0.0
    for totals in batches:
        real += totals.sum()
        padded += len(totals) * totals.max(initial=0)
    return float(1 - real / padded) if padded else 0.0


def _sums(lengths: np.ndarray, items: Sequence[Item]) -> np.ndarray:
    return np.array([sum(int(lengths[i]) for i in item) for item in items], np.int64)


def _check(
    lengths: np.ndarray,
    budget: float,
    rank: int,
    world_size: int,
    join: int,
    groups: Sequence[Hashable | None] | None,
) -> None:
    if not budget > 0:
        raise CorpusError("seconds_per_batch and rate_hz must be positive")
    if not 0 <= rank < world_size:
        raise CorpusError(f"rank {rank} of {world_size}: expected 0 ≤ rank < world_size")
    if lengths.ndim != 1 or (lengths < 0).any():
        raise CorpusError(f"lengths of shape {lengths.shape}: expected one row, none negative")
    if join < 1 or (join > 1 and groups is None):
        raise CorpusError(f"join={join}: expected at least 1, and the group of each utterance to join within")
    if groups is not None and len(groups) != len(lengths):
        raise CorpusError(f"{len(groups)} groups for {len(lengths)} utterances")


def _join(
    lengths: np.ndarray,
    groups: Sequence[Hashable | None],
    join: int,
    budget: float,
    rng: np.random.Generator | None,
) -> list[Item]:
    """Items of up to `join` utterances of one group, together no longer than the budget."""
    order = (
        range(len(lengths)) if rng is None else np.argsort(rng.random(len(lengths)), kind="stable").tolist()
    )
    wanted = np.full(len(lengths), join) if rng is None else rng.integers(1, join + 1, len(lengths))
    items: list[Item] = []
    open_strings: dict[Hashable, tuple[list[int], int]] = {}
    for i in order:
        group, length = groups[i], int(lengths[i])
        if group is None:
            items.append((i,))
            continue
        string, total = open_strings.pop(group, ([], 0))
        if string and total + length > budget:
            items.append(tuple(string))
            string, total = [], 0
        string.append(i)
        if len(string) >= wanted[string[0]]:
            items.append(tuple(string))
        else:
            open_strings[group] = (string, total + length)
    return items + [tuple(string) for string, _ in open_strings.values()]


def _cut(items: list[Item], totals: np.ndarray, order: np.ndarray, budget: float) -> list[list[Item]]:
    batches: list[list[Item]] = []
    batch: list[Item] = []
    longest = 0.0
    for k in order:
        total = float(totals[k])
        if batch and (len(batch) + 1) * max(longest, total) > budget:
            batches.append(batch)
            batch, longest = [], 0.0
        batch.append(items[k])
        longest = max(longest, total)
    return [*batches, batch] if batch else batches


def _even(batches: list[list[Item]], lengths: np.ndarray, world_size: int) -> list[list[Item]]:
    """The same items in a multiple of `world_size` batches: batches near the end are halved as needed."""
    batches = list(batches)
    while surplus := len(batches) % world_size:
        tail = range(len(batches) - surplus, len(batches))
        k = max(tail, key=lambda k: len(batches[k]))
        if len(batches[k]) < 2:  # nothing to split at the end: take the last batch that can be split
            k = next((k for k in reversed(range(len(batches))) if len(batches[k]) > 1), -1)
        if k < 0:
            return _squeeze(batches, lengths, world_size)
        half = len(batches[k]) // 2
        batches[k : k + 1] = [batches[k][:half], batches[k][half:]]
    return batches


def _squeeze(batches: list[list[Item]], lengths: np.ndarray, world_size: int) -> list[list[Item]]:
    """Batches of single items, some merged in pairs: the shortest, because this may break the bound."""
    surplus = len(batches) % world_size
    if len(batches) < world_size:
        raise CorpusError(
            f"{len(batches)} utterances cannot be shared by {world_size} ranks; start fewer processes"
        )
    by_length = sorted(range(len(batches)), key=lambda k: int(lengths[list(batches[k][0])].sum()))
    shortest = by_length[: 2 * surplus]
    partner = dict(zip(shortest[::2], shortest[1::2], strict=True))
    taken = set(partner.values())
    return [
        batch + batches[partner[k]] if k in partner else batch
        for k, batch in enumerate(batches)
        if k not in taken
    ]
