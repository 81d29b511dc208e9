"""The input of decoders: log-probabilities and lengths, checked before any work."""

import operator
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from asr.ensemble import as_one
from asr.errors import DecodingError

TOLERANCE = 0.04  # on Σ p of a frame: bfloat16 rounds −8 … −16 to multiples of 1/16, which is 3 % of p
AXES = "(batch, time, outputs)"

_RAREST = 1e-4
"""Floor of the prior: for rarer outputs the estimate is unreliable."""


def check(
    log_probs_BTV: Tensor, lengths_B: Tensor | Sequence[int], *, outputs: int | None = None
) -> tuple[Tensor, list[int]]:
    """The log-probabilities and the lengths as integers, if their shapes fit together.

    Args:
        log_probs_BTV: natural logs; each frame's probabilities sum to one; padding may hold anything. Several
            models' (batch, time, models, outputs) become their mean.
        lengths_B: frames of each utterance.
        outputs: V of the alphabet, if known.

    Raises:
        DecodingError: wrong axes, size or lengths.
    """
    log_probs = as_one(as_tensor(log_probs_BTV).detach(), axes=3)
    frames = _integers(lengths_B)
    shape = tuple(log_probs.shape)
    if log_probs.dim() != 3 or not log_probs.is_floating_point():
        raise DecodingError(
            f"{log_probs.dtype} log-probabilities of shape {shape}: expected floating-point numbers with "
            f"axes {AXES}; give a single utterance a batch axis of 1"
        )
    if outputs is not None and shape[2] != outputs:
        hint = f"; axis {shape.index(outputs)} has that size: transpose first" if outputs in shape else ""
        raise DecodingError(
            f"log-probabilities of shape {shape}: expected axes {AXES} with {outputs} outputs, the "
            f"alphabet's {outputs - 1} symbols and the blank at 0{hint}"
        )
    if frames is None or len(frames) != shape[0]:
        raise DecodingError(
            f"lengths {lengths_B!s:.100} for log-probabilities of shape {shape}: expected one integer "
            f"number of frames for each of the {shape[0]} utterances"
        )
    for i, n in enumerate(frames):
        if not 0 <= n <= shape[1]:
            raise DecodingError(
                f"utterance {i} has length {n}, but the log-probabilities of shape {shape} have "
                f"{shape[1]} frames"
            )
    return (log_probs.float() if log_probs.dtype in (torch.float16, torch.bfloat16) else log_probs), frames


def as_tensor(log_probs: Tensor) -> Tensor:
    """A tensor or an array as a tensor.

    Raises:
        DecodingError: it cannot be one.
    """
    try:
        return torch.as_tensor(log_probs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DecodingError(f"expected log-probabilities as a tensor or an array: {error}") from error


def _integers(lengths_B: Tensor | Sequence[int]) -> list[int] | None:
    """The lengths as a list, or None if they are not integers."""
    try:
        return [operator.index(n) for n in lengths_B]
    except TypeError:
        return None


def check_normalised(log_probs_BTV: Tensor, lengths: list[int]) -> None:
    """Check that every frame is a probability distribution, on any device; padding is ignored.

    Raises:
        DecodingError: NaN, positive or unnormalised values.
    """
    if not log_probs_BTV.numel():
        return
    inside_BT = torch.arange(log_probs_BTV.shape[1])[None] < torch.tensor(lengths)[:, None]
    total_BT = log_probs_BTV.exp().sum(-1).cpu()
    wrong_BT = inside_BT & ~((total_BT - 1).abs() <= TOLERANCE)
    if bool(wrong_BT.any()):
        i, t = (int(at[0]) for at in torch.nonzero(wrong_BT, as_tuple=True))
        _complain(log_probs_BTV[i, t], i, t)


def probabilities(log_probs_TV: Tensor, utterance: int = 0) -> np.ndarray:
    """(T, V) float64 on the CPU: exp of the log-probabilities; every frame must be a distribution.

    Args:
        utterance: its number, for error messages.

    Raises:
        DecodingError: NaN, positive or unnormalised values.
    """
    probs_TV = np.exp(log_probs_TV.cpu().double().numpy())  # in float32, all below −104 would become 0
    total_T = np.einsum("tv->t", probs_TV)  # a matrix product would keep another core busy for a while
    right_T = np.abs(total_T - 1) <= TOLERANCE
    if not right_T.all():
        t = int(np.argmin(right_T))
        _complain(log_probs_TV[t], utterance, t)
    return np.asarray(probs_TV)


def _complain(log_probs_V: Tensor, i: int, t: int) -> NoReturn:
    """Raise the error that says what is wrong with a frame of an utterance."""
    frame = log_probs_V.float().cpu()
    total = float(frame.exp().sum())
    where = f"frame {t} of utterance {i}"
    if bool(frame.isnan().any()):
        raise DecodingError(f"{where} holds NaN; the model that gave it is broken or has diverged")
    if bool((frame >= 0).all()) and abs(float(frame.sum()) - 1) <= TOLERANCE:
        raise DecodingError(f"{where} holds probabilities, not their natural logs; take the logarithm first")
    raise DecodingError(
        f"{where} is not normalised: its probabilities sum to {total:.4g}, values lie in "
        f"[{float(frame.min()):.4g}, {float(frame.max()):.4g}]; if these are logits, apply log_softmax over "
        "the last axis; if they are log10, multiply by ln 10"
    )


def prior_scale(prior: Sequence[float] | None, weight: float, outputs: int) -> np.ndarray | None:
    """(V,) the factor of each output's probability, prior^−weight; None if the weight is 0.

    Raises:
        DecodingError: a weight without a prior, or values out of range.

    Source: Miao et al. 2015 (EESEN), section 3.3, there with weight 1 and without normalisation.
    """
    if not weight:
        return None
    if prior is None:
        raise DecodingError(
            f"prior_weight={weight}: there is no prior; give one, or let `asr tune` measure it"
        )
    prior_V = np.array(list(prior), float)
    if prior_V.shape != (outputs,) or not (prior_V >= 0).all() or not 0 <= weight <= 1:
        raise DecodingError(
            f"prior of {len(prior_V)} outputs with prior_weight={weight}: expected {outputs} shares, none "
            "negative, and a weight from 0 to 1"
        )
    return np.maximum(prior_V, _RAREST) ** -weight
