"""Calibration of word confidences: of words with confidence 0.9, nine in ten should be correct.

A word's confidence c becomes σ(slope · logit(c) + bias). The slope is one over the temperature; the bias
corrects confidences that are all too high or too low. Both are fitted on a development set by maximum
likelihood, with a prior centred on no change that matters only for few words.

The expected calibration error is the mean distance between confidence and share of correct words in ten bins
of equal width, weighted by their words. It can be low even if every word has the same confidence; how well
confidences tell correct words from wrong ones is measured by the normalised cross-entropy.

Source: Platt 1999 (slope and bias); Guo et al. 2017, "On calibration of modern neural networks" (temperature,
expected calibration error); Siu et al. 1997, and NIST's sclite (normalised cross-entropy).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from asr.errors import ScoringError
from asr.scoring.word_errors import Score

BINS = 10
_LEAST = 1e-6
"""Confidences are kept this far from 0 and 1, whose logits are infinite."""
_PRIOR = 1.0
"""Weight of the prior: equivalent to a few words."""


@dataclass(frozen=True)
class Calibration:
    """Maps raw confidences to calibrated ones; without arguments it changes nothing.

    >>> float(Calibration(slope=0.5)(0.99).round(3))
    0.909
    """

    slope: float = 1.0
    bias: float = 0.0

    def __call__(self, confidences: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """Calibrated confidences, 0 … 1, of the same shape; float64."""
        return _sigmoid(self.slope * _logit(confidences) + self.bias)

    def to_json(self) -> dict[str, float]:
        """For the bundle: `Calibration(**fields)` reads it back."""
        return asdict(self)


@dataclass(frozen=True)
class Bin:
    """Words of similar confidence."""

    low: float
    high: float
    words: int
    confidence: float
    """Their mean confidence."""
    accuracy: float
    """The share of them that is correct."""


def judged_words(score: Score) -> tuple[np.ndarray, np.ndarray]:
    """Confidences of hypothesis words and whether each is correct: float64 (W,) and bool (W,)."""
    confidences: list[float] = []
    right: list[bool] = []
    for u in score.utterances:
        if u.confidences is not None:
            wrong = {j for kind, _, j in u.edits if kind != "delete"}
            confidences += u.confidences
            right += [j not in wrong for j in range(len(u.hypothesis))]
    return np.array(confidences, dtype=np.float64), np.array(right, dtype=bool)


def fit(confidences_W: np.ndarray, right_W: np.ndarray) -> Calibration:
    """The maximum likelihood calibration, regularised by the prior.

    Args:
        confidences_W: raw confidences of words, 0 … 1.
        right_W: bool, whether each is correct.

    Raises:
        ScoringError: no words.
    """
    if not len(confidences_W):
        raise ScoringError("no words with confidences to calibrate on")
    x_W, y_W = _logit(confidences_W), np.asarray(right_W, dtype=np.float64)
    design_WK = np.stack([x_W, np.ones_like(x_W)], axis=1)
    slope, bias = _most_likely(design_WK, y_W, prior_K=np.array([1.0, 0.0]))
    if slope < 0:  # higher confidence means more errors: fit only the overall share
        slope, (bias,) = 0.0, _most_likely(design_WK[:, 1:], y_W, prior_K=np.zeros(1))
    return Calibration(float(slope), float(bias))


def reliability(confidences_W: np.ndarray, right_W: np.ndarray) -> list[Bin]:
    """Words in ten bins of equal width by confidence; bins without words are left out."""
    place_W = np.minimum((np.asarray(confidences_W) * BINS).astype(int), BINS - 1)
    return [
        Bin(
            n / BINS,
            (n + 1) / BINS,
            int(inside_W.sum()),
            float(confidences_W[inside_W].mean()),
            float(right_W[inside_W].mean()),
        )
        for n in range(BINS)
        if (inside_W := place_W == n).any()
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance between confidence and accuracy over the words of the bins, 0 … 1."""
    words = sum(b.words for b in bins)
    return sum(b.words * abs(b.confidence - b.accuracy) for b in bins) / max(words, 1)


def normalised_cross_entropy(confidences_W: np.ndarray, right_W: np.ndarray) -> float | None:
    """The reduction of cross-entropy by the confidences, relative to that of the share of correct words.

    1 if they are perfect, 0 if they tell no more than that share does, negative if they mislead; None if all
    words are correct or all are wrong.

    >>> round(normalised_cross_entropy(np.array([0.9, 0.9, 0.1]), np.array([True, True, False])), 2)
    0.83
    """
    share = float(np.mean(right_W)) if len(right_W) else 0.0
    if not 0 < share < 1:
        return None
    sure_W = np.clip(confidences_W, _LEAST, 1 - _LEAST)
    told = -np.log(np.where(right_W, sure_W, 1 - sure_W)).mean()
    untold = -share * np.log(share) - (1 - share) * np.log1p(-share)
    return float(1 - told / untold)


def calibration_of(score: Score) -> tuple[float | None, float | None]:
    """Expected calibration error and normalised cross-entropy of a score; None without confidences."""
    confidences_W, right_W = judged_words(score)
    if not len(confidences_W):
        return None, None
    error = expected_calibration_error(reliability(confidences_W, right_W))
    return error, normalised_cross_entropy(confidences_W, right_W)


def _most_likely(design_WK: np.ndarray, y_W: np.ndarray, *, prior_K: np.ndarray) -> np.ndarray:
    """The weights that minimise the penalised logistic loss, which is convex."""
    from scipy.optimize import minimize

    def loss(weights_K: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient."""
        z_W, change_K = design_WK @ weights_K, weights_K - prior_K
        nats = np.logaddexp(0, z_W).sum() - y_W @ z_W + _PRIOR / 2 * (change_K**2).sum()
        return float(nats), design_WK.T @ (_sigmoid(z_W) - y_W) + _PRIOR * change_K

    return np.asarray(minimize(loss, prior_K, jac=True, method="BFGS", options={"gtol": 1e-8}).x)


def _logit(confidences: float | Sequence[float] | np.ndarray) -> np.ndarray:
    p = np.clip(np.asarray(confidences, dtype=np.float64), _LEAST, 1 - _LEAST)
    return np.log(p) - np.log1p(-p)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * z)))
