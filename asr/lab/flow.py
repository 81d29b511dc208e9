"""How far a gradient reaches: its norm against the lag between an output and an earlier state or input.

For the hidden state z of a recurrent network

    ∂z_t/∂z_{t−k} = Π_{τ=t−k+1…t} f′(u_τ) W,

a product of k matrices. If the spectral radius ρ of W is below one it vanishes like ρ^k; if it is above, it
can grow like ρ^k until f′ damps it. In an LSTM the cell state c adds a path that is multiplied by the forget
gate only, Π σ(forget): with forget bias 0, 1, 5 about 0.5, 0.73 and 0.993 per frame.

Sources: Hochreiter, "Untersuchungen zu dynamischen neuronalen Netzen", 1991; Pascanu, Mikolov, Bengio, "On
the difficulty of training recurrent neural networks", ICML 2013; Gers, Schmidhuber, Cummins, "Learning to
forget", 2000.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asr.errors import AsrError
from asr.machine.devices import seeded

SETTLING_FRAMES = 1000  # a forget gate with bias 5 remembers some 150 frames
TINY = 1e-35  # near the smallest normal float32, 1.2e-38


@dataclass(frozen=True)
class Flow:
    """The norm of a gradient against the lag; negative lags look into the future.

    name: what was measured; lags: frames, ascending; norms: as many, ≥ 0; frame_s: seconds per frame, if
    known.
    """

    name: str
    lags: np.ndarray
    norms: np.ndarray
    frame_s: float | None = None

    @property
    def half_life_frames(self) -> float:
        """Frames in which the norm halves, going back: ln 2 over the mean decay per frame; ∞ without decay.

        The decay is the negative slope of the least-squares line through ln(norm) against lags from 1 on.

        >>> Flow("ρ = 0.9", np.arange(50), 0.9 ** np.arange(50)).half_life_frames    # ln 2 / −ln 0.9
        6.578...
        """
        used = (self.lags >= 1) & (self.norms > TINY)
        if used.sum() < 2:
            return 0.0
        slope = np.polyfit(self.lags[used], np.log(self.norms[used]), 1)[0]
        return float(math.log(2) / -slope) if slope < 0 else math.inf

    @property
    def half_life_s(self) -> float | None:
        """The half-life in seconds, if the length of a frame is known."""
        return None if self.frame_s is None else self.half_life_frames * self.frame_s


def make_cell(
    kind: str,
    width: int,
    *,
    inputs: int = 1,
    seed: int = 0,
    spectral_radius: float = 1.0,
    forget_bias: float = 0.0,
) -> nn.RNNCellBase:
    """An untrained cell in float64: "rnn" with the spectral radius, "gru", or "lstm" with the forget bias.

    Recurrent weights of the rnn are Gaussian, scaled; everything else is torch's own initialisation with the
    seed.
    """
    with seeded(seed):
        if kind == "rnn":
            cell: nn.RNNCellBase = nn.RNNCell(inputs, width, bias=False, dtype=torch.float64)
            W = torch.randn(width, width, dtype=torch.float64)
            cell.weight_hh.data = W * spectral_radius / torch.linalg.eigvals(W).abs().max()
        elif kind == "gru":
            cell = nn.GRUCell(inputs, width, dtype=torch.float64)
        elif kind == "lstm":
            cell = nn.LSTMCell(inputs, width, dtype=torch.float64)
            forget = slice(width, 2 * width)  # gates in torch's order: in, forget, cell, out
            cell.bias_ih.data[forget], cell.bias_hh.data[forget] = forget_bias, 0.0
        else:
            raise AsrError(f"cell {kind!r}: expected rnn, gru or lstm")
    return cell


def gradient_flow(
    cell: nn.RNNCellBase, x_TI: Tensor, *, max_lag: int, name: str = "", frame_s: float | None = None
) -> Flow:
    """‖∂(output at the last frame)/∂(state k frames before)‖ for k = 0 … max_lag, exact.

    The state is everything that the cell passes on: z, or z and c in an LSTM. The norm is the Frobenius norm
    divided by √H, so that 1 means passed on unchanged. Every unit of the output is differentiated in its own
    copy of the sequence. Frames before the lags only let the state settle.

    Raises:
        AsrError: max_lag below 1, or not below the length of the sequence.
    """
    if not 1 <= max_lag < len(x_TI):
        raise AsrError(f"a sequence of {len(x_TI)} frames has lags from 1 to {len(x_TI) - 1}, not {max_lag}")
    width, parts = cell.hidden_size, 2 if isinstance(cell, nn.LSTMCell) else 1
    state: tuple[Tensor, ...] = tuple(x_TI.new_zeros(1, width) for _ in range(parts))
    with torch.no_grad():
        for x_I in x_TI[:-max_lag]:
            state = _step(cell, x_I[None], state)
    states = [tuple(part.expand(width, -1).clone().requires_grad_() for part in state)]
    for x_I in x_TI[-max_lag:]:
        states.append(_step(cell, x_I.expand(width, -1), states[-1]))
    output_HH = states[-1][0]
    handed_on = [part for state in states[:-1] for part in state]
    squares = [float(g.square().sum()) for g in torch.autograd.grad(output_HH.diagonal().sum(), handed_on)]
    per_lag = np.array(squares).reshape(max_lag, parts).sum(1)[::-1]
    norms = np.sqrt(np.array([width, *per_lag]) / width)  # lag 0: ∂z_t/∂z_t is the identity
    return Flow(name or type(cell).__name__, np.arange(max_lag + 1), norms, frame_s)


def _step(cell: nn.RNNCellBase, x_BI: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The next state; its parts are copies, so that no gradient of one passes through the other."""
    if isinstance(cell, nn.LSTMCell):
        z_BH, c_BH = cell(x_BI, state)
        return z_BH.clone(), c_BH.clone()
    return (cell(x_BI, state[0]),)


def compare_cells(
    *, width: int = 64, max_lag: int = 200, frame_s: float = 0.01, seeds: int = 5
) -> list[Flow]:
    """The flow in untrained RNN, GRU and LSTM cells driven by noise; geometric means over the seeds.

    The RNNs have spectral radius 0.9 and 2, the LSTMs forget bias 0, 1 and 5.
    """
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "RNN, spectral radius 0.9": ("rnn", {"spectral_radius": 0.9}),
        "RNN, spectral radius 2": ("rnn", {"spectral_radius": 2.0}),
        "GRU": ("gru", {}),
        "LSTM, forget bias 0": ("lstm", {"forget_bias": 0.0}),
        "LSTM, forget bias 1": ("lstm", {"forget_bias": 1.0}),
        "LSTM, forget bias 5": ("lstm", {"forget_bias": 5.0}),
    }
    flows = []
    for name, (kind, settings) in kinds.items():
        logs = []
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            x_TI = torch.randn(SETTLING_FRAMES + max_lag, 1, generator=generator, dtype=torch.float64)
            cell = make_cell(kind, width, seed=seed, **settings)
            logs.append(np.log(gradient_flow(cell, x_TI, max_lag=max_lag).norms))
        flows.append(Flow(name, np.arange(max_lag + 1), np.exp(np.mean(logs, 0)), frame_s))
    return flows


def model_gradient_flow(
    model: Callable[[Tensor], Tensor],
    features_1TF: Tensor,
    *,
    stride: int = 1,
    max_lag: int = 100,
    frame_s: float | None = 0.01,
    positions: int = 6,
    probes: int = 4,
    name: str = "model",
) -> Flow:
    """‖∂(output at t)/∂(input at t − k)‖ of any sequence model, for lags −max_lag … max_lag in input frames.

    Args:
        model: (1, T, F) → (1, T′, H), T′ = T / stride rounded up: for example the layers of an encoder.
        features_1TF: one utterance, longer than twice max_lag for full lags.
        stride: input frames per output frame; output t reads input frames t·stride … t·stride + stride − 1,
            and lag 0 is the last of them.
        positions, probes: output frames in the middle of the utterance, and random directions of the output
            at each, over which the squared norm is averaged (an unbiased estimate of the Frobenius norm's).

    Raises:
        AsrError: an utterance too short to have any lag, or a model whose output does not match `stride`.
    """
    x_1TF = features_1TF.detach().clone().requires_grad_()
    # cuDNN has no backward in evaluation mode
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        hidden_1TH = model(x_1TF)
    frames, outputs = x_1TF.shape[1], hidden_1TH.shape[1]
    if outputs != -(-frames // stride) or outputs < 2:
        raise AsrError(
            f"{outputs} outputs of {frames} frames; expected ⌈frames / {stride}⌉ of them, and at least 2"
        )
    edge = min(-(-max_lag // stride), (outputs - 1) // 2)  # outputs at either end, which lack some lags
    middles = np.unique(np.linspace(edge, outputs - 1 - edge, positions).astype(int))
    lags, norms = _mean_norms(x_1TF, hidden_1TH, middles, probes, stride)
    inside = np.abs(lags) <= max_lag
    return Flow(name, lags[inside], norms[inside], frame_s)


def _mean_norms(
    inputs_1TF: Tensor, hidden_1TH: Tensor, outputs: np.ndarray, probes: int, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lags in input frames and the root mean square over outputs and probes of |Σ_h r_h ∂hidden_h/∂input|.

    For directions r of independent standard normal numbers, the mean square is the squared Frobenius norm.
    """
    generator = torch.Generator().manual_seed(0)
    ends = np.arange(1, inputs_1TF.shape[1] + 1)
    squares: dict[int, list[float]] = {}
    for t in outputs:
        for _ in range(probes):
            direction_H = torch.randn(hidden_1TH.shape[2], generator=generator).to(hidden_1TH)
            (gradient,) = torch.autograd.grad(hidden_1TH[0, t] @ direction_H, inputs_1TF, retain_graph=True)
            for lag, square in zip(
                (t + 1) * stride - ends, gradient[0].square().sum(1).tolist(), strict=True
            ):
                squares.setdefault(int(lag), []).append(square)
    lags = np.array(sorted(squares))
    return lags, np.sqrt([np.mean(squares[lag]) for lag in lags])
