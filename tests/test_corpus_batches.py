"""The batch plan: a pure function that loses nothing, whoever asks for whichever part of it."""

import subprocess
import sys
from collections import Counter

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.corpus.batches import padding_share, plan
from asr.errors import CorpusError

LENGTHS = st.lists(st.integers(0, 300), min_size=1, max_size=80)
SETTINGS = st.fixed_dictionaries(
    {
        "seed": st.integers(-(2**63), 2**63),
        "epoch": st.integers(0, 1000),
        "seconds_per_batch": st.floats(1, 60),
        "ascending": st.booleans(),
        "shuffle": st.booleans(),
        "join": st.integers(1, 4),
    }
)


def total(lengths, item):
    return sum(lengths[i] for i in item)


def indices(batches):
    return sorted(i for batch in batches for item in batch for i in item)


@given(LENGTHS, SETTINGS)
def test_every_utterance_is_in_exactly_one_item(lengths, settings):
    groups = [i % 3 for i in range(len(lengths))]
    assert indices(plan(lengths, rate_hz=10, groups=groups, **settings)) == list(range(len(lengths)))


@given(LENGTHS, SETTINGS)
def test_no_batch_is_larger_than_its_bound_unless_it_is_a_single_item(lengths, settings):
    groups = [i % 3 for i in range(len(lengths))]
    for batch in plan(lengths, rate_hz=10, groups=groups, **settings):
        longest = max(total(lengths, item) for item in batch)
        assert len(batch) == 1 or len(batch) * longest <= settings["seconds_per_batch"] * 10


@given(LENGTHS, SETTINGS)
def test_only_utterances_of_one_group_are_joined_and_none_without_group(lengths, settings):
    groups = [None if i % 4 == 0 else i % 3 for i in range(len(lengths))]
    for batch in plan(lengths, rate_hz=10, groups=groups, **settings):
        for item in batch:
            assert 1 <= len(item) <= settings["join"]
            assert len({groups[i] for i in item}) == 1
            assert len(item) == 1 or groups[item[0]] is not None
            assert len(item) == 1 or total(lengths, item) <= settings["seconds_per_batch"] * 10


@hypothesis.settings(max_examples=60)
@given(LENGTHS, SETTINGS, st.integers(1, 9))
def test_ranks_get_as_many_batches_each_and_all_together_what_one_would_get(lengths, settings, world_size):
    groups = [i % 3 for i in range(len(lengths))]
    single = plan(lengths, rate_hz=10, groups=groups, **settings)
    items = Counter(item for batch in single for item in batch)
    if sum(items.values()) < world_size:
        with pytest.raises(CorpusError, match="cannot be shared"):
            plan(lengths, rate_hz=10, groups=groups, rank=0, world_size=world_size, **settings)
        return
    parts = [
        plan(lengths, rate_hz=10, groups=groups, rank=r, world_size=world_size, **settings)
        for r in range(world_size)
    ]
    assert len({len(part) for part in parts}) == 1
    assert all(batch for part in parts for batch in part)
    assert Counter(item for part in parts for batch in part for item in batch) == items


@given(st.lists(st.integers(1, 30), min_size=20, max_size=80), st.integers(1, 5), st.integers(0, 9))
def test_accumulating_batches_is_the_same_step_as_several_ranks(lengths, world_size, seed):
    """As long as the last batches have items enough to be split, which short utterances see to."""
    settings = {"seed": seed, "epoch": 1, "seconds_per_batch": 30, "rate_hz": 10}
    single = plan(lengths, **settings)
    parts = [plan(lengths, rank=r, world_size=world_size, **settings) for r in range(world_size)]
    steps = [single[i : i + world_size] for i in range(0, len(single), world_size)]
    if sum(map(len, steps[-1])) < world_size:
        return
    assert len(steps) == len(parts[0])
    for step, *of_ranks in zip(steps, *parts, strict=True):
        assert indices(step) == indices(of_ranks)


def test_the_plan_depends_on_seed_and_epoch_and_on_nothing_else():
    lengths = np.random.default_rng(0).integers(5, 200, 300)
    settings = {"seconds_per_batch": 60, "rate_hz": 10}
    first = plan(lengths, seed=1, epoch=0, **settings)
    np.random.seed(5)  # noqa: NPY002 (global state must not matter)
    assert plan(lengths.tolist(), seed=1, epoch=0, **settings) == first
    assert plan(lengths, seed=2, epoch=0, **settings) != first
    assert plan(lengths, seed=1, epoch=1, **settings) != first


def test_another_process_makes_the_same_plan():
    code = (
        "from asr.corpus.batches import plan; "
        "groups = ['ann', 'bob'] * 25; "
        "print(plan(range(50), seed=3, epoch=2, seconds_per_batch=9, rate_hz=20, join=2, groups=groups))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONHASHSEED": s}
        ).stdout
        for s in ("1", "2")
    }
    here = plan(
        range(50), seed=3, epoch=2, seconds_per_batch=9, rate_hz=20, join=2, groups=["ann", "bob"] * 25
    )
    assert outputs == {f"{here}\n".encode()}


def test_ascending_batches_grow_and_the_order_of_shuffled_ones_is_random():
    lengths = np.random.default_rng(0).integers(10, 200, 400)
    settings = {"seed": 1, "epoch": 0, "seconds_per_batch": 60, "rate_hz": 10}
    longest = [max(total(lengths, i) for i in batch) for batch in plan(lengths, ascending=True, **settings)]
    assert longest == sorted(longest)
    longest = [max(total(lengths, i) for i in batch) for batch in plan(lengths, **settings)]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_batches_of_real_lengths_are_almost_full_and_hardly_padded():
    lengths = (np.random.default_rng(0).gamma(8, 1.5, 3000).clip(1, 35) * 16000).astype(int)
    batches = plan(lengths, seed=1, epoch=0, seconds_per_batch=200, rate_hz=16000)
    assert padding_share(np.array([total(lengths, i) for i in b]) for b in batches) < 0.05
    filled = [len(b) * max(total(lengths, i) for i in b) / (200 * 16000) for b in batches]
    assert np.mean(filled) > 0.9


def test_batches_are_planned_for_the_lengths_that_are_heard():
    rng = np.random.default_rng(0)
    lengths = (rng.gamma(8, 1.5, 3000).clip(1, 35) * 16000).astype(int)
    after = (lengths * rng.uniform(0.6, 1.6, 3000)).astype(int)
    settings = {"seed": 1, "epoch": 0, "seconds_per_batch": 200, "rate_hz": 16000}
    blind = plan(lengths, **settings)
    aware = plan(lengths, **settings, heard=lambda items: np.array([after[i] for (i,) in items]))
    assert sorted(i for b in aware for (i,) in b) == list(range(3000))
    assert max(len(b) * max(after[i] for (i,) in b) for b in aware) <= 200 * 16000
    heard = [[np.array([after[i] for (i,) in b]) for b in batches] for batches in (blind, aware)]
    assert padding_share(heard[0]) > 0.2 and padding_share(heard[1]) < 0.05


def test_partners_in_a_batch_change_from_epoch_to_epoch():
    lengths = (np.random.default_rng(0).gamma(8, 1.5, 1000).clip(1, 35) * 16000).astype(int)

    def partners(epoch):
        batches = plan(lengths, seed=1, epoch=epoch, seconds_per_batch=120, rate_hz=16000)
        return {frozenset((a[0], b[0])) for batch in batches for a in batch for b in batch if a != b}

    assert len(partners(0) & partners(1)) < 0.6 * len(partners(0))


def test_joined_strings_have_every_length_up_to_join_and_new_partners_each_epoch():
    groups = ["ann", "bob"] * 500
    settings = {"seed": 1, "seconds_per_batch": 100, "rate_hz": 10, "join": 4, "groups": groups}
    strings = [[i for b in plan([5] * 1000, epoch=e, **settings) for i in b] for e in (0, 1)]
    counts = Counter(map(len, strings[0]))
    assert set(counts) == {1, 2, 3, 4}
    assert max(counts.values()) < 1.5 * min(counts.values())
    assert not set(strings[0]) & {s for s in strings[1] if len(s) > 1}


def test_padding_share_is_counted_by_hand():
    assert padding_share([np.array([5, 3]), np.array([8])]) == pytest.approx(1 - 16 / 18)
    assert padding_share([]) == 0.0
    assert padding_share([np.array([0])]) == 0.0


def test_an_empty_corpus_has_an_empty_plan():
    assert plan([], seed=1, epoch=0, seconds_per_batch=1, rate_hz=10) == []


WRONG = {
    "must be positive": {"seconds_per_batch": 0},
    "rank 2 of 2": {"rank": 2, "world_size": 2},
    "join=0": {"join": 0},
    "group of each utterance": {"join": 2},
    "2 groups for 3": {"join": 2, "groups": ["a", "b"]},
    "cannot be shared by 4": {"world_size": 4},
}


@pytest.mark.parametrize("message", WRONG)
def test_arguments_that_make_no_sense_are_errors(message):
    with pytest.raises(CorpusError, match=message):
        plan([1, 2, 3], **{"seed": 1, "epoch": 0, "seconds_per_batch": 1, "rate_hz": 10} | WRONG[message])


def test_lengths_that_are_no_lengths_are_errors():
    for lengths in ([[1, 2]], [-1]):
        with pytest.raises(CorpusError, match="none negative"):
            plan(lengths, seed=1, epoch=0, seconds_per_batch=1, rate_hz=10)


@hypothesis.settings(max_examples=20)
@given(st.integers(1, 400), st.integers(1, 64))
def test_even_many_ranks_share_small_corpora(count, world_size):
    if count < world_size:
        return
    lengths = np.full(count, 10)
    sizes = {
        len(plan(lengths, seed=1, epoch=0, seconds_per_batch=50, rate_hz=1, rank=r, world_size=world_size))
        for r in range(world_size)
    }
    assert len(sizes) == 1
