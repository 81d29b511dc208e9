"""`asr tune`: the development set's log-probabilities once, then the decoder's weights searched over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from asr import audio, scoring
from asr.corpus.manifest import Utterance, read_manifest
from asr.errors import ConfigError
from asr.jobs.console import counting, say, warn
from asr.jobs.evaluate import evaluate
from asr.lm import load as load_lm
from asr.recognizer import Recognizer, load
from asr.scoring.calibration import Calibration, fit, judged_words
from asr.text import normalise

_COARSE_ALPHA = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
_COARSE_BETA = (-1.0, 0.0, 1.0, 2.0, 3.0)
_STEPS = (0.12, 0.5)
"""Of α and β around the best coarse point."""


@dataclass(frozen=True)
class Trial:
    """One setting and what it gave on the development set."""

    alpha: float
    beta: float
    wer: float
    cer: float


@dataclass(frozen=True)
class Tuning:
    """All trials, in the order they were made; `best` has the lowest WER, then CER, then α."""

    trials: list[Trial]
    greedy_wer: float

    @property
    def best(self) -> Trial:
        """The setting to use."""
        return min(self.trials, key=lambda t: (t.wer, t.cer, abs(t.alpha), abs(t.beta)))


class Emissions:
    """Log-probabilities of a set of utterances, computed once, with the texts they should give."""

    def __init__(self, model: Recognizer, utterances: Sequence[Utterance]) -> None:
        self.model = model
        order = sorted(range(len(utterances)), key=lambda i: utterances[i].duration_s)
        self.texts = [normalise(utterances[i].text, model.style) for i in order]
        self.batches: list[tuple[Tensor, Tensor]] = []
        with counting("listening", "utterances") as progress:
            for at in range(0, len(order), 16):
                waves = [audio.read(utterances[i].audio_filepath, model.rate_hz) for i in order[at : at + 16]]
                self.batches.append(model.log_probs(waves))
                progress(min(at + 16, len(order)), len(order))

    def score(self, **settings: object) -> tuple[float, float]:
        """WER and CER of the beam (or, with `decoder="greedy"`, of the best path) with these settings."""
        decoder = settings.pop("decoder", "beam")
        found = [
            hypothesis.text(self.model.alphabet)
            for log_probs_BTV, lengths_B in self.batches
            for hypothesis in self.model.decode(log_probs_BTV, lengths_B, decoder=decoder, **settings)  # type: ignore[arg-type]
        ]
        score = scoring.score(self.texts, found)
        return score.wer, score.cer


def tune(model: Recognizer, utterances: Sequence[Utterance]) -> Tuning:
    """The best α and β for the model's language model; they are put into the model's decoder settings.

    The beam becomes the model's decoder if it beats the best path on these utterances, else the best path.

    Raises:
        ConfigError: the model has no language model, or there are no utterances.
    """
    if model.lm is None or not utterances:
        raise ConfigError(f"{len(utterances)} utterances, language model {model.lm}: tuning needs both")
    emissions = Emissions(model, utterances)
    greedy_wer, _ = emissions.score(decoder="greedy")
    trials: dict[tuple[float, float], Trial] = {}

    def explore(points: Sequence[tuple[float, float]], title: str) -> None:
        new = [p for p in points if p not in trials]
        with counting(title, "settings") as progress:
            for n, (alpha, beta) in enumerate(new, 1):
                trials[alpha, beta] = Trial(alpha, beta, *emissions.score(alpha=alpha, beta=beta))
                progress(n, len(new))

    explore([(a, b) for a in _COARSE_ALPHA for b in _COARSE_BETA], "searching α, β")
    centre = Tuning(list(trials.values()), greedy_wer).best
    around = [-1.0, 0.0, 1.0]
    explore(
        [
            (round(max(0.0, centre.alpha + i * _STEPS[0]), 3), round(centre.beta + j * _STEPS[1], 3))
            for i in around
            for j in around
        ],
        "refining",
    )
    tuning = Tuning(list(trials.values()), greedy_wer)
    model.decoder.alpha, model.decoder.beta = tuning.best.alpha, tuning.best.beta
    model.decoder.name = "beam" if tuning.best.wer <= greedy_wer else "greedy"
    return tuning


def calibrate(model: Recognizer, utterances: Sequence[Utterance]) -> Calibration:
    """The calibration that makes the confidences on these utterances honest; it is put into the model."""
    model.decoder.confidence_slope, model.decoder.confidence_bias = 1.0, 0.0
    confidences_W, right_W = judged_words(evaluate(model, list(utterances)).score)
    if not len(confidences_W):
        warn("the model wrote no word on the development set, so its confidences are not calibrated")
        return Calibration()
    calibration = fit(confidences_W, right_W)
    model.decoder.confidence_slope, model.decoder.confidence_bias = calibration.slope, calibration.bias
    return calibration


def plot(tuning: Tuning, path: Path) -> Path:
    """A PNG of the WER over α and β, the best marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    alpha, beta, wer = (np.array([getattr(t, k) for t in tuning.trials]) for k in ("alpha", "beta", "wer"))
    surface = axes.tricontourf(beta, alpha, 100 * wer, levels=12, cmap="viridis_r")
    axes.plot(beta, alpha, "k.", ms=3, label="tried")
    axes.plot(tuning.best.beta, tuning.best.alpha, "r*", ms=14, label=f"best: {tuning.best.wer:.2%}")
    figure.colorbar(surface, label="WER on the development set (%)")
    axes.set(xlabel="β, bonus of a word (nats)", ylabel="α, weight of the language model")
    axes.set_title(f"greedy without language model: {tuning.greedy_wer:.2%}")
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=120)
    return path


def tune_bundle(bundle: str, manifest: Path, *, lm: str | None = None, picture: Path | None = None) -> None:
    """Tune a bundle on a manifest, say what came out, and save the bundle with it.

    Args:
        bundle: its folder or file, which is rewritten.
        manifest: JSONL of the development set.
        lm: an ARPA file that becomes the bundle's language model; None keeps the one it has.
        picture: PNG of the surface.
    """
    model = load(bundle)
    if lm is not None:
        model.lm = load_lm(lm)
        model.alphabet = model.alphabet.with_words(model.lm.known_words)
    utterances = read_manifest(manifest)
    tuning = tune(model, utterances)
    tell(tuning)
    calibrate(model, utterances)
    model.save(bundle)
    if picture is not None:
        say(f"surface {plot(tuning, picture)}")


def tell(tuning: Tuning) -> None:
    """The result in one line."""
    best = tuning.best
    say(f"greedy {tuning.greedy_wer:.2%}, beam {best.wer:.2%} with α = {best.alpha:g}, β = {best.beta:g}")
