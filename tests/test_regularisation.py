"""Masked batch normalisation and dropout: the compiled passes against torch, and the law of chance."""

import numpy as np
import pytest
import torch
from torch import Tensor

from asr import regularisation
from asr.regularisation import Dropout, MaskedBatchNorm


def inside(*lengths: int, size: int) -> Tensor:
    return (torch.arange(size) < torch.tensor(lengths)[:, None])[..., None]


def test_a_batch_that_is_not_finite_leaves_the_running_moments_alone():
    norm = MaskedBatchNorm(2)
    x_BTF = torch.randn(2, 5, 2)
    norm(x_BTF, None)
    before = norm.running_mean.clone(), norm.running_var.clone()
    x_BTF[0, 0, 1] = torch.nan
    norm(x_BTF, None)
    for running_F, old_F in zip((norm.running_mean, norm.running_var), before, strict=True):
        assert running_F[1] == old_F[1] and running_F[0] != old_F[0]


@pytest.mark.parametrize("width", [1, 7, 40])
def test_the_compiled_normalisation_and_its_gradients_are_those_of_torchs_operations(width):
    torch.manual_seed(width)
    inside_BT1 = inside(9, 4, 1, size=9)
    x_BTF = (3 * torch.randn(3, 9, width, dtype=torch.float64) + 5).requires_grad_()
    weight_F, bias_F = (torch.randn(width, dtype=torch.float64, requires_grad=True) for _ in range(2))
    goal_BTF = torch.randn(3, 9, width, dtype=torch.float64)  # padded frames have gradients, too
    inputs = x_BTF, weight_F, bias_F
    given = [value.detach().float().requires_grad_() for value in inputs]

    y_BTF, *moments = regularisation._plain(x_BTF, inside_BT1, inside_BT1.sum(), weight_F, bias_F)
    true = torch.autograd.grad((y_BTF * goal_BTF).sum(), inputs)
    found_BTF, *found_moments = regularisation._Normalised.apply(
        given[0], inside_BT1, inside_BT1.sum(), *given[1:]
    )
    found = torch.autograd.grad((found_BTF * goal_BTF.float()).sum(), given)

    for mine, theirs in zip([found_BTF, *found_moments, *found], [y_BTF, *moments, *true], strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=2e-5, atol=2e-4)


def test_statistics_of_many_frames_far_from_zero_are_exact():
    x_BTF = (1000 + torch.randn(40, 500, 2, dtype=torch.float64)).float()
    everywhere = inside(*[500] * 40, size=500)
    _, mean_F, var_F = regularisation._Normalised.apply(
        x_BTF, everywhere, everywhere.sum(), torch.ones(2), torch.zeros(2)
    )
    torch.testing.assert_close(mean_F.double(), x_BTF.double().mean((0, 1)), rtol=1e-7, atol=0)
    torch.testing.assert_close(var_F.double(), x_BTF.double().var((0, 1), unbiased=False), rtol=1e-5, atol=0)


def test_without_a_mask_all_frames_count_and_running_statistics_are_torchs():
    ours, theirs = MaskedBatchNorm(6), torch.nn.BatchNorm1d(6)
    for seed in range(3):
        x_BTF = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(seed)) + 1
        torch.testing.assert_close(ours(x_BTF, None), theirs(x_BTF.flatten(0, 1)).view_as(x_BTF))
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x_BTF, None), theirs(x_BTF.flatten(0, 1)).view_as(x_BTF))


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_dropout_takes_its_share_and_scales_up_what_stays(p):
    torch.manual_seed(1)
    x, n = torch.ones(1000, 1000), 1_000_000
    kept = Dropout(p)(x)
    assert set(kept.unique().tolist()) <= {0.0, float(torch.tensor(1 / (1 - p)))}
    gone = float((kept == 0).sum())
    assert abs(gone - n * p) < 5 * (n * p * (1 - p)) ** 0.5


def test_what_dropout_takes_has_no_pattern():
    """Neighbours, rows, and calls of neighbouring seeds go independently of each other."""
    masks = [regularisation._thinned(torch.ones(512, 512), 0.5, seed).numpy() > 0 for seed in (5, 6, 5 << 31)]
    n = masks[0].size
    flat = masks[0].ravel()
    pairs = [(flat[:-k], flat[k:]) for k in (1, 2, 3, 16, 64, 511, 512, 513)]
    pairs += [(flat, mask.ravel()) for mask in masks[1:]]
    for left, right in pairs:
        assert abs(np.mean(left == right) - 0.5) < 5 * 0.5 / n**0.5
    for axis in (0, 1):
        shares = masks[0].mean(axis)
        assert abs(shares.var() * 512 / 0.25 - 1) < 5 * (2 / 512) ** 0.5


def test_dropout_gives_gradients_to_what_stays_and_repeats_itself_with_torchs_generator():
    x = torch.randn(30, 7, dtype=torch.float64).t().requires_grad_()  # not contiguous
    torch.manual_seed(3)
    first, second = Dropout(0.4)(x), Dropout(0.4)(x)
    torch.manual_seed(3)
    assert first.equal(Dropout(0.4)(x)) and not first.equal(second)
    (gradient,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(gradient, (first != 0) / 0.6, check_dtype=False)


def test_dropout_rests_in_evaluation_and_at_zero():
    x = torch.randn(4, 4)
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0)(x) is x
