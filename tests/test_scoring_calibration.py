"""Confidences against the share of words that are right."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from asr.errors import ScoringError
from asr.scoring import score
from asr.scoring.calibration import (
    Calibration,
    expected_calibration_error,
    fit,
    judged_words,
    normalised_cross_entropy,
    reliability,
)


def too_sure(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences whose true probabilities are σ(0.4 · logit(c) − 0.3), and words right or wrong by them."""
    rng = np.random.default_rng(seed)
    raw_W = rng.beta(6, 1, count)
    return raw_W, rng.random(count) < expit(0.4 * logit(raw_W) - 0.3)


def test_the_calibration_behind_the_data_is_found() -> None:
    found = fit(*too_sure(50_000, seed=0))
    assert (found.slope, found.bias) == (pytest.approx(0.4, abs=0.02), pytest.approx(-0.3, abs=0.05))


def test_the_fit_is_what_a_general_optimiser_finds() -> None:
    raw_W, right_W = too_sure(200, seed=1)

    def loss(weights: np.ndarray) -> float:
        p_W = expit(weights[0] * logit(raw_W) + weights[1])
        likelihood = np.where(right_W, np.log(p_W), np.log1p(-p_W)).sum()
        return float(-likelihood + 0.5 * ((weights[0] - 1) ** 2 + weights[1] ** 2))

    expected = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}).x
    found = fit(raw_W, right_W)
    assert [found.slope, found.bias] == pytest.approx(expected, abs=1e-5)


def test_words_said_to_be_nine_tenths_sure_are_right_nine_times_of_ten_elsewhere() -> None:
    calibration = fit(*too_sure(5_000, seed=2))
    raw_W, right_W = too_sure(100_000, seed=3)
    sure_W = calibration(raw_W)
    near_W = np.abs(sure_W - 0.9) < 0.03
    assert right_W[near_W].mean() == pytest.approx(0.9, abs=0.025)
    assert np.abs(right_W[np.abs(raw_W - 0.9) < 0.03].mean() - 0.9) > 0.2
    errors = [expected_calibration_error(reliability(c, right_W)) for c in (raw_W, sure_W)]
    assert errors[0] > 0.2 and errors[1] < 0.02


@pytest.mark.parametrize(("confidence", "is_right"), [(1.0, True), (0.0, False), (1.0, False), (0.7, True)])
def test_extreme_and_few_words_leave_finite_numbers(confidence: float, is_right: bool) -> None:
    found = fit(np.full(3, confidence), np.full(3, is_right))
    assert np.isfinite([found.slope, found.bias]).all()
    assert 0 <= found(confidence) <= 1


def test_confidences_that_mislead_are_replaced_by_the_overall_share() -> None:
    raw_W = np.repeat([0.1, 0.9], 500)
    found = fit(raw_W, np.repeat([True, False], 500))
    assert found.slope == 0 and found(raw_W) == pytest.approx(np.full(1000, 0.5), abs=0.01)


def test_without_a_fit_nothing_changes_and_json_brings_it_back() -> None:
    raw_W = np.array([0.01, 0.5, 0.999])
    assert Calibration()(raw_W) == pytest.approx(raw_W)
    assert Calibration(**Calibration(0.5, -0.1).to_json()) == Calibration(0.5, -0.1)


def test_words_are_right_if_the_alignment_matches_them() -> None:
    found = score(["a b c", "d", "e"], ["a x c y", "", "e"], confidences=[[0.9, 0.2, 0.8, 0.1], [], None])
    confidences_W, right_W = judged_words(found)
    assert confidences_W.tolist() == [0.9, 0.2, 0.8, 0.1]
    assert right_W.tolist() == [True, False, True, False]


def test_the_normalised_cross_entropy_is_that_of_sclite() -> None:
    confidences_W, right_W = np.array([0.95, 0.8, 0.3, 0.6, 0.9]), np.array([True, True, False, False, True])
    most = -3 * np.log2(3 / 5) - 2 * np.log2(2 / 5)
    told = np.log2([0.95, 0.8, 0.9]).sum() + np.log2([0.7, 0.4]).sum()
    assert normalised_cross_entropy(confidences_W, right_W) == pytest.approx((most + told) / most)


def test_confidences_that_say_nothing_tell_nothing_and_those_that_know_all() -> None:
    right_W = np.array([True, True, True, False])
    assert normalised_cross_entropy(np.full(4, 0.75), right_W) == pytest.approx(0)
    assert normalised_cross_entropy(right_W.astype(float), right_W) == pytest.approx(1, abs=1e-5)
    misled = normalised_cross_entropy(1.0 - right_W, right_W)
    assert misled is not None and misled < -1
    assert normalised_cross_entropy(np.ones(3), np.ones(3, bool)) is None
    assert normalised_cross_entropy(np.zeros(0), np.zeros(0, bool)) is None


def test_the_calibration_error_is_the_distance_in_each_bin() -> None:
    # Ten words at 0.95 of which eight are right, ten at 0.35 of which five are: (0.15 + 0.15) / 2.
    bins = reliability(np.repeat([0.95, 0.35], 10), np.array([True] * 8 + [False] * 2 + [True, False] * 5))
    assert [(b.low, b.high, b.words) for b in bins] == [(0.3, 0.4, 10), (0.9, 1.0, 10)]
    assert expected_calibration_error(bins) == pytest.approx(0.15)
    assert expected_calibration_error([]) == 0


def test_nothing_to_calibrate_on_is_refused() -> None:
    with pytest.raises(ScoringError, match="no words with confidences"):
        fit(*judged_words(score("a", "a")))
