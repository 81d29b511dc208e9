"""`asr tune`: decoder settings searched on the development set, whose log-probabilities are computed once."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from asr.corpus.folder import read_all
from asr.corpus.manifest import Utterance, check_ids
from asr.errors import ConfigError
from asr.jobs.console import counting, say, warn
from asr.jobs.emissions import Emissions
from asr.jobs.evaluate import evaluate
from asr.lm import RecurrentModel
from asr.recognizer import DecoderConfig, Recognizer
from asr.scoring import Score
from asr.scoring.calibration import Calibration, fit, judged_words
from asr.text import normalise

_ALPHA = (0.0, 0.3, 0.6, 0.9, 1.2)
_BETA = (-2.0, -1.0, 0.0, 1.0, 2.0)
_PRIOR_WEIGHT = (0.0, 0.4)
_STEPS = (0.15, 0.5, 0.2)
"""Step sizes of α, β and the prior's weight for refining the best point of the grid above."""

_WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024)
_RESCORE_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_RESCORE = 30  # hypotheses, where the bundle does not say
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
    errors_N: np.ndarray = field(repr=False, compare=False)
    """Of each utterance."""


@dataclass
class Tuning:
    """All trials, in the order they were made; none if the model has learnt next to nothing.

    Attributes:
        trials: settings of α, β and the prior's weight, at the beam width that the model came with.
        greedy_wer: WER of greedy decoding.
        widths: beam width → score, with the best of the trials.
        hotword_weights: hotword weight → score at the chosen width; empty without hotwords.
        rescore_shares: share of the recurrent language model → score at the chosen width; empty without one.
        failed: utterances that could not be read.
    """

    trials: list[Trial]
    greedy_wer: float
    widths: dict[int, Score] = field(default_factory=dict)
    hotword_weights: dict[float, Score] = field(default_factory=dict)
    rescore_shares: dict[float, Score] = field(default_factory=dict)
    failed: int = 0

    @property
    def best(self) -> Trial:
        """The trial of lowest WER, then CER, then smallest prior weight, then closest to the defaults.

        Of weights that are equal here the defaults are preferred, as the language model may help elsewhere.
        For the same reason the prior is used only if the best without it is worse by more than noise, or than
        greedy decoding.
        """
        usual = DecoderConfig()

        def order(t: Trial) -> tuple[float, ...]:
            return t.wer, t.cer, t.prior_weight, abs(t.alpha - usual.alpha), abs(t.beta - usual.beta)

        best = min(self.trials, key=order)
        plain = min((t for t in self.trials if t.prior_weight == 0), key=order, default=best)
        is_useful = plain.wer <= max(best.wer, self.greedy_wer)
        return plain if is_useful and within_noise(plain.errors_N, best.errors_N) else best

    @property
    def beam_wer(self) -> float:
        """WER of the beam at the chosen width, rescored if that helps."""
        chosen = self.widths[smallest_within_noise(self.widths)]
        return min(score.wer for score in (chosen, *self.rescore_shares.values()))

    def to_json(self) -> dict[str, Any]:
        """The error rates of everything that was tried, as plain values."""
        return {
            "greedy_wer": self.greedy_wer,
            "trials": [{k: v for k, v in asdict(t).items() if k != "errors_N"} for t in self.trials],
            "widths": {str(width): score.wer for width, score in self.widths.items()},
            "hotword_weights": {f"{weight:g}": score.wer for weight, score in self.hotword_weights.items()},
            "rescore_shares": {f"{share:g}": score.wer for share, score in self.rescore_shares.items()},
        }


def tune(model: Recognizer, utterances: Sequence[Utterance], *, hotwords: Sequence[str] = ()) -> Tuning:
    """The best α, β, prior weight and beam width; share of the recurrent model, and hotword weight, if any.

    They are stored in the model's decoder settings, with the prior. Beam search becomes the model's decoder
    unless it is worse than greedy decoding on these utterances. A model that has learnt next to nothing, with
    flat posteriors and full beams, is not tuned; a warning says so.

    Raises:
        ConfigError: the model has no language model, or there are no utterances.
    """
    if not utterances:
        raise ConfigError("there are no utterances: tuning needs some")
    if model.lm is None:
        raise ConfigError("the model has no language model: tuning needs one")
    emissions = Emissions(model, utterances)
    if not any(emissions.texts):
        raise ConfigError(f"nothing is said in the {len(utterances)} utterances: tuning needs texts")
    unread = len(utterances) - len(emissions.texts)
    tuning = Tuning([], emissions.score(decoder="greedy").wer, failed=unread)
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
    if model.rescorer is not None:
        _search_rescore_share(emissions, tuning, model.rescorer)
    if hotwords:
        _search_hotword_weight(emissions, tuning, hotwords)
    model.decoder.name = "beam" if tuning.beam_wer <= tuning.greedy_wer else "greedy"
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
                tuning.trials.append(Trial(*p, score.wer, score.cer, score.errors_N))
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


def within_noise(errors_N: np.ndarray, best_N: np.ndarray) -> bool:
    """Whether the errors of the utterances exceed those of the best setting by at most one standard error.

    It is the standard error of the sum of the utterances' differences d, if their mean is 0: √Σd².

    Source: Breiman et al. 1984, section 3.4.3 (the 1-SE rule).
    """
    more_N = errors_N - best_N
    return bool(more_N.sum() <= math.sqrt((more_N**2).sum()))


def smallest_within_noise(scores: Mapping[int, Score]) -> int:
    """The smallest width whose errors are within noise of those of the best."""
    best = min(scores, key=lambda width: (scores[width].errors, width))
    return next(w for w in sorted(scores) if within_noise(scores[w].errors_N, scores[best].errors_N))


def _search_rescore_share(emissions: Emissions, tuning: Tuning, rescorer: RecurrentModel) -> None:
    """Store the rescorer's share of lowest WER, the smallest of equals; without a gain drop the rescorer."""
    model, shares = emissions.model, _RESCORE_SHARES
    model.decoder.rescore = model.decoder.rescore or _RESCORE
    found = emissions.rescored(rescorer, shares, model.decoder.rescore)
    tuning.rescore_shares = dict(zip(shares, found, strict=True))
    best = min(shares, key=lambda share: (tuning.rescore_shares[share].errors, share))
    model.decoder.rescore_share = best
    if best == 0:
        warn("the recurrent language model recognises no better on the development set, so it is left out")
        model.rescorer, model.decoder.rescore = None, 0


def _search_hotword_weight(emissions: Emissions, tuning: Tuning, hotwords: Sequence[str]) -> None:
    """Store the hotword weight of lowest WER, of equals that nearest to the present one, in the settings."""
    model = emissions.model
    phrases = [normalise(phrase, model.style) for phrase in hotwords]
    texts, said = ([f" {model.alphabet.separate(t)} " for t in ts] for ts in (emissions.texts, phrases))
    if not any(phrase in text for text in texts for phrase in said):
        warn("none of the hotwords is said on the development set, so their weight is left as it was")
        return
    tuning.hotword_weights = _score_each(emissions, "hotword_weight", _HOTWORD_WEIGHTS, hotwords=phrases)
    by_weight, now = tuning.hotword_weights, model.decoder.hotword_weight
    model.decoder.hotword_weight = min(by_weight, key=lambda w: (by_weight[w].errors, abs(w - now)))


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
    nearest = min(_PRIOR_WEIGHT, key=lambda weight: abs(weight - tuning.best.prior_weight))
    shown = [t for t in tuning.trials if t.prior_weight == nearest]
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
    model: Recognizer,
    manifest: Path,
    *,
    bundle: str | Path,
    rescorer: Path | None = None,
    hotwords: Sequence[str] = (),
    picture: Path | None = None,
) -> int:
    """Tune a bundle on a manifest, print the result, and save the bundle with it.

    Returns:
        How many utterances could not be read, and so were not tuned on.

    Args:
        model: the loaded bundle, perhaps with another language model.
        manifest: the development set: a manifest, table or folder of recordings with their texts.
        bundle: its folder or file, which is rewritten.
        rescorer: a recurrent model that rescores from now on; None keeps the present one.
        hotwords: words and phrases whose weight is searched too; only the weight is stored in the bundle.
        picture: PNG of the WER surface.
    """
    if model.runtime is not None:
        raise ConfigError(
            f"{bundle}: an exported model keeps its settings; tune the bundle and export it anew"
        )
    if rescorer is not None:
        if model.streams:
            raise ConfigError(f"{bundle}: a model that streams is not rescored: what it has written is final")
        model.rescorer = RecurrentModel.load(rescorer)
    utterances = read_all(manifest)
    check_ids(utterances, place=manifest)
    tuning = tune(model, utterances, hotwords=hotwords)
    if not tuning.trials:
        raise ConfigError(f"{bundle} is left as it was: nothing can be tuned on {manifest}")
    tell(tuning)
    calibrate(model, utterances)
    say(f"bundle  {model.save(bundle)}")
    if picture is not None:
        say(f"surface {plot(tuning, picture)}")
    return tuning.failed


def tell(tuning: Tuning) -> None:
    """Print the result in a few lines."""
    if not tuning.trials:
        return
    best, width = tuning.best, smallest_within_noise(tuning.widths)
    weights = f"α = {best.alpha:g}, β = {best.beta:g}, the prior to the power of {best.prior_weight:g}"
    beam_wer = tuning.widths[width].wer
    say(f"greedy {tuning.greedy_wer:.2%}, beam of {width} {beam_wer:.2%} with {weights}")
    if tuning.beam_wer > tuning.greedy_wer:
        say("so the model decodes greedily")
    searched: dict[str, Mapping[Any, Score]] = {
        "width": tuning.widths,
        "share of the LSTM in the probability of a word": tuning.rescore_shares,
        "weight of the hotwords": tuning.hotword_weights,
    }
    for setting, scores in searched.items():
        if scores:
            say(f"by {setting}: " + ", ".join(f"{value:g} {s.wer:.2%}" for value, s in scores.items()))
