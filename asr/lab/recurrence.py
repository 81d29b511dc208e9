"""A recurrent network written out, with its gradient computed backward (BPTT) and forward (RTRL) in time.

The network, with input x, hidden layer u and z, output v and y, for frames t = 1 … T and z_0 = 0:

    u_t = W_in x_t + W z_{t−1} + b                                                                      (1)
    z_t = f(u_t),  f = tanh,  f′(u) = 1 − z²                                                            (2)
    v_t = W_out z_t + c                                                                                 (3)
    y_t = g(v_t)     (g belongs to the cost: identity for regression, softmax for CTC)                  (4)

Backpropagation through time stores all z_t and goes backward. With δ_out,t = ∂E/∂v_t from the cost, δ_t =
∂E/∂u_t:

    δ_t = f′(u_t) ⊙ (W_outᵀ δ_out,t + Wᵀ δ_{t+1}),   δ_{T+1} = 0                                         (5)
    ∂E/∂W_in = Σ_t δ_t x_tᵀ    ∂E/∂W = Σ_t δ_t z_{t−1}ᵀ    ∂E/∂b = Σ_t δ_t                               (6)
    ∂E/∂W_out = Σ_t δ_out,t z_tᵀ    ∂E/∂c = Σ_t δ_out,t                                                  (7)

Real-time recurrent learning goes forward and carries the derivative of the hidden state by every weight.
With θ = [W_in W b], its input s_t = [x_t; z_{t−1}; 1] and P_t[i, k, j] = ∂z_t,i / ∂θ_kj:

    P_t[i, k, :] = f′(u_t,i) · (Σ_m W_im P_{t−1}[m, k, :] + [i = k] s_tᵀ),   P_0 = 0                     (8)
    ∂E/∂θ = Σ_t Σ_i (W_outᵀ δ_out,t)_i P_t[i]                                                           (9)

BPTT costs O(T H²) time and O(T H) memory; RTRL O(T H⁴) time and O(H³) memory, independent of T.

Sources: Werbos, "Backpropagation through time: what it does and how to do it", 1990; Williams and Zipser, "A
learning algorithm for continually running fully recurrent neural networks", 1989.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from asr.errors import AsrError
from asr.lab.costs import FrameCost, SequenceCost

Array = np.ndarray
OutputError = Callable[[int, Array], tuple[float, Array]]  # t, v_t → E_t, δ_out,t


@dataclass(frozen=True)
class Rnn:
    """The weights of a network with I inputs, H units and K outputs; a gradient has the same fields."""

    W_in: Array  # (H, I)
    W: Array  # (H, H)
    W_out: Array  # (K, H)
    b: Array  # (H,)
    c: Array  # (K,)

    @classmethod
    def random(
        cls, inputs: int, width: int, outputs: int, *, seed: int = 0, spectral_radius: float = 0.9
    ) -> "Rnn":
        """Gaussian weights in float64; the largest eigenvalue of W has the given magnitude."""
        rng = np.random.default_rng(seed)
        W = rng.standard_normal((width, width))
        return cls(
            W_in=rng.standard_normal((width, inputs)) / np.sqrt(inputs),
            W=W * spectral_radius / np.abs(np.linalg.eigvals(W)).max(),
            W_out=rng.standard_normal((outputs, width)) / np.sqrt(width),
            b=np.zeros(width),
            c=np.zeros(outputs),
        )

    def zeros(self) -> "Rnn":
        """Zeros in the shapes of the weights."""
        return Rnn(*(np.zeros_like(getattr(self, field.name)) for field in fields(self)))


@dataclass(frozen=True)
class Activity:
    """The activations of the network for one sequence: u and z (T, H), v (T, K)."""

    u_TH: Array
    z_TH: Array
    v_TK: Array


def rnn_forward(net: Rnn, x_TI: Array, z_0: Array | None = None) -> Activity:
    """The hidden layer and the output at every frame, equations (1) to (3).

    >>> net = Rnn(W_in=np.eye(1), W=0.5 * np.eye(1), W_out=np.eye(1), b=np.zeros(1), c=np.zeros(1))
    >>> rnn_forward(net, np.array([[1.0], [0.0]])).v_TK.round(3).ravel().tolist()   # tanh 1, tanh(½ tanh 1)
    [0.762, 0.363]
    """
    z = np.zeros(len(net.W)) if z_0 is None else z_0
    u_TH, z_TH = np.empty((len(x_TI), len(net.W))), np.empty((len(x_TI), len(net.W)))
    for t, x in enumerate(x_TI):
        u_TH[t] = net.W_in @ x + net.W @ z + net.b  # (1)
        z_TH[t] = z = np.tanh(u_TH[t])  # (2)
    return Activity(u_TH, z_TH, z_TH @ net.W_out.T + net.c)  # (3)


def bptt(
    net: Rnn, x_TI: Array, cost: FrameCost | SequenceCost, *, truncate: int | None = None
) -> tuple[float, Rnn]:
    """The cost and its gradient by backpropagation through time, equations (5) to (7).

    truncate: None for the exact gradient; with k, the sequence is cut into pieces of k frames, the hidden
    state is passed on from piece to piece but no δ crosses a cut. Memory is then O(k H), and longer
    dependencies are lost.
    """
    if truncate is not None and truncate < 1:
        raise AsrError(f"truncate={truncate}: expected at least 1 frame, or None for the exact gradient")
    output_error = _output_errors(net, x_TI, cost)
    step = truncate or max(1, len(x_TI))
    total, gradient, z = 0.0, net.zeros(), np.zeros(len(net.W))
    for start in range(0, len(x_TI), step):
        x = x_TI[start : start + step]
        activity = rnn_forward(net, x, z)
        delta_out = np.empty_like(activity.v_TK)
        for t, v in enumerate(activity.v_TK):
            e, delta_out[t] = output_error(start + t, v)
            total += e
        _add_piece(gradient, net, x, activity.z_TH, z, delta_out)
        z = activity.z_TH[-1]
    return total, gradient


def _add_piece(gradient: Rnn, net: Rnn, x_TI: Array, z_TH: Array, z_0: Array, delta_out_TK: Array) -> None:
    """Add the gradient of consecutive frames that begin in state z_0, equations (5) to (7)."""
    delta_TH = np.empty_like(z_TH)
    from_later = np.zeros(len(z_0))  # Wᵀ δ_{t+1}
    for t in range(len(x_TI) - 1, -1, -1):
        delta_TH[t] = (1 - z_TH[t] ** 2) * (net.W_out.T @ delta_out_TK[t] + from_later)  # (5)
        from_later = net.W.T @ delta_TH[t]
    gradient.W_in[:] += delta_TH.T @ x_TI  # (6)
    gradient.W[:] += np.outer(delta_TH[0], z_0) + delta_TH[1:].T @ z_TH[:-1]
    gradient.b[:] += delta_TH.sum(0)
    gradient.W_out[:] += delta_out_TK.T @ z_TH  # (7)
    gradient.c[:] += delta_out_TK.sum(0)


def rtrl(net: Rnn, x_TI: Array, cost: FrameCost | SequenceCost) -> tuple[float, Rnn]:
    """The cost and its exact gradient, forward in time, equations (8) and (9); no past states are stored.

    A cost that is a sum over frames is computed frame by frame. A cost of the whole sequence, such as CTC,
    gives δ_out,t only after the last frame: then the network runs twice, and the outputs v (T · K numbers)
    are stored.
    """
    output_error = _output_errors(net, x_TI, cost)
    width, inputs = net.W_in.shape
    total, gradient = 0.0, net.zeros()
    by_theta = np.zeros((width, inputs + width + 1))
    z, s = np.zeros(width), np.ones(inputs + width + 1)
    P, carried = np.zeros((width, width, s.size)), np.empty((width, width, s.size))
    own = np.arange(width)
    for t, x in enumerate(x_TI):
        s[:inputs], s[inputs:-1] = x, z  # s_t = [x_t; z_{t−1}; 1]
        z = np.tanh(net.W_in @ x + net.W @ z + net.b)  # (1), (2)
        np.matmul(net.W, P.reshape(width, -1), out=carried.reshape(width, -1))  # (8): Σ_m W_im P[m]
        carried[own, own] += s  # (8): [i = k] s_t
        carried *= (1 - z**2)[:, None, None]  # (8): f′(u_t)
        P, carried = carried, P
        e, delta_out = output_error(t, net.W_out @ z + net.c)  # (3)
        total += e
        by_theta += np.tensordot(net.W_out.T @ delta_out, P, 1)  # (9)
        gradient.W_out[:] += np.outer(delta_out, z)  # (7)
        gradient.c[:] += delta_out
    gradient.W_in[:] = by_theta[:, :inputs]
    gradient.W[:], gradient.b[:] = by_theta[:, inputs:-1], by_theta[:, -1]
    return total, gradient


def _output_errors(net: Rnn, x_TI: Array, cost: FrameCost | SequenceCost) -> OutputError:
    """E_t and δ_out,t as a function of t and v_t; for a cost of the whole sequence from a first pass."""
    if isinstance(cost, FrameCost):
        return cost.of_frame
    total, delta_out_TK = cost.of_sequence(_outputs(net, x_TI))
    return lambda t, _v: (total if t == 0 else 0.0, delta_out_TK[t])


def _outputs(net: Rnn, x_TI: Array) -> Array:
    """Only the outputs v (T, K)."""
    z, v_TK = np.zeros(len(net.W)), np.empty((len(x_TI), len(net.c)))
    for t, x in enumerate(x_TI):
        z = np.tanh(net.W_in @ x + net.W @ z + net.b)
        v_TK[t] = net.W_out @ z + net.c
    return v_TK
