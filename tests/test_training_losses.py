"""Gradients: of halves when memory runs out, of two output layers, and what the history says of them."""

import dataclasses
import math

import pytest
import torch
from test_training import ENCODER, QUICK, QUIET, corpus, trainer  # noqa: F401 (corpus is a fixture)

import asr.lm
from asr.ctc import ctc_loss, log_denominator
from asr.errors import ConfigError, TrainingError
from asr.machine.memory import is_out_of_memory
from asr.training import history

STILL = dataclasses.replace(ENCODER, dropout=0.0)
EXACT = dataclasses.replace(QUICK, precision="float32")


def forbid(run, most: int, error: Exception, *, in_training: bool = True) -> list[int]:
    """Let the encoder raise for more than `most` utterances, in training or validation; the sizes tried."""
    encoder, forward, tried = run.recognizer.encoder, run.recognizer.encoder.forward, []

    def narrow(features_BTF: torch.Tensor, lengths_B: torch.Tensor) -> object:
        if encoder.training == in_training:
            tried.append(len(features_BTF))
            if len(features_BTF) > most:
                raise error
        return forward(features_BTF, lengths_B)

    encoder.forward = narrow
    return tried


def gradients(run) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in run.recognizer.encoder.parameters()])


def far(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())


OUT_OF_MEMORY = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 9 bytes")]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_that_does_not_fit_is_split_and_has_the_same_gradient(corpus, tmp_path, error):  # noqa: F811
    run = trainer(corpus(12), tmp_path / "exp", encoder=STILL, config=EXACT)
    run.recognizer.encoder.train()
    batch = next(run.feed.batches(1, [[(i,) for i in range(8)]]))
    sums = run.loss.add_gradient(batch, seed=0)
    whole = gradients(run).clone()
    run.updater.begin(0.0)
    tried = forbid(run, 3, error)
    halved = run.loss.add_gradient(batch, seed=0)
    assert tried == [8, 4, 2, 2, 4, 2, 2]
    torch.testing.assert_close(halved[:3], sums[:3])
    assert (sums[3], halved[3]) == (0, 3)
    assert far(gradients(run), whole) < 1e-4


def test_splits_are_counted_in_the_history(corpus, tmp_path):  # noqa: F811
    run = trainer(corpus(12), tmp_path / "exp")
    tried = forbid(run, 3, OUT_OF_MEMORY[0])
    assert run.run().out_of_memory == sum(size > 3 for size in tried) > 0
    lines = [h for h in history.read(tmp_path / "exp" / history.FILE) if h["kind"] == "epoch"]
    assert lines[-1]["out_of_memory"] == run.progress.out_of_memory


def test_a_batch_of_the_development_set_that_does_not_fit_is_split_too(corpus, tmp_path):  # noqa: F811
    run = trainer(corpus(12), tmp_path / "exp", config=EXACT)
    whole = run.validate()
    tried = forbid(run, 3, OUT_OF_MEMORY[0], in_training=False)
    assert run.validate() == pytest.approx(whole)
    assert max(tried) > 3 > min(tried)


def test_an_utterance_that_does_not_fit_alone_ends_training_with_its_name(corpus, tmp_path):  # noqa: F811
    train = corpus(4)
    run = trainer(train, tmp_path / "exp")
    forbid(run, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(TrainingError, match=r"out of memory with corpus0-00\d alone .* lower data\.max_s"):
        run.run()


def test_other_errors_are_not_taken_for_a_lack_of_memory(corpus, tmp_path):  # noqa: F811
    run = trainer(corpus(4), tmp_path / "exp")
    forbid(run, 0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        run.run()
    assert is_out_of_memory(MemoryError())


def test_the_intermediate_loss_mixes_the_gradients_of_both_outputs(corpus, tmp_path):  # noqa: F811
    train, w = corpus(6), 0.3
    encoder = dataclasses.replace(STILL, layers=2, intermediate_layer=1)
    config = dataclasses.replace(EXACT, intermediate_weight=w)
    run = trainer(train, tmp_path / "exp", encoder=encoder, config=config, augmentation=QUIET)
    batch = next(run.feed.batches(0, run.feed.plan(0)))
    sums = run.loss.add_gradient(batch, seed=0)
    ours = gradients(run).clone()

    encoder = run.recognizer.encoder
    encoder.zero_grad()
    features_BTF, frames_B = run.recognizer.features(batch.samples_BT, batch.lengths_B)
    last, middle, out_B = encoder.with_intermediate(features_BTF, frames_B)
    losses = [
        torch.nn.functional.ctc_loss(
            x.transpose(0, 1), batch.targets_BS, out_B, batch.target_lengths_B, reduction="sum"
        )
        for x in (last, middle)
    ]
    ((1 - w) * losses[0] + w * losses[1]).backward()
    assert far(ours, gradients(run)) < 1e-4
    assert sums[0].item() == pytest.approx(losses[0].item(), rel=1e-4)
    assert sums[1:].tolist() == [batch.target_lengths_B.sum(), 0, 0]


def test_consistency_adds_how_far_two_hearings_are_apart(corpus, tmp_path):  # noqa: F811
    train, c = corpus(6), 0.7
    masked = dataclasses.replace(QUIET, time_masks=2, time_mask_share=0.2, frequency_masks=1)
    config = dataclasses.replace(EXACT, consistency=c)
    run = trainer(train, tmp_path / "exp", encoder=STILL, config=config, augmentation=masked)
    batch = next(run.feed.batches(0, run.feed.plan(0)))
    sums = run.loss.add_gradient(batch, seed=5)
    ours = gradients(run).clone()

    encoder, n = run.recognizer.encoder, len(batch.ids)
    encoder.zero_grad()
    features_BTF, frames_B = run.recognizer.features(batch.samples_BT, batch.lengths_B)
    both = batch.draws.and_other_masks(5, batch.ids)
    heard_BTF, frames_B = run.loss.augmentation.features(
        features_BTF.repeat(2, 1, 1), frames_B.repeat(2), both
    )
    assert torch.equal(
        heard_BTF[:n], run.loss.augmentation.features(features_BTF, frames_B[:n], batch.draws)[0]
    )
    assert not torch.equal(heard_BTF[:n], heard_BTF[n:])
    log_probs, out_B = encoder(heard_BTF, frames_B)[0], encoder.output_lengths(frames_B)
    nll, apart = torch.zeros(()), torch.zeros(())
    for one, other in ((slice(0, n), slice(n, 2 * n)), (slice(n, 2 * n), slice(0, n))):
        nll += torch.nn.functional.ctc_loss(
            log_probs[one].transpose(0, 1),
            batch.targets_BS,
            out_B[one],
            batch.target_lengths_B,
            reduction="sum",
        )
        for k, frames in enumerate(out_B[one]):
            a, b = log_probs[one][k, :frames], log_probs[other][k, :frames].detach()
            apart += torch.nn.functional.kl_div(a, b, reduction="sum", log_target=True)
    ((nll + c * apart) / 2).backward()
    assert apart > 0.01
    assert far(ours, gradients(run)) < 1e-4
    assert sums[0].item() == pytest.approx(nll.item() / 2, rel=1e-4)
    assert sums[1:].tolist() == [batch.target_lengths_B.sum(), 0, 0]


def test_a_weight_of_consistency_that_cannot_be_is_refused(corpus, tmp_path):  # noqa: F811
    with pytest.raises(ConfigError, match="expected 0"):
        trainer(corpus(4), tmp_path / "exp", config=dataclasses.replace(QUICK, consistency=-0.2))


def test_the_denominator_takes_off_what_else_could_have_been_said(corpus, tmp_path):  # noqa: F811
    train, d = corpus(6), 0.8
    config = dataclasses.replace(EXACT, denominator=d)
    run = trainer(train, tmp_path / "exp", encoder=STILL, config=config, augmentation=QUIET)
    batch = next(run.feed.batches(0, run.feed.plan(0)))
    sums = run.loss.add_gradient(batch, seed=0)
    ours = gradients(run).clone()

    encoder, outputs = run.recognizer.encoder, run.recognizer.alphabet.size
    targets = [run.train.targets[i] for i in run.train.kept]
    model = asr.lm.train((" ".join(map(str, t)) for t in targets), order=3)
    table = torch.from_numpy(model.trigrams([str(i) for i in range(1, outputs)]))
    encoder.zero_grad()
    log_probs, out_B = encoder(*run.recognizer.features(batch.samples_BT, batch.lengths_B))
    nll_B = ctc_loss(log_probs, batch.targets_BS, out_B, batch.target_lengths_B)
    said = dict(zip([u.id for u in train.utterances], run.train.targets, strict=True))
    log10_priors = [model.score(" ".join(map(str, said[name]))) for name in batch.ids]
    prior_B = torch.tensor(log10_priors) * math.log(10)
    goal = (nll_B + d * (log_denominator(log_probs, out_B, table) - prior_B)).sum()
    goal.backward()
    assert far(ours, gradients(run)) < 1e-4
    assert sums[0].item() == pytest.approx(goal.item(), rel=1e-4)
    assert run.validate()["dev_loss"] > 0


@pytest.mark.parametrize("denominator", [0.0, 0.9])
def test_a_diverged_model_has_an_infinite_loss_and_its_texts_are_not_too_long(
    corpus,  # noqa: F811
    tmp_path,
    denominator,
):
    config = dataclasses.replace(EXACT, denominator=denominator)
    run = trainer(corpus(6), tmp_path / "exp", encoder=STILL, config=config, augmentation=QUIET)
    with torch.no_grad():
        run.recognizer.encoder.output.weight.mul_(1e8)
    batch = next(run.feed.batches(0, run.feed.plan(0)))
    loss, labels, too_long, _ = run.loss.add_gradient(batch, seed=0).tolist()
    assert (loss, labels, too_long) == (math.inf, batch.target_lengths_B.sum(), 0)
    assert run.validate()["dev_loss"] == math.inf


def test_the_denominator_grows_in_training_and_counts_in_full_in_validation(corpus, tmp_path):  # noqa: F811
    config = dataclasses.replace(QUICK, epochs=3, denominator=0.6, denominator_epochs=2)
    run, seen = trainer(corpus(12), tmp_path / "exp", config=config), []
    of_utterances = run.loss.of_utterances

    def watched(*arguments: torch.Tensor) -> torch.Tensor:
        seen.append((run.recognizer.encoder.training, run.loss.denominator))
        return of_utterances(*arguments)

    run.loss.of_utterances = watched
    run.run()
    grown = [d for training, d in seen if training]
    steps = len(grown) // 3
    assert grown == pytest.approx([0.6 * min((i + 1) / (2 * steps), 1) for i in range(3 * steps)])
    assert {d for training, d in seen if not training} == {0.6}


def test_a_denominator_needs_a_weight_up_to_one_and_few_outputs(corpus, tmp_path, monkeypatch):  # noqa: F811
    train = corpus(4)
    with pytest.raises(ConfigError, match=r"expected 0 \(off\) to 1"):
        trainer(train, tmp_path / "exp", config=dataclasses.replace(QUICK, denominator=1.1))
    monkeypatch.setattr("asr.training.losses.MOST_OUTPUTS", 2)
    with pytest.raises(ConfigError, match="needs few outputs"):
        trainer(train, tmp_path / "exp", config=dataclasses.replace(QUICK, denominator=0.9))


def test_an_intermediate_loss_needs_its_layer_and_a_share(corpus, tmp_path):  # noqa: F811
    train = corpus(4)
    with pytest.raises(ConfigError, match=r"set encoder\.intermediate_layer"):
        trainer(train, tmp_path / "exp", config=dataclasses.replace(QUICK, intermediate_weight=0.3))
    with pytest.raises(ConfigError, match="expected 0 to less than 1"):
        trainer(train, tmp_path / "exp", config=dataclasses.replace(QUICK, intermediate_weight=1.0))


def test_the_history_tells_padding_waiting_and_gradients(corpus, tmp_path):  # noqa: F811
    run = trainer(corpus(12), tmp_path / "exp", config=dataclasses.replace(QUICK, epochs=1, log_every=1))
    run.run()
    steps, epochs = ([h for h in run_lines if h["kind"] == kind] for kind in ("step", "epoch")
                     for run_lines in [history.read(tmp_path / "exp" / history.FILE)])  # fmt: skip
    hear = run.loss.augmentation.waveforms
    batches = [hear(b.samples_BT, b.lengths_B, b.draws)[1] for b in run.feed.batches(0, run.feed.plan(0))]
    padded = sum(len(b) * int(b.max()) for b in batches)
    assert epochs[0]["padding"] == pytest.approx(1 - int(torch.cat(batches).sum()) / padded, abs=1e-3)
    assert 0 <= epochs[0]["waited"] <= 1
    assert epochs[0]["length_ratio"] >= 0
    for step in steps:
        norms = step["gradient_norms"]
        assert set(norms) == {"layers.0", "output"}
        assert math.hypot(*norms.values()) == pytest.approx(step["gradient_norm"], rel=1e-3)


def test_half_of_a_batch_is_the_batch_of_half_the_utterances(corpus, tmp_path):  # noqa: F811
    run = trainer(corpus(8), tmp_path / "exp")
    items = [(i,) for i in range(8)]
    whole = next(run.feed.batches(3, [items]))
    half, alone = whole.rows(2, 5), next(run.feed.batches(3, [items[2:5]]))
    for name in ("samples_BT", "lengths_B", "targets_BS", "target_lengths_B"):
        assert torch.equal(getattr(half, name), getattr(alone, name)), name
    assert half.ids == alone.ids
    for f in dataclasses.fields(half.draws):
        ours, theirs = getattr(half.draws, f.name), getattr(alone.draws, f.name)
        assert torch.equal(ours, theirs), f.name
