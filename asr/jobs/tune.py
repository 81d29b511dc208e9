"""`asr tune`: decoder settings searched on the development set, whose log-probabilities are computed once."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from asr import scoring
from asr.corpus.manifest import Utterance, check_ids, read_manifest
from asr.decoding import greedy
from asr.errors import ConfigError
from asr.jobs.console import counting, say, warn
from asr.jobs.evaluate import evaluate, read_samples
from asr.lm import load as load_lm
from asr.recognizer import DecoderConfig, Recognizer, load
from asr.scoring import Score
from asr.scoring.calibration import Calibration, fit, judged_words
from asr.text import normalise

_ALPHA = (0.0, 0.3, 0.6, 0.9, 1.2)
_BETA = (-2.0, -1.0, 0.0, 1.0, 2.0)
_PRIOR_WEIGHT = (0.0, 0.4)
_STEPS = (0.15, 0.5, 0.2)
"""Step sizes of α, β and the prior's weight for refining the best point of the grid above."""

_WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024)
_HOTWORD_WEIGHTS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
NOTHING_LEARNT = 0.8
"""At or above this output error rate tuning is pointless: constant output scores nearly as well."""

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Trial:
    """One setting and its error rates on the development set."""

    alpha: float
    beta: float
    prior_weight: float
    wer: float
    cer: float


@dataclass
class Tuning:
    """All trials, in the order they were made; none if the model has learnt next to nothing.

    Attributes:
        trials: settings of α, β and the prior's weight, at the beam width that the model came with.
        greedy_wer: WER of greedy decoding.
        widths: beam width → score, with the best of the trials.
        hotword_weights: hotword weight → score at the chosen width; empty without hotwords.
    """

    trials: list[Trial]
    greedy_wer: float
    widths: dict[int, Score] = field(default_factory=dict)
    hotword_weights: dict[float, Score] = field(default_factory=dict)

    @property
    def best(self) -> Trial:
        """The trial of lowest WER, then CER, then smallest prior weight, then closest to the defaults.

        Of weights that are equal here the defaults are preferred, as the language model may help elsewhere.
        """
        usual = DecoderConfig()

        def order(t: Trial) -> tuple[float, ...]:
            return t.wer, t.cer, t.prior_weight, abs(t.alpha - usual.alpha), abs(t.beta - usual.beta)

        return min(self.trials, key=order)

    def to_json(self) -> dict[str, Any]:
        """The error rates of everything that was tried, as plain values."""
        return {
            "greedy_wer": self.greedy_wer,
            "trials": [asdict(t) for t in self.trials],
            "widths": {str(width): score.wer for width, score in self.widths.items()},
            "hotword_weights": {f"{weight:g}": score.wer for weight, score in self.hotword_weights.items()},
        }


class Emissions:
    """Log-probabilities of a set of utterances, computed once, and their reference texts."""

    def __init__(self, model: Recognizer, utterances: Sequence[Utterance]) -> None:
        self.model = model
        self.texts: list[str] = []
        self.batches: list[tuple[Tensor, Tensor]] = []
        sorted_by_length = sorted(utterances, key=lambda u: u.duration_s)
        with counting("listening", "utterances") as progress:
            for at in range(0, len(utterances), 16):
                self._hear(sorted_by_length[at : at + 16])
                progress(min(at + 16, len(utterances)), len(utterances))
        if not self.batches:
            raise ConfigError(f"none of the {len(utterances)} utterances can be read: tuning needs some")

    def _hear(self, utterances: Sequence[Utterance]) -> None:
        waves = []
        for utterance in utterances:
            wave = read_samples(utterance, self.model.rate_hz)
            if isinstance(wave, str):
                warn(f"{utterance.id} is not tuned on: {wave}")
                continue
            waves.append(wave)
            self.texts.append(normalise(utterance.text, self.model.style))
        if waves:
            self.batches.append(self.model.log_probs(waves))

    def prior(self) -> tuple[float, ...]:
        """The mean probability of each output over all frames (V,)."""
        frames_NV = torch.cat(
            [row[:n] for lp_BTV, n_B in self.batches for row, n in zip(lp_BTV, n_B, strict=True)]
        )
        return tuple(round(p, 7) for p in frames_NV.double().exp().mean(0).tolist())

    def score(self, **settings: object) -> Score:
        """The score of beam search (or, with `decoder="greedy"`, of the best path) with these settings."""
        how: dict[str, Any] = {"decoder": "beam", "judge": False} | settings
        found = [
            hypothesis.text(self.model.alphabet)
            for log_probs_BTV, lengths_B in self.batches
            for hypothesis in self.model.decode(log_probs_BTV, lengths_B, **how)
        ]
        return scoring.score(self.texts, found)

    def wrong_outputs(self) -> float:
        """The output error rate of the best path: edit distance over the number of reference outputs.

        Texts that the alphabet cannot spell are left out; 0 if none is left.
        """
        alphabet, wrong, right = self.model.alphabet, 0, 0
        heard = (h for lp_BTV, n_B in self.batches for h in greedy(lp_BTV, n_B))
        for text, hypothesis in zip(self.texts, heard, strict=True):
            if not alphabet.missing(text):
                spelled = alphabet.encode(text)
                wrong += Levenshtein.distance(hypothesis.tokens, tuple(spelled))
                right += len(spelled)
        return wrong / max(right, 1)


def tune(model: Recognizer, utterances: Sequence[Utterance], *, hotwords: Sequence[str] = ()) -> Tuning:
    """The best α, β, prior weight, beam width and, if there are hotwords, hotword weight.

    They are stored in the model's decoder settings, with the prior. Beam search becomes the model's decoder
    unless it is worse than greedy decoding on these utterances. A model that has learnt next to nothing, with
    flat posteriors and full beams, is not tuned; a warning says so.

    Raises:
        ConfigError: the model has no language model, or there are no utterances.
    """
    if model.lm is None or not utterances:
        raise ConfigError(f"{len(utterances)} utterances, language model {model.lm}: tuning needs both")
    emissions = Emissions(model, utterances)
    if not any(emissions.texts):
        raise ConfigError(f"nothing is said in the {len(utterances)} utterances: tuning needs texts")
    tuning = Tuning([], emissions.score(decoder="greedy").wer)
    if (share := emissions.wrong_outputs()) >= NOTHING_LEARNT:
        warn(
            f"the best path gets {share:.0%} of the outputs wrong on this set: the model has learnt next to "
            "nothing, so the decoder is not tuned, and decodes greedily"
        )
        model.decoder.name = "greedy"
        return tuning
    model.decoder.prior = emissions.prior()
    _search_weights(emissions, tuning)
    model.decoder.alpha, model.decoder.beta = tuning.best.alpha, tuning.best.beta
    model.decoder.prior_weight = tuning.best.prior_weight
    tuning.widths = _score_each(emissions, "beam_width", sorted({*_WIDTHS, model.decoder.beam_width}))
    model.decoder.beam_width = smallest_within_noise(tuning.widths)
    if hotwords:
        _search_hotword_weight(emissions, tuning, hotwords)
    beam_wer = tuning.widths[model.decoder.beam_width].wer
    model.decoder.name = "beam" if beam_wer <= tuning.greedy_wer else "greedy"
    return tuning


def _search_weights(emissions: Emissions, tuning: Tuning) -> None:
    """Search α, β and the prior's weight: a grid, then two refinements around the best."""
    tried: set[Point] = set()

    def explore(points: Iterable[Point], title: str) -> None:
        new = [p for p in dict.fromkeys(points) if p not in tried]
        tried.update(new)
        with counting(title, "settings") as progress:
            for n, p in enumerate(new, 1):
                score = emissions.score(**dict(zip(("alpha", "beta", "prior_weight"), p, strict=True)))
                tuning.trials.append(Trial(*p, score.wer, score.cer))
                progress(n, len(new))

    explore(product(_ALPHA, _BETA, _PRIOR_WEIGHT), "searching α, β and the prior's weight")
    for fraction in (1.0, 0.5):
        best, steps = tuning.best, [fraction * step for step in _STEPS]
        explore(_around((best.alpha, best.beta, best.prior_weight), steps), "refining")


def _score_each(
    emissions: Emissions, setting: str, values: Sequence[Any], **others: object
) -> dict[Any, Score]:
    """The score for each value of a setting."""
    scores = {}
    with counting(f"searching {setting.replace('_', ' ')}", "settings") as progress:
        for n, value in enumerate(values, 1):
            scores[value] = emissions.score(**{setting: value}, **others)
            progress(n, len(values))
    return scores


def smallest_within_noise(scores: Mapping[int, Score]) -> int:
    """The smallest width whose errors exceed those of the best by at most one standard error.

    It is the standard error of the sum of the utterances' differences d, if their mean is 0: √Σd².

    Source: Breiman et al. 1984, section 3.4.3 (the 1-SE rule).
    """
    best = min(scores, key=lambda width: (scores[width].errors, width))
    for width in sorted(scores):
        more_N = scores[width].errors_N - scores[best].errors_N
        if more_N.sum() <= math.sqrt((more_N**2).sum()):
            return width
    return best


def _search_hotword_weight(emissions: Emissions, tuning: Tuning, hotwords: Sequence[str]) -> None:
    """Store the hotword weight of lowest WER, the smallest of equals, in the decoder settings."""
    model = emissions.model
    phrases = [normalise(phrase, model.style) for phrase in hotwords]
    said = sum(f" {text} ".count(f" {phrase} ") for text in emissions.texts for phrase in phrases)
    if not said:
        warn("none of the hotwords is said on the development set, so their weight is left as it was")
        return
    tuning.hotword_weights = _score_each(emissions, "hotword_weight", _HOTWORD_WEIGHTS, hotwords=phrases)
    by_weight = tuning.hotword_weights
    model.decoder.hotword_weight = min(by_weight, key=lambda weight: (by_weight[weight].errors, weight))


def _around(centre: Point, steps: Sequence[float]) -> list[Point]:
    """The points one step away along each axis, and along α and β together."""
    a, b, w = centre
    moves = [(i, j, 0) for i, j in product((-1, 0, 1), repeat=2)] + [(0, 0, -1), (0, 0, 1)]
    points = [(a + i * steps[0], b + j * steps[1], w + k * steps[2]) for i, j, k in moves]
    return [(round(max(0.0, x), 4), round(y, 4), round(min(max(0.0, z), 1.0), 4)) for x, y, z in points]


def calibrate(model: Recognizer, utterances: Sequence[Utterance]) -> Calibration:
    """Fit the calibration of the model's confidences on these utterances, and store it in the model."""
    model.decoder.confidence_slope, model.decoder.confidence_bias = 1.0, 0.0
    confidences_W, right_W = judged_words(evaluate(model, list(utterances)).score)
    if not len(confidences_W):
        warn("the model wrote no word on the development set, so its confidences are not calibrated")
        return Calibration()
    calibration = fit(confidences_W, right_W)
    model.decoder.confidence_slope, model.decoder.confidence_bias = calibration.slope, calibration.bias
    return calibration


def plot(tuning: Tuning, path: Path) -> Path:
    """A PNG of the WER over α and β, at the prior's weight nearest to the best, and of the WER by width."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes, right = figure.subplots(1, 2, width_ratios=(3, 2))
    shown = [t for t in tuning.trials if t.prior_weight == _nearest_grid(tuning)]
    alpha, beta, wer = (np.array([getattr(t, k) for t in shown]) for k in ("alpha", "beta", "wer"))
    surface = axes.tricontourf(beta, alpha, 100 * wer, levels=12, cmap="viridis_r")
    axes.plot(beta, alpha, "k.", ms=3, label="tried")
    axes.plot(tuning.best.beta, tuning.best.alpha, "r*", ms=14, label=f"best: {tuning.best.wer:.2%}")
    figure.colorbar(surface, label="WER on the development set (%)")
    axes.set(xlabel="β, bonus of a word (nats)", ylabel="α, weight of the language model")
    axes.set_title(f"greedy without language model: {tuning.greedy_wer:.2%}")
    axes.legend(loc="upper right")
    widths, chosen = list(tuning.widths), smallest_within_noise(tuning.widths)
    right.plot(widths, [100 * s.wer for s in tuning.widths.values()], "k.-")
    right.plot(chosen, 100 * tuning.widths[chosen].wer, "r*", ms=14, label=f"chosen: {chosen}")
    right.set_xscale("log", base=2)
    right.set(xlabel="prefixes in the beam", ylabel="WER on the development set (%)")
    right.legend(loc="upper right")
    figure.savefig(path, dpi=120)
    return path


def tune_bundle(
    bundle: str,
    manifest: Path,
    *,
    lm: str | None = None,
    hotwords: Sequence[str] = (),
    picture: Path | None = None,
) -> None:
    """Tune a bundle on a manifest, print the result, and save the bundle with it.

    Args:
        bundle: its folder or file, which is rewritten.
        manifest: JSONL of the development set.
        lm: an ARPA file that becomes the bundle's language model; None keeps the present one.
        hotwords: words and phrases whose weight is searched too; only the weight is stored in the bundle.
        picture: PNG of the WER surface.
    """
    model = load(bundle)
    if model.runtime is not None:
        raise ConfigError(
            f"{bundle}: an exported model keeps its settings; tune the bundle and export it anew"
        )
    if lm is not None:
        model.lm = load_lm(lm)
        model.alphabet = model.alphabet.with_words(model.lm.known_words)
    utterances = read_manifest(manifest)
    check_ids(utterances, place=manifest)
    tuning = tune(model, utterances, hotwords=hotwords)
    if not tuning.trials:
        raise ConfigError(f"{bundle} is left as it was: nothing can be tuned on {manifest}")
    tell(tuning)
    calibrate(model, utterances)
    model.save(bundle)
    if picture is not None:
        say(f"surface {plot(tuning, picture)}")


def _nearest_grid(tuning: Tuning) -> float:
    """The prior weight of the grid that is nearest to the best one."""
    return min(_PRIOR_WEIGHT, key=lambda w: abs(w - tuning.best.prior_weight))


def tell(tuning: Tuning) -> None:
    """Print the result in a few lines."""
    if not tuning.trials:
        return
    best, width = tuning.best, smallest_within_noise(tuning.widths)
    weights = f"α = {best.alpha:g}, β = {best.beta:g}, the prior to the power of {best.prior_weight:g}"
    beam_wer = tuning.widths[width].wer
    say(f"greedy {tuning.greedy_wer:.2%}, beam of {width} {beam_wer:.2%} with {weights}")
    if beam_wer > tuning.greedy_wer:
        say("so the model decodes greedily")
    say("by width: " + ", ".join(f"{w} {score.wer:.2%}" for w, score in tuning.widths.items()))
    if tuning.hotword_weights:
        rates = (f"{w:g} {score.wer:.2%}" for w, score in tuning.hotword_weights.items())
        say("by weight of the hotwords: " + ", ".join(rates))
