"""`asr tune`: the development set's log-probabilities once, then the decoder's weights searched over them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
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

_ALPHA = (0.0, 0.3, 0.6, 0.9, 1.2)
_BETA = (-2.0, -1.0, 0.0, 1.0, 2.0)
_PRIOR_WEIGHT = (0.0, 0.4)
_STEPS = (0.15, 0.5, 0.2)
"""Of α, β and the prior's weight around the best of these."""

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Trial:
    """One setting and what it gave on the development set."""

    alpha: float
    beta: float
    prior_weight: float
    wer: float
    cer: float


@dataclass(frozen=True)
class Tuning:
    """All trials, in the order they were made; `best` has the lowest WER, then CER, then least weights."""

    trials: list[Trial]
    greedy_wer: float

    @property
    def best(self) -> Trial:
        """The setting to use."""
        return min(self.trials, key=lambda t: (t.wer, t.cer, t.prior_weight, abs(t.alpha), abs(t.beta)))


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

    def prior(self) -> tuple[float, ...]:
        """(V,) the probability of each output on average over all frames."""
        frames_NV = torch.cat(
            [row[:n] for lp_BTV, n_B in self.batches for row, n in zip(lp_BTV, n_B, strict=True)]
        )
        return tuple(round(p, 7) for p in frames_NV.double().exp().mean(0).tolist())

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
    """The best α, β and weight of the prior; they are put into the model's decoder settings, with the prior.

    The beam becomes the model's decoder if it beats the best path on these utterances, else the best path.

    Raises:
        ConfigError: the model has no language model, or there are no utterances.
    """
    if model.lm is None or not utterances:
        raise ConfigError(f"{len(utterances)} utterances, language model {model.lm}: tuning needs both")
    emissions = Emissions(model, utterances)
    greedy_wer, _ = emissions.score(decoder="greedy")
    model.decoder.prior = emissions.prior()
    trials: dict[Point, Trial] = {}

    def explore(points: Iterable[Point], title: str) -> Trial:
        new = [p for p in points if p not in trials]
        with counting(title, "settings") as progress:
            for n, p in enumerate(new, 1):
                settings = dict(zip(("alpha", "beta", "prior_weight"), p, strict=True))
                trials[p] = Trial(*p, *emissions.score(**settings))
                progress(n, len(new))
        return Tuning(list(trials.values()), greedy_wer).best

    best = explore(product(_ALPHA, _BETA, _PRIOR_WEIGHT), "searching α, β and the prior's weight")
    for fraction in (1.0, 0.5):
        steps = [fraction * step for step in _STEPS]
        best = explore(_around((best.alpha, best.beta, best.prior_weight), steps), "refining")
    model.decoder.alpha, model.decoder.beta, model.decoder.prior_weight = (
        best.alpha,
        best.beta,
        best.prior_weight,
    )
    model.decoder.name = "beam" if best.wer <= greedy_wer else "greedy"
    return Tuning(list(trials.values()), greedy_wer)


def _around(centre: Point, steps: Sequence[float]) -> list[Point]:
    """One step either way along each axis and along α and β together."""
    a, b, w = centre
    moves = [(i, j, 0) for i, j in product((-1, 0, 1), repeat=2)] + [(0, 0, -1), (0, 0, 1)]
    points = [(a + i * steps[0], b + j * steps[1], w + k * steps[2]) for i, j, k in moves]
    return [(round(max(0.0, x), 4), round(y, 4), round(min(max(0.0, z), 1.0), 4)) for x, y, z in points]


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
    """A PNG of the WER over α and β at the prior's weight nearest to the best, the best marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    shown = [t for t in tuning.trials if t.prior_weight == _nearest_grid(tuning)]
    alpha, beta, wer = (np.array([getattr(t, k) for t in shown]) for k in ("alpha", "beta", "wer"))
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


def _nearest_grid(tuning: Tuning) -> float:
    """The weight of the prior, of those tried with all α and β, that is nearest to the best."""
    return min(_PRIOR_WEIGHT, key=lambda w: abs(w - tuning.best.prior_weight))


def tell(tuning: Tuning) -> None:
    """The result in one line."""
    best = tuning.best
    weights = f"α = {best.alpha:g}, β = {best.beta:g}, the prior to the power of {best.prior_weight:g}"
    say(f"greedy {tuning.greedy_wer:.2%}, beam {best.wer:.2%} with {weights}")
