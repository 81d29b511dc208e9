"""The lattice of connectionist temporal classification: forward–backward in plain tensor operations.

A path π gives every frame one output: a label or the blank, index 0. B(π) joins equal neighbours and then
drops the blanks, so "–aa–ab" and "a–abbb" both spell "aab". The probability of a label string l is the sum
over all paths that spell it,

    p(l | x) = Σ_{π ∈ B⁻¹(l)} Π_t y_t(π_t),                                                             (1)

and the lattice sums them in T · (2S + 1) steps. Its states s = 0 … 2S are the labels with a blank before,
between and after: l'_s = 0 for even s, l'_s = l_{(s−1)/2} for odd s. A path may stay, go one state up, or go
two states up, past a blank, if the two labels around that blank differ.

    α_t(s) = [α_{t−1}(s) + α_{t−1}(s−1) + skip(s) α_{t−1}(s−2)] · y_t(l'_s)                             (2)
    β_t(s) = Σ_{s' ∈ {s, s+1, s+2 if skip(s+2)}} β_{t+1}(s') · y_{t+1}(l'_{s'})                         (3)
    p(l | x) = Σ_s α_t(s) β_t(s)   at every frame t                                                     (4)
    γ_t(k) = Σ_{s: l'_s = k} α_t(s) β_t(s) / p(l | x)                                                   (5)

α includes the emission of its frame, β does not. γ, the occupancy, is the share of output k at frame t among
all paths. It sums to one over k; −γ is the gradient of −ln p(l | x) with respect to the log-probabilities.

Source: Graves, Fernández, Gomez, Schmidhuber, "Connectionist temporal classification", ICML 2006.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from asr.errors import CtcError

INFINITY = float("inf")


@dataclass(frozen=True)
class Lattice:
    """The result of forward–backward for a batch; natural logarithms, −∞ where no path passes.

    nll_B: −ln p(l | x), +∞ if no path fits. log_alpha, log_beta: (B, T, 2S + 1) over the states l'.
    occupancy_BTV: γ in [0, 1], zero in padding and where no path fits.
    """

    nll_B: Tensor
    log_alpha: Tensor
    log_beta: Tensor
    occupancy_BTV: Tensor


def forward_backward(
    log_probs_BTV: Tensor, targets_BS: Tensor, input_lengths_B: Tensor, target_lengths_B: Tensor
) -> Lattice:
    """The exact lattice of every utterance: −ln p(l | x), α, β, occupancy; for gradients see `ctc_loss`.

    Args:
        log_probs_BTV: natural log-probabilities, blank at 0. The lattice is computed in float64 and returned
            in their precision, but at least in float32.
        targets_BS: labels 1 … V−1; values beyond a target's length are ignored.
        input_lengths_B, target_lengths_B: frames and labels, integers. All four may be tensors or anything
            that torch can convert to tensors.

    Raises:
        CtcError: shapes, lengths or labels that do not match.

    Source: equations (2) to (5) above.

    >>> half = torch.full((1, 2, 2), 0.5).log()        # two frames, blank and one label, all equally likely
    >>> lattice = forward_backward(half, torch.tensor([[1]]), torch.tensor([2]), torch.tensor([1]))
    >>> lattice.nll_B.neg().exp()                      # "1 –", "– 1", "1 1" spell it, "– –" does not
    tensor([0.7500])
    """
    log_probs_BTV, targets_BS, input_lengths_B, target_lengths_B = check_batch(
        log_probs_BTV, targets_BS, input_lengths_B, target_lengths_B
    )
    with torch.no_grad(), torch.autocast(log_probs_BTV.device.type, enabled=False):
        dtype, device = at_least_float32(log_probs_BTV).dtype, log_probs_BTV.device
        log_probs_BTV = log_probs_BTV.double()  # α + β + nll is a small difference of large numbers
        frames_B, labels_B = input_lengths_B.to(device), target_lengths_B.to(device)
        states_BL = interleave_blanks(targets_BS.to(device), labels_B)
        barrier_BL = _barriers(states_BL)
        index_BTL = states_BL[:, None].expand(-1, log_probs_BTV.shape[1], -1)
        padding_BT1 = _padding(frames_B, log_probs_BTV.shape[1])[:, :, None]
        emission_BTL = log_probs_BTV.gather(2, index_BTL).masked_fill(padding_BT1, 0.0)
        nll_B, log_alpha = _forward(emission_BTL, barrier_BL, frames_B, labels_B)
        log_beta = _backward(emission_BTL, barrier_BL, frames_B, labels_B)
        paths_BTL = (log_alpha + log_beta + nll_B[:, None, None]).exp()
        paths_BTL = torch.where((nll_B != INFINITY)[:, None, None], paths_BTL, 0.0)  # not −∞ + ∞
        occupancy_BTV = torch.zeros_like(log_probs_BTV).scatter_add_(2, index_BTL, paths_BTL)  # (5)
    return Lattice(*(part.to(dtype) for part in (nll_B, log_alpha, log_beta, occupancy_BTV)))


def _forward(
    emission_BTL: Tensor, barrier_BL: Tensor, frames_B: Tensor, labels_B: Tensor
) -> tuple[Tensor, Tensor]:
    """−ln p(l | x) and ln α, equation (2). Row −1, before the first frame, has all mass at state 0."""
    before_BL = torch.full_like(barrier_BL, -INFINITY)
    before_BL[:, 0] = 0.0
    rows = [before_BL]
    for emission_BL in emission_BTL.unbind(1):
        stay = rows[-1]
        step, skip = _shift(stay, 1), _shift(stay, 2) + barrier_BL
        rows.append(torch.stack((stay, step, skip)).logsumexp(0) + emission_BL)
    rows_BTL = torch.stack(rows, 1)
    at_end_BL = rows_BTL.gather(1, frames_B[:, None, None].expand(-1, 1, barrier_BL.shape[1]))[:, 0]
    nll_B = -at_end_BL.masked_fill(~_final(barrier_BL, labels_B), -INFINITY).logsumexp(1)
    padding_BT = _padding(frames_B, emission_BTL.shape[1])
    return nll_B, rows_BTL[:, 1:].masked_fill(padding_BT[:, :, None], -INFINITY)


def _backward(emission_BTL: Tensor, barrier_BL: Tensor, frames_B: Tensor, labels_B: Tensor) -> Tensor:
    """ln β, equation (3); at the last frame of each utterance ln 1 in its final states."""
    frames = emission_BTL.shape[1]
    last_BL = torch.zeros_like(barrier_BL).masked_fill(~_final(barrier_BL, labels_B), -INFINITY)
    rows = [torch.full_like(barrier_BL, -INFINITY)]
    for t in range(frames - 1, -1, -1):
        if t < frames - 1:
            stay = rows[-1] + emission_BTL[:, t + 1]
            step, skip = _shift(stay, -1), _shift(stay + barrier_BL, -2)
            row_BL = torch.stack((stay, step, skip)).logsumexp(0)
        else:
            row_BL = rows[-1]
        rows.append(torch.where((frames_B == t + 1)[:, None], last_BL, row_BL))
    return torch.stack(rows[:0:-1], 1) if frames else emission_BTL.clone()


def interleave_blanks(targets_BS: Tensor, target_lengths_B: Tensor) -> Tensor:
    """The states l' of each target, (B, 2S + 1): blanks before, between, after the labels, and as padding.

    >>> interleave_blanks(torch.tensor([[5, 7]]), torch.tensor([2]))
    tensor([[0, 5, 0, 7, 0]])
    """
    states_BL = targets_BS.new_zeros(targets_BS.shape[0], 2 * targets_BS.shape[1] + 1, dtype=torch.int64)
    padding_BS = _padding(target_lengths_B, targets_BS.shape[1])
    states_BL[:, 1::2] = targets_BS.long().masked_fill(padding_BS, 0)
    return states_BL


def _barriers(states_BL: Tensor) -> Tensor:
    """ln skip(s): 0 where state s may directly follow s − 2, −∞ at blanks and between equal labels."""
    before_BL = functional.pad(states_BL, (2, 0))[:, :-2]
    return torch.where((states_BL == 0) | (states_BL == before_BL), -INFINITY, 0.0).double()


def _shift(row_BL: Tensor, by: int) -> Tensor:
    """The row shifted `by` states up (down if negative), filled with −∞."""
    if by > 0:
        return functional.pad(row_BL, (by, 0), value=-INFINITY)[:, :-by]
    return functional.pad(row_BL, (0, -by), value=-INFINITY)[:, -by:]


def _final(row_BL: Tensor, labels_B: Tensor) -> Tensor:
    """True at the two states where a path may end: the last label and the blank after it."""
    states_L = torch.arange(row_BL.shape[1], device=row_BL.device)
    behind_BL = 2 * labels_B[:, None] - states_L
    return (behind_BL == 0) | (behind_BL == 1)


def _padding(lengths_B: Tensor, size: int) -> Tensor:
    """True at positions 0 … size − 1 that lie beyond each length."""
    return torch.arange(size, device=lengths_B.device) >= lengths_B[:, None]


def at_least_float32(log_probs: Tensor) -> Tensor:
    """The same numbers in float32, or unchanged if they are float64."""
    return log_probs if log_probs.dtype in (torch.float32, torch.float64) else log_probs.float()


def check_batch(
    log_probs_BTV: Tensor, targets_BS: Tensor, input_lengths_B: Tensor, target_lengths_B: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four as tensors, checked for whether they match; lengths in int64.

    Raises:
        CtcError: they do not match; with what was given and what was expected.
    """
    try:
        log_probs_BTV, targets_BS = torch.as_tensor(log_probs_BTV), torch.as_tensor(targets_BS)
        input_lengths_B, target_lengths_B = map(torch.as_tensor, (input_lengths_B, target_lengths_B))
    except (TypeError, ValueError, RuntimeError) as error:
        raise CtcError(f"expected log-probabilities, targets and two lengths as tensors: {error}") from error
    if not targets_BS.numel():
        targets_BS = targets_BS.long()  # torch makes an empty list a float tensor
    if log_probs_BTV.dim() != 3 or not log_probs_BTV.is_floating_point() or not log_probs_BTV.shape[2]:
        raise CtcError(
            f"log-probabilities have shape {tuple(log_probs_BTV.shape)} and type {log_probs_BTV.dtype}; "
            "expected floating point with the axes (batch, frames, outputs)"
        )
    batch, frames, outputs = log_probs_BTV.shape
    if targets_BS.dim() != 2 or targets_BS.shape[0] != batch or not _are_integers(targets_BS):
        raise CtcError(
            f"targets have shape {tuple(targets_BS.shape)} and type {targets_BS.dtype}; "
            f"expected integers of shape ({batch}, labels), padded to the longest"
        )
    input_lengths_B = _check_lengths("input", input_lengths_B, batch, frames)
    target_lengths_B = _check_lengths("target", target_lengths_B, batch, targets_BS.shape[1])
    targets_BS = targets_BS.long()
    check_labels(targets_BS[~_padding(target_lengths_B.to(targets_BS.device), targets_BS.shape[1])], outputs)
    return log_probs_BTV, targets_BS, input_lengths_B, target_lengths_B


def _check_lengths(name: str, lengths_B: Tensor, batch: int, most: int) -> Tensor:
    if lengths_B.shape != (batch,) or not _are_integers(lengths_B):
        raise CtcError(
            f"{name} lengths have shape {tuple(lengths_B.shape)} and type {lengths_B.dtype}; "
            f"expected {batch} integers, one for each utterance"
        )
    lengths_B = lengths_B.long()
    if batch and not 0 <= int(lengths_B.min()) <= int(lengths_B.max()) <= most:
        raise CtcError(f"{name} lengths {lengths_B.tolist()[:20]}: expected integers from 0 to {most}")
    return lengths_B


def _are_integers(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def check_labels(labels: Tensor, outputs: int) -> None:
    """Check that all labels are outputs other than the blank.

    Raises:
        CtcError: they are not; with the range that was found.
    """
    if labels.numel() and (int(labels.min()) < 1 or int(labels.max()) >= outputs):
        raise CtcError(
            f"targets hold labels from {int(labels.min())} to {int(labels.max())}; with {outputs} outputs "
            f"labels are 1 to {outputs - 1} (0 is the blank)"
        )


def required_frames(targets: Sequence[int] | np.ndarray) -> int:
    """The fewest frames that can spell the labels: one for each, and one more between equal neighbours.

    >>> required_frames([1, 2, 2, 3]), required_frames([])
    (5, 0)
    """
    labels = np.asarray(targets)
    return len(labels) + int(np.count_nonzero(labels[1:] == labels[:-1]))


def fits(targets_BS: Tensor, input_lengths_B: Tensor, target_lengths_B: Tensor) -> Tensor:
    """Whether each input is long enough for its targets (B,): where it is not, no path spells them.

    >>> fits(torch.tensor([[1, 2, 2], [1, 2, 2]]), torch.tensor([3, 3]), torch.tensor([3, 2]))
    tensor([False,  True])
    """
    padding_BS = _padding(target_lengths_B, targets_BS.shape[1])
    again_BS = (targets_BS[:, 1:] == targets_BS[:, :-1]) & ~padding_BS[:, 1:]
    return input_lengths_B >= target_lengths_B + again_BS.sum(1)
