"""Splits: disjoint, independent of order and machine, and whole speakers or recordings where possible."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.corpus.manifest import Utterance
from asr.corpus.split import hold_out
from asr.errors import ConfigError, CorpusError


def test_parts_of_one_recording_stay_together():
    parts = [Utterance(f"{i}", Path(f"talk{i % 8}.wav"), 2.0, "x", start_s=2.0 * i) for i in range(80)]
    splits = hold_out(parts, {"dev": 0.1, "test": 0.2})
    talks = {split: {u.audio_filepath for u in us} for split, us in splits.items()}
    assert {split: len(names) for split, names in talks.items()} == {"train": 5, "dev": 1, "test": 2}
    assert len(set.union(*talks.values())) == 8
    same = [replace(u, audio_filepath=Path(u.audio_filepath.stem, "audio.wav")) for u in parts]
    talks = {split: {u.audio_filepath for u in us} for split, us in hold_out(same, {"dev": 0.1}).items()}
    assert {split: len(names) for split, names in talks.items()} == {"train": 7, "dev": 1}
    few = hold_out(
        [replace(u, audio_filepath=Path(f"talk{i % 4}.wav")) for i, u in enumerate(parts)], {"dev": 0.1}
    )
    assert len(few["dev"]) == 8 and len({u.audio_filepath for u in few["dev"]}) > 1


@pytest.mark.parametrize("by", ["auto", "utterance"])
def test_a_recording_that_is_listed_twice_is_in_one_split(by):
    twice = [replace(u, id=f"{copy}{u.id}") for copy in "ba" for u in utterances(30)]
    for seed in range(5):
        found = hold_out(twice, {"dev": 0.1, "test": 0.2}, by=by, seed=seed)
        assert {split: len(us) for split, us in found.items()} == {"train": 42, "dev": 6, "test": 12}
        places = [{u.place for u in us} for us in found.values()]
        assert sum(map(len, places)) == len(set.union(*places)) == 30
        backwards = hold_out(twice[::-1], {"dev": 0.1, "test": 0.2}, by=by, seed=seed)
        assert {u.id for u in backwards["dev"]} == {u.id for u in found["dev"]}


def test_a_split_by_utterance_for_want_of_a_speaker_is_told(caplog):
    us = utterances(24, speakers=8)
    hold_out(us, {"dev": 0.1})
    assert not caplog.messages
    us[3] = replace(us[3], speaker=None)
    for settings in ({"by": "utterance"}, {"fractions": {}}, {"fractions": {"dev": 0.1}}):
        hold_out(us, **{"fractions": {"dev": 0.1}, **settings})
    assert caplog.messages == ["split by utterance: 1 of 24 has no speaker"]
    caplog.clear()
    hold_out([replace(u, start_s=1.0 + i) for i, u in enumerate(us)], {"dev": 0.1})
    assert caplog.messages == ["split by recording: 1 of 24 has no speaker"]


def utterances(count, speakers=0):
    return [
        Utterance(f"u{i}", Path(f"/{i}.wav"), 1.0, "x", f"s{i % speakers}" if speakers else None)
        for i in range(count)
    ]


@given(st.integers(3, 60), st.integers(0, 12), st.integers(0, 5), st.randoms())
def test_held_out_splits_are_whole_disjoint_and_independent_of_order(count, speakers, seed, random):
    us = utterances(count, speakers)
    try:
        found = hold_out(us, {"dev": 0.1, "test": 0.2}, seed=seed)
    except CorpusError:
        assert min(speakers, count) >= 5 or count < 3
        return
    assert sorted(u.id for split in found.values() for u in split) == sorted(u.id for u in us)
    assert all(found.values())
    if min(speakers, count) >= 5:
        of = {name: {u.speaker for u in split} for name, split in found.items()}
        assert not of["train"] & of["dev"] and not of["train"] & of["test"] and not of["dev"] & of["test"]
    else:
        assert len(found["dev"]) == max(1, round(0.1 * count))
    shuffled = list(us)
    random.shuffle(shuffled)
    again = hold_out(shuffled, {"dev": 0.1, "test": 0.2}, seed=seed)
    assert {n: {u.id for u in s} for n, s in again.items()} == {
        n: {u.id for u in s} for n, s in found.items()
    }


def test_another_seed_holds_out_others():
    us = utterances(100)
    assert hold_out(us, {"dev": 0.1}, seed=0)["dev"] != hold_out(us, {"dev": 0.1}, seed=1)["dev"]


def test_impossible_fractions_are_errors():
    for fractions in ({"dev": 0.5, "test": 0.5}, {"dev": -0.1}, {"dev": 2}):
        with pytest.raises(ConfigError, match="expected shares"):
            hold_out(utterances(10), fractions)
    with pytest.raises(CorpusError, match="too few"):
        hold_out(utterances(2), {"dev": 0.1, "test": 0.1})
    with pytest.raises(CorpusError, match="10 utterances have no speaker"):
        hold_out(utterances(10), {"dev": 0.1}, by="speaker")


def test_a_speaker_of_most_utterances_stays_in_training():
    def spoken_by(sizes):
        speakers = [f"s{k}" for k, size in enumerate(sizes) for _ in range(size)]
        return [Utterance(f"u{i}", Path(f"/{i}.wav"), 1.0, "x", s) for i, s in enumerate(speakers)]

    for seed in range(8):
        found = hold_out(spoken_by([90, *[7] * 9]), {"dev": 0.1, "test": 0.1}, seed=seed)
        assert {u.speaker for u in found["train"]} >= {"s0"}
        assert all(15 <= len(found[split]) <= 30 for split in ("dev", "test"))
        alone = hold_out(spoken_by([95, 1, 1, 1, 2]), {"dev": 0.1, "test": 0.1}, seed=seed)
        assert {name: len(split) for name, split in alone.items()} == {"train": 80, "dev": 10, "test": 10}
    with pytest.raises(ConfigError, match="expected a share for each split"):
        hold_out(utterances(10), 0.2)
    with pytest.raises(ConfigError, match="expected a share for each split"):
        hold_out(utterances(10), {"dev": "abc"})
