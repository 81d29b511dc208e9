"""Samples from the memory map or from device memory are the same."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import ENCODER, QUICK, corpus, trainer, weights  # noqa: F401 (corpus is a fixture)

from asr.augmentation import AugmentationConfig
from asr.errors import ConfigError
from asr.training import history, ledger, samples

JOINED = dataclasses.replace(QUICK, join=3, pause_s=0.05, precision="float32")
EVERYTHING = AugmentationConfig(
    noise=1, trim_s=0.1, reverb=0.5, telephone=0.5, equaliser_db=3, gain_db=2, warp=0.1, voices=0.5
)


def test_batches_from_device_memory_are_those_from_the_memory_map_bit_for_bit(corpus, tmp_path):  # noqa: F811
    train = corpus()
    feeds = [
        trainer(train, tmp_path / "exp", config=JOINED, resident=kind).feed for kind in ("never", "always")
    ]
    assert isinstance(feeds[1].samples, samples.Resident)
    joined = 0
    for epoch in (0, 1):
        plan = feeds[0].plan(epoch)
        batches = [list(feed.batches(epoch, plan)) for feed in feeds]
        for mapped, resident, items in zip(*batches, plan, strict=True):
            assert torch.equal(mapped.samples_BT, resident.samples_BT)
            assert mapped.samples_BT.dtype == resident.samples_BT.dtype == torch.float32
            assert torch.equal(mapped.lengths_B, resident.lengths_B)
            joined += sum(len(item) > 1 for item in items)
    assert joined > 0


def test_a_batch_holds_the_recordings_and_zeros_behind_them(corpus, tmp_path):  # noqa: F811
    train = corpus(6)
    feed = trainer(train, tmp_path / "exp", resident="always").feed
    batch = next(feed.batches(0, [[(4,), (1,)]]))
    for row, i in enumerate((4, 1)):
        wave = torch.from_numpy(np.array(train.samples(i))).float() / 32768
        assert torch.equal(batch.samples_BT[row, : len(wave)], wave)
        assert not batch.samples_BT[row, len(wave) :].any()


def test_training_from_device_memory_ends_with_the_same_weights(corpus, tmp_path):  # noqa: F811
    train = corpus()
    for kind in ("never", "always"):
        trainer(train, tmp_path / kind, resident=kind).run()
    assert weights(tmp_path / "never") == weights(tmp_path / "always")


def test_a_murmur_is_of_the_voices_that_are_trained_on(corpus):  # noqa: F811
    train = corpus()
    kept = range(len(train) - 2)
    heard = samples.murmur(train, kept)
    assert heard.dtype == torch.float32 and heard.square().mean().item() == pytest.approx(1, abs=1e-4)
    assert len(heard) == 240 * train.rate_hz
    assert torch.equal(heard, samples.murmur(train, kept[::-1]))  # whatever the order
    assert not torch.equal(heard, samples.murmur(train, kept[1:]))
    assert samples.murmur(train, []).shape == (0,)


def test_a_corpus_is_resident_by_itself_only_on_a_gpu_with_room(corpus, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    gpu = torch.device("cuda")
    assert [samples.fits(size, gpu) for size in (500, 501)] == [True, False]
    assert not samples.fits(1, torch.device("cpu"))
    train = corpus(3)
    assert not isinstance(samples.open_samples(train, torch.device("cpu"), "auto"), samples.Resident)
    with pytest.raises(ConfigError, match=r"data\.resident=maybe: expected auto, never or always"):
        samples.open_samples(train, torch.device("cpu"), "maybe")


def test_a_corpus_that_must_be_resident_and_has_no_room_is_a_clear_error(corpus, monkeypatch):  # noqa: F811
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 110.00 GiB")

    train = corpus(3)
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(ConfigError, match=r"has no room for the 0\.0 GB of .*out of memory.*resident=auto"):
        samples.open_samples(train, torch.device("cpu"), "always")
    monkeypatch.setattr(samples, "fits", lambda size, device: True)  # as it was, before others took the room
    assert not isinstance(samples.open_samples(train, torch.device("cpu"), "auto"), samples.Resident)


def timeless(folder: Path) -> list[str]:
    """The epochs of a history without what a clock measured."""
    clock = ("seconds", "audio_s_per_s", "waited")
    epochs = [line for line in history.read(folder / history.FILE) if line["kind"] == "epoch"]
    return [json.dumps({k: v for k, v in line.items() if k not in clock}) for line in epochs]


def test_reading_what_happened_late_changes_nothing(corpus, tmp_path, monkeypatch):  # noqa: F811
    train = corpus()
    trainer(train, tmp_path / "at once").run()
    monkeypatch.setitem(ledger.UPDATES_BETWEEN_READS, "cpu", 4)
    told = []
    late = trainer(train, tmp_path / "late", observer=lambda kind, facts: told.append(kind))
    late.run()
    assert weights(tmp_path / "late") == weights(tmp_path / "at once")
    assert timeless(tmp_path / "late") == timeless(tmp_path / "at once")
    assert told.count("step") < late.progress.updates
