"""The lab's plots: cost of gradients, gradient flow, memory, and the lattice of an utterance, as PNG files.

Every function draws given results, writes one file and returns its path. matplotlib is loaded on first use
and needs no display.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.ctc import Span, align, forward_backward
from asr.errors import AsrError
from asr.lab.comparison import Expense
from asr.lab.flow import Flow
from asr.lab.memory import SYMBOLS, Recall
from asr.text import Alphabet

DOTS_PER_INCH = 150


def plot_gradients(expenses: Sequence[Expense], path: str | Path) -> Path:
    """Time and peak memory of each method against sequence length, all axes logarithmic."""
    figure, (time_axes, memory_axes) = _figure(11, 4.2, ncols=2)
    for method in dict.fromkeys(e.method for e in expenses):
        mine = [e for e in expenses if e.method == method]
        frames = [e.frames for e in mine]
        time_axes.loglog(frames, [1000 * e.time_s for e in mine], "o-", label=method)
        memory_axes.loglog(frames, [e.peak_bytes / 1024 for e in mine], "o-", label=method)
    time_axes.set(
        xlabel="length of the sequence (frames)", ylabel="processor time of one gradient (ms)", title="Time"
    )
    memory_axes.set(xlabel="length of the sequence (frames)", ylabel="peak memory (KiB)", title="Memory")
    for axes in (time_axes, memory_axes):
        axes.grid(alpha=0.3)
        axes.legend()
    return _save(figure, path)


def plot_gradient_flow(flows: Sequence[Flow], path: str | Path) -> Path:
    """The norm of the gradient, logarithmic, against the lag, with each half-life in the legend.

    The lag in seconds is shown at the top if all flows have the same frame length.
    """
    figure, axes = _figure(8.5, 6)
    for flow in flows:
        axes.semilogy(
            flow.lags, np.maximum(flow.norms, 1e-300), label=f"{flow.name}  ({_half_life(flow)})", lw=1.8
        )
    shown = np.concatenate([flow.norms[flow.norms > 0] for flow in flows])
    axes.set_ylim(max(shown.min(), 1e-12) / 2, min(shown.max(), 1e8) * 3)
    axes.set(xlabel="lag k (frames)", ylabel="norm of ∂output$_t$ / ∂state$_{t-k}$")
    axes.axhline(1.0, color="black", lw=0.8, ls=":")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, title="half-life", frameon=False)
    frames_s = {flow.frame_s for flow in flows}
    if len(frames_s) == 1 and (frame_s := frames_s.pop()):
        seconds = axes.secondary_xaxis("top", functions=(lambda k: k * frame_s, lambda s: s / frame_s))
        seconds.set_xlabel("lag (s)")
    return _save(figure, path)


def plot_memory(results: Sequence[Recall], path: str | Path) -> Path:
    """The accuracy of recall against the gap for each network, mean over the seeds, with the chance level."""
    figure, axes = _figure(7.5, 4.4)
    for cell, carry in dict.fromkeys((r.cell, r.carry) for r in results):
        mine = [r for r in results if (r.cell, r.carry) == (cell, carry)]
        gaps = sorted({r.gap for r in mine})
        means = [100 * float(np.mean([r.accuracy for r in mine if r.gap == gap])) for gap in gaps]
        name = cell.upper() + (f", carry {carry:g}" if carry else "")
        axes.semilogx(gaps, means, "o-", label=name, lw=1.8)
    axes.axhline(100 / SYMBOLS, color="black", lw=0.8, ls=":", label="chance")
    gaps = sorted({r.gap for r in results})
    axes.set_xticks(gaps, [str(gap) for gap in gaps])
    axes.minorticks_off()
    axes.set(xlabel="gap (frames)", ylabel="accuracy of recall (%)", ylim=(0, 104))
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, path)


def plot_lattice(
    log_probs_TV: Tensor,
    targets_S: Sequence[int],
    path: str | Path,
    *,
    alphabet: Alphabet,
    samples: np.ndarray,
    rate_hz: int,
    frame_s: float,
    start_s: float = 0.0,
) -> Path:
    """The lattice of one text below its spectrogram: occupancy as shading, the best path as a line.

    Args:
        log_probs_TV: natural log-probabilities of the utterance, blank at 0.
        targets_S: the labels of the text; they must fit.
        alphabet: names the labels.
        samples, rate_hz: the audio itself, mono.
        frame_s: seconds per frame of the log-probabilities.
        start_s: time of the first frame and the first sample; below zero if silence was put before.

    Raises:
        CtcError: the text cannot fit, as in `align`.
        AsrError: the text has no labels.
    """
    if not len(targets_S):
        raise AsrError("the text is empty: a lattice needs at least one label")
    spans = align(log_probs_TV, targets_S)
    occupancy_TL = state_occupancy(log_probs_TV, targets_S)
    states = occupancy_TL.shape[1]
    duration_s = len(log_probs_TV) * frame_s
    end_s = start_s + duration_s
    width, height = min(6 + 0.9 * duration_s, 18), min(2.5 + 0.08 * states, 12)
    figure, (sound, lattice) = _figure(width, height + 2, nrows=2, height_ratios=(2, height), sharex=True)
    _draw_spectrogram(sound, samples, rate_hz, start_s)
    extent = (start_s, end_s, -0.5, states - 0.5)
    shade = lattice.imshow(
        occupancy_TL.T, origin="lower", aspect="auto", extent=extent, cmap="Blues", vmin=0, vmax=1
    )
    state_T = path_states(spans, len(log_probs_TV))
    edges_s = start_s + np.arange(len(state_T) + 1) * frame_s
    lattice.stairs(
        state_T,
        edges_s,
        baseline=None,
        color="crimson",
        lw=max(0.5, min(1.3, 60 / states)),
        label="best path",
    )
    marks = [alphabet.symbols[label - 1].replace(" ", "␣") for label in targets_S]
    lattice.set_yticks(range(1, states, 2), marks, fontsize=max(4, min(9, 1200 / states)))
    lattice.set(xlabel="time (s)", ylabel="label (blanks between)", xlim=(start_s, end_s))
    lattice.legend(loc="upper left")
    figure.colorbar(shade, ax=lattice, label="occupancy", pad=0.01)
    return _save(figure, path)


def state_occupancy(log_probs_TV: Tensor, targets_S: Sequence[int]) -> np.ndarray:
    """α_t(s) β_t(s) / p of every state s of the lattice, (T, 2S + 1) in [0, 1]."""
    labels_BS = torch.tensor([list(targets_S)], dtype=torch.int64)
    lengths = torch.tensor([len(log_probs_TV)]), torch.tensor([labels_BS.shape[1]])
    lattice = forward_backward(log_probs_TV.detach().cpu()[None].double(), labels_BS, *lengths)
    return (lattice.log_alpha + lattice.log_beta + lattice.nll_B)[0].exp().numpy()


def path_states(spans: Sequence[Span], frames: int) -> np.ndarray:
    """The state 0 … 2S of the best path at each frame: span k lies in state 2k + 1, blanks in between.

    >>> path_states([Span(7, 1, 3, 1.0), Span(4, 3, 4, 1.0)], 6).tolist()
    [0, 1, 1, 3, 4, 4]
    """
    state_T = np.zeros(frames, dtype=int)
    for k, span in enumerate(spans):
        state_T[span.start_frame :] = 2 * k + 1
        state_T[span.end_frame :] = 2 * k + 2
    return state_T


def _draw_spectrogram(axes: Any, samples: np.ndarray, rate_hz: int, start_s: float) -> None:
    """Power in dB below the loudest point, windows of 25 ms, with time in seconds and frequency in kHz."""
    import librosa

    window = round(0.025 * rate_hz)
    hop = max(1, round(0.005 * rate_hz))
    power = np.abs(librosa.stft(np.asarray(samples, dtype=np.float32), n_fft=window, hop_length=hop)) ** 2
    level_db = librosa.power_to_db(power, ref=np.max, top_db=70)
    extent = (start_s, start_s + len(samples) / rate_hz, 0, rate_hz / 2000)
    axes.imshow(level_db, origin="lower", aspect="auto", extent=extent, cmap="magma")
    axes.set(ylabel="frequency (kHz)")
    axes.tick_params(labelbottom=False)


def _half_life(flow: Flow) -> str:
    frames = flow.half_life_frames
    if np.isinf(frames):
        return "none: it does not decay"
    return f"{frames:.1f} frames" + (
        f", {1000 * flow.half_life_s:.0f} ms" if flow.half_life_s is not None else ""
    )


def _figure(width: float, height: float, **grid: Any) -> tuple[Any, Any]:
    """A figure (size in inches) and its axes, as of `subplots`, without a window or global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**grid)


def _save(figure: Any, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    return path
