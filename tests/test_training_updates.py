"""One update of the weights against torch's own pieces, and which updates there are."""

import dataclasses
import math
import sys

import pytest
import torch
from torch import nn

from asr.encoder import Encoder
from asr.machine.optimizer import orthogonalised
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler, which its own classes import
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_by_muon_each_gate_moves_as_torchs_moves_a_matrix(cell):
    """Independent implementation: `torch.optim.Muon` and AdamW, each gate a parameter of its own."""
    config = TrainingConfig(optimizer="muon", clip_norm=0, weight_decay=0.3)
    encoder = Encoder(dataclasses.replace(ENCODER, cell=cell, norm="layer", projection=8), 24, 6)
    updater, labels = Updater(encoder, config, Ranks()), 7.0
    gates = {p: encoder.gates().get(p, 1) for p in encoder.parameters()}
    theirs = {p: [nn.Parameter(q.clone()) for q in p.detach().chunk(n)] for p, n in gates.items()}
    moved = [q for p in encoder.gates() for q in theirs[p]]
    assert (
        len(moved) == 2 * 2 * {"lstm": 4, "gru": 3, "rnn": 1}[cell]
    )  # of inputs and of the state, both ways
    # Twice torch's rate is 0.4 of the root mean square, and half its decay then as much as with AdamW.
    muon = torch.optim.Muon(moved, lr=2e-2, weight_decay=0.15, adjust_lr_fn="match_rms_adamw")
    rest = [p for p in gates if p not in encoder.gates()]
    groups = [
        {"params": [q for p in rest if (p.ndim > 1) == m for q in theirs[p]], "weight_decay": 0.3 * m}
        for m in (True, False)
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, config.beta2))
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        updater.begin(1e-2)
        for p, several in theirs.items():
            p.grad = torch.randn(p.shape, generator=generator) * labels
            for q, gradient in zip(several, (p.grad / labels).chunk(len(several)), strict=True):
                q.grad = gradient
        is_lost = step == 1  # a step that is not finite changes nothing, nor what follows
        sums = torch.tensor([math.nan if is_lost else 1.0, labels, 0.0, 0.0, 0.0], dtype=torch.float64)
        if is_lost:
            next(iter(encoder.gates())).grad.fill_(math.nan)
        updater.finish(sums, by_layer=False)
        if not is_lost:
            muon.step()
            adamw.step()
        for p, several in theirs.items():
            near = {"rtol": 0.02, "atol": 4e-3 if p in encoder.gates() else 1e-6}  # theirs is in bfloat16
            torch.testing.assert_close(p.detach(), torch.cat([q.detach() for q in several]), **near)


def test_the_orthogonal_matrix_is_that_of_the_singular_vectors():
    generator = torch.Generator().manual_seed(1)
    for shape in ((3, 20, 40), (2, 40, 20)):
        x_BMN = torch.randn(shape, generator=generator)
        found, (u, _, v) = orthogonalised(x_BMN), torch.linalg.svd(x_BMN, full_matrices=False)
        assert torch.linalg.svdvals(found).sub(0.95).abs().max() < 0.3
        assert (
            (found * (u @ v)).sum((1, 2)) / found.norm(dim=(1, 2)) / 20**0.5
        ).min() > 0.97  # its direction
        torch.testing.assert_close(orthogonalised(1e-3 * x_BMN), found, atol=0.02, rtol=0)
    assert not orthogonalised(torch.zeros(1, 3, 2)).any()


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
