"""One update of the weights against torch's own pieces, and which updates there are."""

import dataclasses
import math
import sys

import pytest
import torch
from torch import nn

from asr.encoder import Encoder
from asr.training import TrainingConfig
from asr.training.distributed import Ranks
from asr.training.optim import Updater
from tests.test_training import ENCODER, QUICK, QUIET, corpus, trainer  # noqa: F401


@pytest.mark.parametrize("clip_norm", [0.0, 1e-3, 0.5])
def test_an_update_is_torchs_clipping_and_adamw_over_the_mean_per_label(clip_norm):
    """Independent implementation: `clip_grad_norm_` and AdamW, decaying the matrices only."""
    config = TrainingConfig(clip_norm=clip_norm, weight_decay=0.3, learning_rate=1e-2)
    ours, theirs = (Encoder(ENCODER, 24, 6) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    matrices, vectors = ([p for p in theirs.parameters() if (p.ndim > 1) == m] for m in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, config.beta2))
    updater, labels = Updater(ours, config, Ranks()), 7.0
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        updater.begin(1e-2)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator) * labels
            q.grad = p.grad / labels
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm or math.inf)
        adamw.step()
        sums = torch.tensor([1.0, labels, 0.0, 0.0, 0.0], dtype=torch.float64)
        torch.testing.assert_close(updater.finish(sums, by_layer=False), norm)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)


def test_updates_and_their_state_need_no_compiler(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # importing it raises
    updater = Updater(Encoder(ENCODER, 24, 6), TrainingConfig(), Ranks())
    updater.optimizer.load_state_dict(updater.optimizer.state_dict())
    updater.begin(1e-2)
    updater.finish(torch.zeros(5, dtype=torch.float64), by_layer=False)


def test_training_without_progress_ends_when_its_patience_does(corpus, tmp_path):  # noqa: F811
    config = dataclasses.replace(QUICK, epochs=9, patience=2, average=3)
    scores = iter([0.9, 0.5, 0.7, 0.6])
    stopped = trainer(corpus(), tmp_path / "exp", config=config)
    measured = dict(stopped.validate(), dev_loss=1.0)
    stopped.validate = lambda: measured | {"wer": next(scores, 0.8)}  # type: ignore[method-assign]
    progress = stopped.run()
    assert (progress.epoch, progress.stale_epochs, progress.finished) == (4, 2, True)
    assert [int(epoch) for *_, epoch in progress.best] == [2, 4, 3]
    assert stopped.recognizer.trained_on["weights"] == "epoch 2"  # the mean of the three is worse: 0.8


@pytest.mark.parametrize("ascending", [True, False])
def test_the_first_epoch_goes_from_short_to_long_if_asked(corpus, tmp_path, ascending):  # noqa: F811
    config = dataclasses.replace(QUICK, seconds_per_batch=2, ascending_first_epoch=ascending)
    feed = trainer(corpus(), tmp_path / "exp", config=config, augmentation=QUIET).feed

    def is_sorted(epoch: int) -> bool:
        longest = [feed.audio_s([batch]) / len(batch) for batch in feed.plan(epoch)]
        return longest == sorted(longest)

    assert [is_sorted(epoch) for epoch in range(3)] == [ascending, False, False]
