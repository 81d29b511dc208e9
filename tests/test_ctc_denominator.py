"""The sum over all labellings, against each of them one by one, and what training makes of it."""

import math

import pytest
import torch
from test_ctc import all_targets, as_batch
from torch import Tensor

from asr.ctc import ctc_loss, log_denominator, log_prior
from asr.ctc.denominator import _Sum, compiled, portable
from asr.errors import CtcError

WAYS = {"compiled": compiled, "portable": portable}


def trigram(outputs: int, *, seed: int = 0, shared: bool = True) -> Tensor:
    """Probabilities with zeros among them; about half of the contexts fall back on their last label."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand(outputs, outputs, outputs, generator=generator)
    table[torch.rand(table.shape, generator=generator) < 0.1] = 0.0
    if shared:
        alike = torch.rand(outputs, outputs, generator=generator) < 0.5
        table = torch.where(alike[:, :, None], table[:1], table)
    return table / table.sum(2, keepdim=True)


def one_by_one(log_probs_TV: Tensor, trigram_VVV: Tensor) -> float:
    """The slow oracle: ln Σ P(l) p(l | x) over all labellings that fit."""
    targets, total = all_targets(len(log_probs_TV), log_probs_TV.shape[1]), 0.0
    padded, lengths = as_batch(targets)
    many = log_probs_TV.expand(len(targets), -1, -1)
    nll = ctc_loss(many, padded, torch.full((len(targets),), len(log_probs_TV)), lengths)
    for labels, cost in zip(targets, nll.tolist(), strict=True):
        prior, history = 1.0, (0, 0)
        for label in (*labels, 0):
            prior *= float(trigram_VVV[history[0], history[1], label])
            history = history[1], label
        total += prior * math.exp(-cost)
    return math.log(total)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("frames", "outputs", "scale"), [(1, 2, 1), (4, 3, 1), (4, 4, 3), (6, 3, 10)])
def test_it_is_the_sum_over_every_labelling_in_any_batch(way, frames, outputs, scale):
    lengths = torch.tensor([frames, max(1, frames - 2), frames])
    log_probs = (scale * torch.randn(3, frames, outputs)).log_softmax(2)
    table = trigram(outputs)
    found = WAYS[way](log_probs, lengths, table)[0]
    truth = [one_by_one(x[:n], table) for x, n in zip(log_probs, lengths, strict=True)]
    assert found.tolist() == pytest.approx(truth, abs=2e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_the_gradient_is_that_of_the_value(shared):
    log_probs = torch.randn(2, 5, 4, dtype=torch.float64).log_softmax(2).requires_grad_()
    lengths, table = torch.tensor([5, 3]), trigram(4, shared=shared).double()
    assert torch.autograd.gradcheck(lambda x: _Sum.apply(x, lengths, table, portable), (log_probs,))
    ours, truth = (
        torch.autograd.grad((_Sum.apply(log_probs, lengths, table, way) * weights).sum(), log_probs)[0]
        for way in WAYS.values()
        for weights in [torch.tensor([1.0, -0.3])]
    )
    torch.testing.assert_close(ours, truth, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("seed", [5, 53, 83, 132])  # the paths that count are among those that become zero
@pytest.mark.parametrize("scale", [1.0, 12.0, 40.0])
def test_long_utterances_with_many_outputs_agree_in_single_and_double_precision(scale, seed):
    torch.manual_seed(seed)
    log_probs = (scale * torch.randn(2, 150, 30)).log_softmax(2)
    lengths, table = torch.tensor([150, 77]), trigram(30)
    ours, truth = compiled(log_probs, lengths, table), portable(log_probs.double(), lengths, table)
    torch.testing.assert_close(ours[0].double(), truth[0], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(ours[1].double(), truth[1], atol=1e-3, rtol=0)


def test_where_no_labelling_is_possible_there_is_no_gradient_and_neighbours_have_theirs():
    log_probs = torch.randn(2, 4, 4).log_softmax(2)
    log_probs[0, 2] = -math.inf
    log_probs.requires_grad_()
    lengths, table = torch.tensor([4, 3]), trigram(4)
    only = torch.zeros(4, 4, 4)
    only[0, 0, 1] = only[0, 1, 2] = only[1, 2, 0] = 1.0  # two labels, so that one frame is too few
    for way in WAYS.values():
        values = _Sum.apply(log_probs, lengths, table, way)
        (gradient,) = torch.autograd.grad(values.sum(), log_probs)
        alone = log_denominator(log_probs[1:], lengths[1:], table)
        assert values.tolist() == [-math.inf, pytest.approx(alone.item(), abs=1e-5)]
        assert not gradient[0].any() and gradient[1, :3].sum(1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
        short = _Sum.apply(log_probs[1:], torch.tensor([1]), only, way)
        (gradient,) = torch.autograd.grad(short.sum(), log_probs)
        assert short.item() == -math.inf and not gradient.any()


def test_frames_behind_the_end_count_for_nothing():
    log_probs = torch.randn(1, 6, 4).log_softmax(2)
    padded = torch.cat([log_probs, torch.full((1, 3, 4), math.nan)], 1).requires_grad_()
    table = trigram(4)
    for way in WAYS.values():
        value = _Sum.apply(padded, torch.tensor([6]), table, way)
        assert value.item() == pytest.approx(
            log_denominator(log_probs, torch.tensor([6]), table).item(), abs=1e-5
        )
        (gradient,) = torch.autograd.grad(value.sum(), padded)
        assert gradient[0, :6].sum(1).tolist() == pytest.approx([1.0] * 6, abs=1e-5)
        assert not gradient[0, 6:].any()


def test_the_prior_is_the_product_along_the_labels_and_the_end():
    table = trigram(4, shared=False)
    targets, lengths = torch.tensor([[2, 2, 3], [1, -9, -9], [-9, -9, -9]]), torch.tensor([3, 1, 0])
    found = log_prior(targets, lengths, table).exp().tolist()
    assert found == pytest.approx(
        [
            float(table[0, 0, 2] * table[0, 2, 2] * table[2, 2, 3] * table[2, 3, 0]),
            float(table[0, 0, 1] * table[0, 1, 0]),
            float(table[0, 0, 0]),
        ]
    )


def test_lengths_may_be_a_list_as_those_of_the_loss():
    log_probs, table = torch.randn(2, 4, 4).log_softmax(2), trigram(4)
    expected = log_denominator(log_probs, torch.tensor([4, 3]), table)
    assert torch.equal(log_denominator(log_probs, [4, 3], table), expected)


def test_a_trigram_of_other_outputs_is_refused():
    with pytest.raises(CtcError, match=r"the trigram has shape \(3, 3, 3\); expected 4 outputs"):
        log_denominator(torch.zeros(1, 2, 4), torch.tensor([2]), trigram(3))
