"""Training normalised by speaker: the moments, frame by frame, and what a run does with them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from asr import load
from asr.augmentation import AugmentationConfig, draw
from asr.corpus.manifest import read_manifest
from asr.corpus.packed import PackedCorpus, pack
from asr.encoder import EncoderConfig
from asr.errors import ConfigError
from asr.features import Features, FeaturesConfig
from asr.recognizer import Recognizer
from asr.text import Alphabet
from asr.training import Trainer, TrainingConfig
from asr.training.feed import Feed
from asr.training.speakers import Speakers

FRONT = FeaturesConfig(rate_hz=8000, bands=24, pool_s=0.5, by_speaker=True)
PLAIN = AugmentationConfig(speed=(), warp=0.0, pad_s=0.0, noise=0.0)


@pytest.fixture
def corpus(tone_manifest: Callable[..., Path], tmp_path: Path) -> PackedCorpus:
    """Seven recordings: of ann, of bob, of somebody, of somebody else, of ann, …"""
    path = tone_manifest("said", 7, seed=1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, speaker in zip(lines, ("ann", "bob", None, None) * 2, strict=False):
        line["speaker"] = speaker
    path.write_text("".join(f"{json.dumps({k: v for k, v in x.items() if v is not None})}\n" for x in lines))
    pack(read_manifest(path), tmp_path / "packed", rate_hz=8000, workers=1)
    return PackedCorpus(tmp_path / "packed")


def raw(corpus: PackedCorpus, index: int, warp: float) -> np.ndarray:
    """The frames of an utterance, as loud as any other at its loudest, before normalisation."""
    features = Features(FRONT)
    samples_BT = torch.from_numpy(corpus.samples(index).astype(np.float32) / 32768)[None]
    raw_BTF, _ = features._raw(samples_BT, torch.tensor([samples_BT.shape[1]]), torch.tensor([warp]))
    return raw_BTF[0].double().numpy()


SPEEDS = (0.9, 1.02, 1.1)


@pytest.mark.parametrize("scale", SPEEDS)
@pytest.mark.parametrize("by", ["speed", "warp"])
def test_moments_are_those_of_all_frames_of_the_speaker_at_this_scale(corpus, scale, by):
    """Exact at the lowest and the highest scale, interpolated in between."""
    augmentation = replace(PLAIN, speed=SPEEDS) if by == "speed" else replace(PLAIN, warp=0.1)
    draws = draw(augmentation, seed=1, epoch=0, utterance_ids=[str(i) for i in range(7)])
    if by == "speed":
        draws = replace(draws, speed_index_B=torch.full((7,), SPEEDS.index(scale)))
    else:
        draws = replace(draws, warp_B=torch.full((7,), scale))
    speakers = Speakers(Features(FRONT), corpus, range(7), augmentation)
    found = speakers.moments(range(7), draws).double().numpy()
    for i in range(7):
        ours = [k for k in range(7) if corpus.utterances[k].speaker == corpus.utterances[i].speaker]
        x_NF = np.concatenate([raw(corpus, k, scale) for k in ours])
        expected = np.stack([x_NF.mean(0), (x_NF**2).mean(0)])
        np.testing.assert_allclose(found[i], expected, rtol=0.1 if scale == 1.02 else 1e-4)
    assert not np.allclose(found[0], found[1], rtol=1e-3) and np.array_equal(found[0], found[4])


def test_what_is_not_trained_on_does_not_count_and_enough_is_enough(corpus, monkeypatch):
    draws = draw(PLAIN, seed=1, epoch=0, utterance_ids=["0"])

    def of_ann(utterances: list[int]) -> np.ndarray:
        return Speakers(Features(FRONT), corpus, utterances, PLAIN).moments([0], draws)[0].numpy()

    def expected(*utterances: int) -> np.ndarray:
        x_NF = np.concatenate([raw(corpus, k, 1.0) for k in utterances])
        return np.stack([x_NF.mean(0), (x_NF**2).mean(0)])

    np.testing.assert_allclose(of_ann([1, 4, 0]), expected(0, 4), rtol=1e-4)
    np.testing.assert_allclose(of_ann([1, 0]), expected(0), rtol=1e-4)
    monkeypatch.setattr("asr.training.speakers.MOST_S", corpus.lengths_samples[4] / 8000 - 0.001)
    np.testing.assert_allclose(of_ann([4, 0]), expected(4), rtol=1e-4)
    assert not np.allclose(expected(0), expected(4), rtol=1e-2)


def test_an_utterance_is_normalised_by_its_speaker_in_training_and_by_average_speech_after(corpus, tmp_path):
    recognizer = Recognizer.build(
        Alphabet(list(" abcd")),
        features=FRONT,
        encoder=EncoderConfig(layers=1, width=16, factor=2, dropout=0.0),
        seed=7,
    )
    recognizer.features.fit([(torch.randn(2, 8000) * 0.1, torch.tensor([8000, 5000]))])
    config = TrainingConfig(epochs=1, seconds_per_batch=8, device="cpu")
    run = Trainer(
        recognizer, corpus, corpus, config=config, augmentation=PLAIN, seed=1, folder=tmp_path / "exp"
    )
    batches = list(run.feed.batches(0, run.feed.plan(0)))
    of = {u.id: i for i, u in enumerate(corpus.utterances)}
    for batch in batches:
        features_BTF, _ = run.loss._features(batch)
        for row, name in enumerate(batch.ids):
            i = of[name]
            ours = [k for k in range(7) if corpus.utterances[k].speaker == corpus.utterances[i].speaker]
            x_NF, own_TF = np.concatenate([raw(corpus, k, 1.0) for k in ours]), raw(corpus, i, 1.0)
            expected_TF = (own_TF - x_NF.mean(0)) / x_NF.std(0)
            np.testing.assert_allclose(features_BTF[row, : len(own_TF)], expected_TF, atol=2e-2)
            assert not features_BTF[row, len(own_TF) :].any()
        assert torch.equal(batch.rows(0, 1).moments_B2F, batch.moments_B2F[:1])
    run.run()
    kept, wave = load(tmp_path / "exp" / "model"), corpus.samples(0).astype(np.float32) / 32768
    pooled = Recognizer.build(
        kept.alphabet, features=replace(FRONT, by_speaker=False), encoder=kept.encoder.config, seed=1
    )
    pooled.features.load_state_dict(kept.features.state_dict())
    pooled.encoder.load_state_dict(kept.encoder.state_dict())
    assert torch.equal(pooled.eval().log_probs([wave])[0], kept.log_probs([wave])[0])


def test_others_are_normalised_by_themselves(corpus):
    front = replace(FRONT, by_speaker=False)
    recognizer = Recognizer.build(
        Alphabet(list(" abcd")), features=front, encoder=EncoderConfig(layers=1, width=8), seed=1
    )
    run = Trainer(
        recognizer,
        corpus,
        corpus,
        config=TrainingConfig(device="cpu"),
        augmentation=PLAIN,
        seed=1,
        folder=Path("x"),
    )
    assert isinstance(run.feed, Feed) and run.feed.speakers is None
    assert all(batch.moments_B2F is None for batch in run.feed.batches(0, run.feed.plan(0)))
    with pytest.raises(ConfigError, match="by_speaker with pool_s=0"):
        Features(replace(FRONT, pool_s=0.0))
