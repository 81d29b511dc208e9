"""`asr lab`: the lab's measurements and pictures, on untrained cells or on a trained model."""

from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from asr import audio, lab
from asr.errors import ConfigError
from asr.jobs.console import output, say
from asr.lab.comparison import LENGTHS
from asr.lab.flow import Flow
from asr.recognizer import Recognizer
from asr.scoring.tables import print_table


def gradients(path: Path, *, longest: int = 10_000) -> None:
    """Time and memory of BPTT and RTRL against the length of the sequence, printed and drawn."""
    expenses = lab.measure_gradients([n for n in LENGTHS if n < longest] + [longest])
    table = Table(title="one exact gradient")
    for column in ("frames", "method", "time (ms)", "peak memory (kB)"):
        table.add_column(column, justify="right")
    for e in expenses:
        table.add_row(f"{e.frames:,}", e.method, f"{1000 * e.time_s:,.2f}", f"{e.peak_bytes / 1000:,.0f}")
    print_table(table, output)
    output.print(lab.verdict(expenses))
    say(f"picture {lab.plot_gradients(expenses, path)}")


def gradient_flow(path: Path, model: Recognizer | None = None, recording: str | None = None) -> None:
    """How far back gradients reach: in untrained cells, or in a model on a recording (noise if None)."""
    flows = lab.compare_cells() if model is None else [_flow_of(model, recording)]
    table = Table(title="gradient norm over the lag")
    for column in ("network", "half-life (frames)", "half-life (ms)"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for flow in flows:
        milliseconds = "" if flow.half_life_s is None else f"{1000 * flow.half_life_s:,.0f}"
        table.add_row(flow.name, f"{flow.half_life_frames:,.1f}", milliseconds)
    print_table(table, output)
    say(f"picture {lab.plot_gradient_flow(flows, path)}")


def _flow_of(model: Recognizer, recording: str | None) -> Flow:
    if model.runtime is not None:
        raise ConfigError("an exported model gives no gradients: take the bundle")
    rate_hz = model.rate_hz
    noise = 0.1 * np.random.default_rng(0).standard_normal(4 * rate_hz).astype(np.float32)
    samples = torch.from_numpy(audio.read(recording, rate_hz) if recording else noise)[None]
    lengths_B = torch.tensor([samples.shape[1]])
    features_1TF, frames_B = model.features(samples, lengths_B)
    encoder = model.encoder

    def hidden(x_1TF: torch.Tensor) -> torch.Tensor:
        *_, last_1TH = encoder.hidden(x_1TF, torch.tensor([x_1TF.shape[1]]))
        return last_1TH

    return lab.model_gradient_flow(
        hidden,
        features_1TF[:, : int(frames_B)],
        stride=encoder.frames_per_output,
        frame_s=model.features.config.hop_s,
        name=f"{encoder.config.cell}, trained",
    )


def memory(path: Path, *, updates: int = 1000) -> None:
    """Accuracy of recalling a symbol after a gap, for RNN, GRU and LSTM, printed and drawn."""
    results = lab.memory_task(
        updates=updates, progress=lambda r: say(f"{r.cell} gap {r.gap}: {r.accuracy:.0%}")
    )
    say(f"picture {lab.plot_memory(results, path)}")


def lattice(model: Recognizer, recording: str, text: str, path: Path) -> None:
    """Draw the lattice of a text with the recording's spectrogram; print the text's exact log-probability."""
    samples = audio.read(recording, model.rate_hz)
    log_probs_BTV, _ = model.log_probs([samples])
    silence = model.features.edge_frames * model.features.hop_samples
    lab.plot_lattice(
        log_probs_BTV[0],
        model.targets(text),
        path,
        alphabet=model.alphabet,
        samples=np.pad(samples, silence),
        rate_hz=model.rate_hz,
        frame_s=model.frame_s,
        start_s=-silence / model.rate_hz,
    )
    output.print(f"ln p({text!r} | audio) = {model.log_prob(samples, text):.4f}", markup=False)
    say(f"picture {path}")
