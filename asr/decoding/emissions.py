"""What decoders take: log-probabilities and lengths, checked before any work."""

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from asr.errors import DecodingError

TOLERANCE = 0.02  # on Σ p of a frame: half-precision outputs are off by a per cent
AXES = "(batch, time, outputs)"


def check(
    log_probs_BTV: Tensor, lengths_B: Tensor | Sequence[int], *, outputs: int | None = None
) -> tuple[Tensor, list[int]]:
    """The log-probabilities and the lengths as integers, if their shapes fit together.

    Args:
        log_probs_BTV: natural logs; a frame sums to one; behind an utterance's length anything may stand.
        lengths_B: frames of each utterance.
        outputs: V of the alphabet, if it is known.

    Raises:
        DecodingError: wrong axes, size or lengths.
    """
    log_probs = torch.as_tensor(log_probs_BTV).detach()
    lengths = torch.as_tensor(lengths_B if len(lengths_B) else torch.zeros(0, dtype=torch.int64)).cpu()
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
    if lengths.dim() != 1 or len(lengths) != shape[0] or lengths.is_floating_point():
        raise DecodingError(
            f"{lengths.dtype} lengths of shape {tuple(lengths.shape)} for log-probabilities of shape "
            f"{shape}: expected one integer number of frames for each of the {shape[0]} utterances"
        )
    frames: list[int] = lengths.tolist()
    for i, n in enumerate(frames):
        if not 0 <= n <= shape[1]:
            raise DecodingError(
                f"utterance {i} has length {n}, but the log-probabilities of shape {shape} have "
                f"{shape[1]} frames"
            )
    return (log_probs.float() if log_probs.dtype in (torch.float16, torch.bfloat16) else log_probs), frames


def probabilities(log_probs_BTV: Tensor, lengths: list[int]) -> Tensor:
    """exp of the log-probabilities, if every frame is a distribution; padding is not looked at.

    Raises:
        DecodingError: NaN, positive or unnormalised values.
    """
    probs_BTV = log_probs_BTV.exp()
    if not log_probs_BTV.numel():
        return probs_BTV
    inside_BT = torch.arange(log_probs_BTV.shape[1])[None] < torch.tensor(lengths)[:, None]
    total_BT = probs_BTV.sum(-1).cpu()
    wrong_BT = inside_BT & ~((total_BT - 1).abs() <= TOLERANCE)
    if bool(wrong_BT.any()):
        _complain(log_probs_BTV, total_BT, wrong_BT)
    return probs_BTV


def _complain(log_probs_BTV: Tensor, total_BT: Tensor, wrong_BT: Tensor) -> NoReturn:
    """Say what is wrong with the first of the wrong frames."""
    i, t = (int(at[0]) for at in torch.nonzero(wrong_BT, as_tuple=True))
    frame = log_probs_BTV[i, t].float().cpu()
    where = f"frame {t} of utterance {i}"
    if bool(frame.isnan().any()):
        raise DecodingError(f"{where} holds NaN; the model that gave it is broken or has diverged")
    if bool((frame >= 0).all()) and abs(float(frame.sum()) - 1) <= TOLERANCE:
        raise DecodingError(f"{where} holds probabilities, not their natural logs; take the logarithm first")
    raise DecodingError(
        f"{where} is not normalised: its probabilities sum to {float(total_BT[i, t]):.4g}, values lie in "
        f"[{float(frame.min()):.4g}, {float(frame.max()):.4g}]; if these are logits, apply log_softmax over "
        "the last axis; if they are log10, multiply by ln 10"
    )
