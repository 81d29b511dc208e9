"""The lattice at machine speed: α, β and γ of one utterance, compiled by numba, no logarithm in any cell.

Log-space costs three exponentials and a logarithm per cell, and loses digits: next to −1000 a float32 keeps
four decimals. Plain probabilities would need neither, but they underflow. So a probability p is held as one
64-bit integer, a fixed-point number with 40 binary digits after the point:

    p = m · 2^e,  1 ≤ m < 2      ↔      X = (e + m − 1) · 2^40.

e lies in ±2^21, so p may be as small as 10^−300000. X grows with p, thus max(p, q) is max(X, Y), and the bits
of a double are the same thing with a narrower exponent: a shift by 12 converts. Every line of the inner loops
is integer and float arithmetic that LLVM turns into vector instructions. Relative error per operation: 2^−41.

The states 0 … 2S of the lattice are kept in two rows, because they behave differently: blank[u] is the blank
before label u (u = 0 … S; state 2u) and label[u] is label u (u = 0 … S−1; state 2u + 1). In memory both rows
carry one cell of padding on either side, so u lies at u + 1. Only cells that the start can reach by frame t,
and that can still reach the end, are computed; their neighbours hold zero.
"""

import math
from typing import Any

import numpy as np
from numba import njit, types

from asr.machine.compilation import kernel
from asr.machine.instructions import reinterpretation

POINT = 40  # binary digits after the point
SHIFT = 52 - POINT  # a double has 52 of them
HALF = 1 << (SHIFT - 1)  # added before the surplus digits are cut off, to round
ONE = 1023 << POINT  # the bias of a double's exponent, in our units
EXPONENT = ~((1 << POINT) - 1)  # mask of the integer part e
ZERO = -(1 << 61)  # stands for p = 0; the sum of two does not overflow
NOTHING = ZERO >> 1  # all values below count as zero
LOG2_E = 1.0 / math.log(2.0)
LN_2 = math.log(2.0)
ROUND = 6755399441055744.0  # 1.5 · 2^52: a double plus this has the rounded integer in its low bits
SERIES = tuple(1.0 / math.factorial(n) for n in range(12, -1, -1))  # exp(z) for |z| ≤ ln 2 / 2 to 2e−16

Row = Any  # a one-dimensional contiguous array of int64

_bits = reinterpretation(types.float64, types.int64)
_double = reinterpretation(types.int64, types.float64)


@njit(nogil=True)
def _over(x: int, e: int) -> float:
    """x / 2^e as a double, e being an exponent in our format; far smaller values become 0."""
    return _double(max(x - e + ONE, 0) << SHIFT)


@njit(nogil=True)
def _pack(d: float) -> int:
    """A positive double in our format."""
    return ((_bits(d) + HALF) >> SHIFT) - ONE


@njit(nogil=True)
def _pack_logs(out: Row, logs: Row) -> None:
    """out = exp(logs): 2^i · exp(z) with i the nearest integer to logs / ln 2 and z the rest."""
    for i in range(out.shape[0]):
        x = max(logs[i] * LOG2_E, -2097152.0)
        shifted = x + ROUND
        z = (x - (shifted - ROUND)) * LN_2
        m = 0.0
        for c in SERIES:
            m = m * z + c
        out[i] = max(_pack(m) + ((_bits(shifted) - _bits(ROUND)) << POINT), ZERO)


@njit(nogil=True)
def _add2(out: Row, p: Row, q: Row, y: int) -> None:
    """out = (p + q) · y with one y for all."""
    ey = y & EXPONENT
    m = _over(y, ey)
    for i in range(out.shape[0]):
        e = max(p[i], q[i]) & EXPONENT
        out[i] = max(_pack((_over(p[i], e) + _over(q[i], e)) * m) + e + ey, ZERO)


@njit(nogil=True)
def _add3(out: Row, p: Row, q: Row, r: Row, closed: Row, y: Row) -> None:
    """out = (p + q + r) · y, where r does not count if `closed` is ZERO instead of 0."""
    for i in range(out.shape[0]):
        s = r[i] + closed[i]
        e = max(max(p[i], q[i]), s) & EXPONENT
        ey = y[i] & EXPONENT
        d = (_over(p[i], e) + _over(q[i], e) + _over(s, e)) * _over(y[i], ey)
        out[i] = max(_pack(d) + e + ey, ZERO)


@njit(nogil=True)
def _times(out: Row, p: Row, y: Row) -> None:
    """out = p · y."""
    for i in range(out.shape[0]):
        e = p[i] & EXPONENT
        ey = y[i] & EXPONENT
        out[i] = max(_pack(_over(p[i], e) * _over(y[i], ey)) + e + ey, ZERO)


@njit(nogil=True)
def _scale(out: Row, p: Row, y: int) -> None:
    """out = p · y with one y for all."""
    ey = y & EXPONENT
    m = _over(y, ey)
    for i in range(out.shape[0]):
        e = p[i] & EXPONENT
        out[i] = max(_pack(_over(p[i], e) * m) + e + ey, ZERO)


@njit(nogil=True)
def _share(out: Any, p: Row, q: Row, total: int) -> None:
    """out = p · q / total as doubles in [0, 1]."""
    et = total & EXPONENT
    scale = 1.0 / _over(total, et)
    for i in range(out.shape[0]):
        ep = p[i] & EXPONENT
        eq = q[i] & EXPONENT
        d = _over(p[i], ep) * _over(q[i], eq) * scale
        out[i] = d * _double(max(ep + eq - et + ONE, 0) << SHIFT)


@njit(nogil=True)
def _bounds(t: int, frames: int, labels: int) -> tuple[int, int, int, int]:
    """The cells that lie on some path at frame t: blanks first … end, labels first … end (ends exclusive)."""
    left = frames - t
    return max(0, labels + 1 - left), min(labels + 1, t + 1), max(0, labels - left), min(labels, t + 1)


@njit(nogil=True)
def _emissions(log_probs_TV: Any, columns: Row) -> Any:
    """y_t of every column in use, (T, D) in our format; (T, 0) if a log-probability is NaN or +∞."""
    frames, count = log_probs_TV.shape[0], columns.shape[0]
    y = np.empty((frames, count), np.int64)
    logs = np.empty(count)
    for t in range(frames):
        for d in range(count):
            logs[d] = log_probs_TV[t, columns[d]]
            if not logs[d] < 1e5:
                return y[:, :0]
        _pack_logs(y[t], logs)
    return y


@njit(nogil=True)
def _pick(out: Row, row: Row, slots: Row) -> None:
    """out[u] = row[slots[u]]."""
    for u in range(out.shape[0]):
        out[u] = row[slots[u]]


@njit(nogil=True)
def _forward_step(new: Any, old: Any, t: int, y: Any, slots: Row, closed: Row, y_label: Row) -> None:
    """new = α_t (blanks in new[0], labels in new[1]) from old = α_{t−1}; the emission of frame t is in it."""
    b, b_end, a, a_end = _bounds(t, y.shape[0], slots.shape[0])
    blank, label = old[0], old[1]
    # α_t(blank u) = (α_{t−1}(blank u) + α_{t−1}(label u−1)) · y_t(blank)
    _add2(new[0, b + 1 : b_end + 1], blank[b + 1 : b_end + 1], label[b:b_end], y[t, 0])
    # α_t(label u) = (α_{t−1}(label u) + α_{t−1}(blank u) + [differs] α_{t−1}(label u−1)) · y_t(label u)
    here, before = slice(a + 1, a_end + 1), slice(a, a_end)
    _pick(y_label[before], y[t], slots[before])
    _add3(new[1, here], label[here], blank[here], label[before], closed[before], y_label[before])
    new[0, b] = new[0, b_end + 1] = new[1, a] = new[1, a_end + 1] = ZERO


@njit(nogil=True)
def _backward_step(beta: Any, beta_y: Any, t: int, y: Any, slots: Row, closed: Row, y_label: Row) -> None:
    """beta = β_t, the emission of frame t not in it, from beta_y = β_{t+1} y_{t+1}, which becomes β_t y_t."""
    frames, labels = y.shape[0], slots.shape[0]
    b, b_end, a, a_end = _bounds(t, frames, labels)
    blanks, here, after = slice(b + 1, b_end + 1), slice(a + 1, a_end + 1), slice(a + 2, a_end + 2)
    blank_y, label_y = beta_y[0], beta_y[1]
    y_label[a:a_end] = 0  # one
    if t < frames - 1:
        # β_t(blank u) = β_{t+1}(blank u) y_{t+1}(blank) + β_{t+1}(label u) y_{t+1}(label u)
        _add2(beta[0, blanks], blank_y[blanks], label_y[blanks], 0)
        # β_t(label u) = the same for label u, for blank u+1 and, if it differs, for label u+1
        _add3(beta[1, here], label_y[here], blank_y[after], label_y[after], closed[here], y_label[a:a_end])
    _pick(y_label[a:a_end], y[t], slots[a:a_end])
    _scale(blank_y[blanks], beta[0, blanks], y[t, 0])
    _times(label_y[here], beta[1, here], y_label[a:a_end])
    blank_y[b] = label_y[a] = ZERO


@njit(nogil=True)
def _before_start(labels: int) -> Any:
    """α_{−1}: before the first frame state 0 has probability one."""
    alpha = np.full((2, labels + 3), ZERO)
    alpha[0, 1] = 0
    return alpha


@njit(nogil=True)
def _at_end(labels: int) -> Any:
    """β_{T−1}: a path may end at the last label and at the blank after it."""
    beta = np.full((2, labels + 3), ZERO)
    beta[0, labels + 1] = 0
    if labels:
        beta[1, labels] = 0
    return beta


@njit(nogil=True)
def _probability(alpha: Any, labels: int) -> int:
    """p(labels) from α_{T−1}."""
    e = max(alpha[0, labels + 1], alpha[1, labels]) & EXPONENT
    return _pack(_over(alpha[0, labels + 1], e) + _over(alpha[1, labels], e)) + e


@njit(nogil=True)
def _occupy(gamma: Any, alpha: Any, total: int, y: Any, slots: Row, closed: Row, y_label: Row) -> None:
    """γ_t(column) = Σ α_t β_t / p over the states that emit it; of β only the current frame is kept."""
    frames, labels = y.shape[0], slots.shape[0]
    beta, beta_y = _at_end(labels), np.full((2, labels + 3), ZERO)
    part = np.empty(labels + 1)
    for t in range(frames - 1, -1, -1):
        _backward_step(beta, beta_y, t, y, slots, closed, y_label)
        b, b_end, a, a_end = _bounds(t, frames, labels)
        _share(part[b:b_end], alpha[t, 0, b + 1 : b_end + 1], beta[0, b + 1 : b_end + 1], total)
        gamma[t, 0] = part[b:b_end].sum()
        _share(part[a:a_end], alpha[t, 1, a + 1 : a_end + 1], beta[1, a + 1 : a_end + 1], total)
        for u in range(a, a_end):
            gamma[t, slots[u]] += part[u]


@njit(nogil=True)
def _use(labels_S: Row, columns: Row, outputs: int) -> tuple[Row, Row, int]:
    """(column of each label, ZERO where a label needs a blank before it, else 0, number of columns).

    Fills `columns` with the outputs in use: the blank, then the labels in order of first occurrence.
    """
    labels = labels_S.shape[0]
    place = np.full(outputs, -1)
    slots, closed = np.empty(labels, np.int64), np.full(labels + 1, ZERO)
    count = 1
    columns[0] = 0
    for u in range(labels):
        label = labels_S[u]
        if place[label] < 0:
            place[label] = count
            columns[count] = label
            count += 1
        slots[u] = place[label]
        if u and label != labels_S[u - 1]:
            closed[u] = 0
    return slots, closed, count


@kernel()
def utterance(log_probs_TV: Any, labels_S: Row, columns: Row, gamma_TD: Any) -> float:
    """−ln p(labels); fills `columns` with the outputs in use and gamma_TD with the occupancy of each.

    log_probs_TV: float32 or float64, contiguous; labels_S: 1 … V−1; columns: at least min(S + 1, V) places;
    gamma_TD: zeros (T, as many), or without columns if only the value is wanted. If no path fits: +∞ and
    zeros. If an output in use is NaN: NaN everywhere.
    """
    frames, labels = log_probs_TV.shape[0], labels_S.shape[0]
    if labels > frames:
        return np.inf
    slots, closed, count = _use(labels_S, columns, log_probs_TV.shape[1])
    y = _emissions(log_probs_TV, columns[:count])
    if y.shape[1] == 0:
        gamma_TD[:] = np.nan
        return np.nan
    alpha = np.empty((frames, 2, labels + 3), np.int64)
    y_label = np.empty(labels, np.int64)
    row = _before_start(labels)
    for t in range(frames):
        _forward_step(alpha[t], row, t, y, slots, closed, y_label)
        row = alpha[t]
    total = _probability(row, labels)
    if total < NOTHING:
        return np.inf
    if gamma_TD.shape[1]:
        _occupy(gamma_TD, alpha, total, y, slots, closed, y_label)
    e = total & EXPONENT
    return -(math.log(_over(total, e)) + (e >> POINT) * LN_2)


@kernel()
def spread(out_TV: Any, gamma_TD: Any, columns: Row, weight: float) -> None:
    """out += weight · γ, each column of γ at its output. Unused columns hold zeros, wherever they point."""
    for t in range(gamma_TD.shape[0]):
        for d in range(gamma_TD.shape[1]):
            out_TV[t, columns[d]] += weight * gamma_TD[t, d]


@kernel()
def path_occupancy(log_probs_TV: Any, labels_S: Row, path_T: Row) -> Any:
    """γ_t(state of the path at t), (T,): the share of all paths that are at frame t where this path is.

    The path must be possible. α and β are kept only where it passes: memory does not grow with T · S.
    """
    frames, labels = log_probs_TV.shape[0], labels_S.shape[0]
    columns = np.empty(labels + 1, np.int64)
    slots, closed, count = _use(labels_S, columns, log_probs_TV.shape[1])
    y = _emissions(log_probs_TV, columns[:count])
    y_label = np.empty(labels, np.int64)
    alpha_T, beta_T = np.empty(frames, np.int64), np.empty(frames, np.int64)
    alpha, old = np.empty((2, labels + 3), np.int64), _before_start(labels)
    for t in range(frames):
        _forward_step(alpha, old, t, y, slots, closed, y_label)
        alpha_T[t] = alpha[path_T[t] & 1, (path_T[t] >> 1) + 1]
        alpha, old = old, alpha
    total = _probability(old, labels)
    beta, beta_y = _at_end(labels), np.full((2, labels + 3), ZERO)
    for t in range(frames - 1, -1, -1):
        _backward_step(beta, beta_y, t, y, slots, closed, y_label)
        beta_T[t] = beta[path_T[t] & 1, (path_T[t] >> 1) + 1]
    gamma_T = np.empty(frames)
    _share(gamma_T, alpha_T, beta_T, total)
    return np.minimum(gamma_T, 1.0)
