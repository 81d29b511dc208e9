"""Which differences are real: MAPSSWE as NIST computes it, McNemar, paired bootstrap, false alarms, ranks."""

import random

import numpy as np
import pytest
from scipy import stats

from asr.errors import ScoringError
from asr.scoring import Score, compare, score
from asr.scoring.significance import mcnemar, rank, segments

WORDS = [letter * 3 for letter in "abcdefghijklmnopqrstuvwxyz"]


def noisy(said: list[str], rate: float, rng: random.Random) -> list[str]:
    """What a system with about this error rate writes."""
    heard = []
    for place, word in enumerate(said):
        chance = rng.random()
        if chance < rate * 0.3:
            continue
        heard.append(rng.choice(WORDS) if chance < rate else word)
        if chance > 1 - rate * 0.3 and place < len(said) - 1:
            heard.append(rng.choice(WORDS))
    return heard


def two_systems(seed: int, count: int, rates: tuple[float, float]) -> tuple[Score, Score]:
    rng = random.Random(seed)
    said = [[rng.choice(WORDS) for _ in range(rng.randint(3, 20))] for _ in range(count)]
    heard = [[noisy(words, rate, rng) for words in said] for rate in rates]
    references = [" ".join(words) for words in said]
    a, b = (score(references, [" ".join(w) for w in h], alignment="sclite") for h in heard)
    return a, b


def test_segments_of_the_example_that_nist_published() -> None:
    # NIST's page on the test (2007), also in Jurafsky & Martin, "Speech and Language Processing", chapter on
    # recognition: four regions, with (errors of A, errors of B) as marked there.
    said = "it was the best of times it was the worst of times it was"
    a = score(said, "its the best of times it is the worst of times or it was", alignment="sclite")
    b = score(said, "it was the best times it won the test of times it was", alignment="sclite")
    assert segments(a.utterances[0], b.utterances[0]) == [(2, 0), (0, 1), (1, 2), (1, 0)]


@pytest.mark.parametrize(
    ("seed", "count", "segments", "mean", "deviation", "z"),
    [
        # What sc_stats 1.3 of Debian's sctk 2.4.10-20151007 prints for these texts after sclite
        # (`sc_stats -p -t mapsswe -v`); it takes the differences as A less B.
        (0, 100, 186, 0.333, 1.006, 4.518),
        (1, 300, 576, 0.123, 1.197, 2.471),
        (5, 40, 86, 0.384, 1.053, 3.378),
        (6, 40, 71, 0.437, 1.204, 3.056),
    ],
)
def test_matched_pairs_equal_what_nists_program_prints(
    seed: int, count: int, segments: int, mean: float, deviation: float, z: float
) -> None:
    found = compare(*two_systems(seed, count, (0.12, 0.09))).matched_pairs
    assert found.segments == segments
    assert -found.mean == pytest.approx(mean, abs=0.0005)
    assert -found.z == pytest.approx(z, abs=0.0005)
    assert found.mean * np.sqrt(segments) / found.z == pytest.approx(deviation, abs=0.0005)
    assert found.p == pytest.approx(2 * stats.t.sf(z, segments - 1), rel=0.01)


def test_equal_systems_do_not_differ() -> None:
    a, _ = two_systems(0, 20, (0.1, 0.1))
    found = compare(a, a)
    assert (found.difference, found.difference_interval, found.matched_pairs.p) == (0, (0, 0), 1)
    assert (found.mcnemar.p, found.is_significant, found.differing) == (1, False, [])


def test_differences_that_are_all_equal_are_judged_by_their_number() -> None:
    # As by the sign test: one segment says nothing, a hundred say much.
    def p(count: int) -> float:
        said = ["a b c"] * count
        return compare(score(said, said), score(said, ["a x c"] * count)).matched_pairs.p

    assert p(1) == 1
    assert p(5) == pytest.approx(stats.binomtest(5, 5).pvalue)
    assert p(100) == pytest.approx(stats.binomtest(100, 100).pvalue)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_few_segments_prove_little(count: int) -> None:
    # Equal systems: each segment's difference is drawn from −3 … 3; p < 0.05 in 6 % of cases or fewer.
    rng, alarms = np.random.default_rng(count), 0
    for _ in range(400):
        wrong = [[("x " * k + "c " * (3 - k)).strip() for k in rng.integers(0, 4, count)] for _ in range(2)]
        pair = [score(["c c c"] * count, heard) for heard in wrong]
        alarms += compare(*pair).matched_pairs.p < 0.05
    assert alarms / 400 <= 0.09


@pytest.mark.parametrize(("a", "b"), [(0, 0), (3, 0), (11, 23), (30, 30), (121, 59), (9000, 9400)])
def test_mcnemar_is_the_exact_binomial_test(a: int, b: int) -> None:
    expected = stats.binomtest(a, a + b).pvalue if a + b else 1.0
    assert mcnemar(a, b).p == pytest.approx(expected, rel=1e-6)


def test_mcnemar_counts_utterances_that_one_system_alone_has_right() -> None:
    said = ["a", "b", "c", "d", "e"]
    found = compare(score(said, ["a", "b", "c", "x", "x"]), score(said, ["a", "x", "x", "d", "x"])).mcnemar
    assert (found.only_a, found.only_b) == (2, 1)


def test_equal_systems_are_called_different_one_time_in_twenty() -> None:
    # Systems of equal quality on utterances of different difficulty; 120 trials, standard error 2 %.
    rng = np.random.default_rng(0)
    trials, alarms = 120, np.zeros(3)
    for _ in range(trials):
        difficulty_N = rng.beta(2, 12, 60)
        lengths_N = rng.integers(3, 15, 60)
        systems = []
        for _system in range(2):
            wrong = [rng.random(n) < p for n, p in zip(lengths_N, difficulty_N, strict=True)]
            systems.append([" ".join(np.where(w, "x", "a")) for w in wrong])
        said = [" ".join("a" * n) for n in lengths_N]
        found = compare(score(said, systems[0]), score(said, systems[1]))
        low, high = found.difference_interval or (0, 0)
        alarms += [found.matched_pairs.p < 0.05, not low <= 0 <= high, found.mcnemar.p < 0.05]
    matched_pairs, bootstrap, exact = alarms / trials
    assert 0.005 <= matched_pairs <= 0.11
    assert 0.005 <= bootstrap <= 0.11
    assert exact <= 0.1  # an exact test on counts keeps below its level


def test_a_real_difference_is_found_and_its_interval_holds_it() -> None:
    a, b = two_systems(3, 400, (0.20, 0.10))
    found = compare(a, b)
    low, high = found.difference_interval or (0, 0)
    assert found.is_significant and low <= found.difference <= high < 0
    assert found.difference == b.wer - a.wer
    # An independent paired bootstrap, without grouping utterances that look alike.
    picks = np.random.default_rng(1).integers(0, 400, (4000, 400))
    rates = [(s.errors_N[picks].sum(1) / s.words_N[picks].sum(1)) for s in (b, a)]
    assert (low, high) == pytest.approx(np.quantile(rates[0] - rates[1], [0.025, 0.975]), abs=0.004)


def test_references_with_alternatives_are_compared_each_on_its_own_wording() -> None:
    said = ["{ it is / it's } a b"] * 30 + ["a b c"] * 30
    a = score(said, ["it is a x"] * 30 + ["a b c"] * 30)
    b = score(said, ["it's a b"] * 30 + ["a x c"] * 30)
    found = compare(a, b)
    assert found.matched_pairs.segments == 60
    assert found.difference == pytest.approx(30 / 180 - 30 / 210)
    low, high = found.difference_interval or (0, 0)
    assert low < found.difference < high


def test_only_scores_of_the_same_utterances_are_compared() -> None:
    a = score(["a", "b"], ["a", "b"], ids=["u1", "u2"])
    with pytest.raises(ScoringError, match=r"only in A: 'u2'; only in B: 'u3'"):
        compare(a, score(["a", "b"], ["a", "b"], ids=["u1", "u3"]))
    with pytest.raises(ScoringError, match="made in different ways"):
        compare(a, score(["a", "b"], ["a", "b"], ids=["u1", "u2"], style="basic"))
    a = score(["a b", "{ c / d }"], ["a b", "c"])
    for b in (score(["a", "{ c / d }"], ["a", "d"]), score(["a x", "d"], ["a", "d"])):
        with pytest.raises(ScoringError, match=r"utterance '1' has .* 'a b' in A, 'a( x)?' in B"):
            compare(a, b)
        with pytest.raises(ScoringError, match="the same utterances"):
            rank({"a": a, "b": b})
    assert compare(a, score(["a b", "{ c / d }"], ["a", "d"])).difference == pytest.approx(1 / 3)


def test_differing_utterances_come_with_the_largest_difference_first() -> None:
    said = ["a b c", "d e f", "g"]
    found = compare(score(said, ["a b c", "x y z", "x"]), score(said, ["a x c", "d e f", "x"]))
    assert [(a.id, a.errors, b.errors) for a, b in found.differing] == [("2", 3, 0), ("1", 0, 1)]


def test_a_ranking_says_which_differences_are_real() -> None:
    good, bad = two_systems(4, 300, (0.05, 0.25))
    references = [" ".join(u.reference) for u in good.utterances]
    rng = random.Random(9)
    same = [" ".join(noisy(list(u.reference), 0.05, rng)) for u in good.utterances]
    ranking = rank({"bad": bad, "good": good, "same": score(references, same, alignment="sclite")})
    assert [r.name for r in ranking][2] == "bad"
    assert [r.better_than for r in ranking] == [("bad",), ("bad",), ()]
    assert [r.rank for r in ranking] == [1, 2, 3]


def test_many_equal_systems_are_not_told_apart_by_chance() -> None:
    # 8 systems make 28 pairs: one of them would differ at 5 % by chance; corrected for that, hardly any.
    rng = random.Random(2)
    said = [[rng.choice(WORDS) for _ in range(10)] for _ in range(100)]
    references = [" ".join(words) for words in said]
    systems = {str(n): score(references, [" ".join(noisy(w, 0.1, rng)) for w in said]) for n in range(8)}
    assert sum(len(r.better_than) for r in rank(systems)) == 0


def test_numbers_travel_as_json() -> None:
    import json

    found = json.loads(json.dumps(compare(*two_systems(5, 40, (0.12, 0.09))).to_json()))
    assert found["matched_pairs"]["segments"] == 86
    assert {"a", "b", "difference", "difference_interval", "significant", "mcnemar"} <= set(found)
