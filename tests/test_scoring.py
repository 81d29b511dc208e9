"""Word errors: NIST's sclite on tricky pairs, jiwer on random ones, conventions, intervals."""

import random
from itertools import product

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from asr.errors import ScoringError
from asr.scoring import Score, alignment, score
from asr.scoring.alignment import GAP, SUBSTITUTION, aligner, print_alignment
from asr.scoring.alternatives import parse
from asr.scoring.styles import word_splitter

# Reference, hypothesis, (correct, substitutions, deletions, insertions) and why. Each was reasoned out first
# and then seen to be what sclite 2.4.10 (Debian sctk 2.4.10-20151007) prints with `-i spu_id -o pralign`.
TRICKY = [
    ("a b", "a b", (2, 0, 0, 0), "equal"),
    ("the cat sat", "the cat sat down", (3, 0, 0, 1), "a word more at the end"),
    ("the cat sat", "cat sat", (2, 0, 1, 0), "a word less at the beginning"),
    ("the cat sat", "", (0, 0, 3, 0), "nothing heard: all is deleted"),
    ("a b", "b a", (1, 0, 1, 1), "a swap: two substitutions cost 8, but to keep one word 3 + 3"),
    ("a b", "b c", (1, 0, 1, 1), "a shift by one: again 6 against 8"),
    ("a b c d", "c d a b", (2, 0, 2, 2), "a shift by two: 12 against 4 · 4"),
    ("x y z A B", "A B u v w", (2, 0, 3, 3), "6 gaps cost 18, 5 substitutions 20: more errors, but cheaper"),
    ("a b c", "c x y", (0, 3, 0, 0), "4 gaps cost 12, 3 substitutions too: substitutions come first"),
    ("a b c", "x c y", (1, 1, 1, 1), "keeping c: 4 + 3 + 3 against 12"),
    ("a a a b", "a b", (2, 0, 2, 0), "repeated words are matched from the end"),
    ("a b a b", "b a b a", (3, 0, 1, 1), "three of four are kept by a shift"),
    ("a b c d e", "v w a x y", (0, 5, 0, 0), "keeping a takes 8 gaps (24): five substitutions are cheaper"),
    ("one two three four five", "one three two four six five", (4, 0, 1, 2), "a swap and a word more"),
    ("don't", "dont", (0, 1, 0, 0), "an apostrophe makes another word"),
    ("{ uh / @ } yes", "yes", (1, 0, 0, 0), "an optional word that was not said is no word of the reference"),
    ("{ uh / @ } yes", "uh yes", (2, 0, 0, 0), "… and counts where it was"),
    ("{ uh / @ } yes", "um yes", (1, 0, 0, 1), "the empty wording with an insertion costs 3, uh for um 4"),
    ("{ it is / it's } fine", "it's fine", (2, 0, 0, 0), "either wording is right"),
    ("{ it is / it's } fine", "it is fine", (3, 0, 0, 0), "… and gives the number of words"),
    ("{ it is / it's } fine", "its fine", (1, 1, 0, 0), "one substitution beats a substitution and a gap"),
    ("{ a / b }", "", (0, 0, 1, 0), "nothing heard of a choice"),
    ("{ a b / c }", "", (0, 0, 1, 0), "the shorter wording loses less"),
    ("{ { a / b } c / d } e", "b c e", (3, 0, 0, 0), "alternatives within alternatives"),
]


def counts(found: Score) -> tuple[int, int, int, int]:
    return found.correct, found.substitutions, found.deletions, found.insertions


@pytest.mark.parametrize(("reference", "hypothesis", "expected", "why"), TRICKY)
def test_sclite_alignment_counts_what_sclite_counts(
    reference: str, hypothesis: str, expected: tuple[int, int, int, int], why: str
) -> None:
    assert counts(score(reference, hypothesis, alignment="sclite")) == expected, why


def test_minimal_alignment_finds_the_same_rate_on_all_tricky_pairs_but_the_one_where_sclite_makes_more() -> (
    None
):
    differing = [
        reference
        for reference, hypothesis, (_, *errors), _ in TRICKY
        if score(reference, hypothesis).errors != sum(errors)
    ]
    assert differing == ["x y z A B"]


def noisy_pairs(count: int, *, seed: int, letters: str = "abcdefgh") -> tuple[list[str], list[str]]:
    rng = random.Random(seed)
    references, hypotheses = [], []
    for _ in range(count):
        said = [rng.choice(letters) * rng.randint(1, 3) for _ in range(rng.randint(1, 12))]
        heard = [rng.choice(letters) if rng.random() < 0.2 else w for w in said if rng.random() < 0.9]
        heard += [rng.choice(letters)] * (rng.random() < 0.2)
        references.append(" ".join(said))
        hypotheses.append(" ".join(heard))
    return references, hypotheses


def test_counts_and_rates_equal_jiwer_on_random_pairs() -> None:
    references, hypotheses = noisy_pairs(400, seed=1)
    ours, theirs = score(references, hypotheses), jiwer.process_words(references, hypotheses)
    assert counts(ours) == (theirs.hits, theirs.substitutions, theirs.deletions, theirs.insertions)
    assert ours.wer == pytest.approx(theirs.wer)
    assert ours.cer == pytest.approx(jiwer.cer(references, hypotheses))
    for n, u in enumerate(ours.utterances):
        one = jiwer.process_words(references[n], hypotheses[n])
        assert (u.substitutions, u.deletions, u.insertions) == (
            one.substitutions,
            one.deletions,
            one.insertions,
        )


words = st.lists(st.sampled_from(["a", "b", "c", "à", "世"]), max_size=7).map(" ".join)


@settings(max_examples=100)
@given(words, words, st.sampled_from(["minimal", "sclite"]))
def test_alignments_rebuild_both_sides_and_insertions_less_deletions_are_the_difference_in_length(
    reference: str, hypothesis: str, kind: str
) -> None:
    found = score(reference, hypothesis, alignment=kind)  # type: ignore[arg-type]
    pairs = found.utterances[0].pairs()
    assert " ".join(said for said, _ in pairs if said is not None) == reference
    assert " ".join(heard for _, heard in pairs if heard is not None) == hypothesis
    assert found.errors == sum(said != heard for said, heard in pairs)
    assert found.insertions - found.deletions == len(hypothesis.split()) - len(reference.split())
    assert (found.wer == 0) == (reference == hypothesis)


@settings(max_examples=100)
@given(words, words)
def test_sclite_alignment_costs_what_the_full_table_says(reference: str, hypothesis: str) -> None:
    said, heard = reference.split(), hypothesis.split()
    table = np.zeros((len(said) + 1, len(heard) + 1), dtype=int)
    table[:, 0], table[0] = 3 * np.arange(len(said) + 1), 3 * np.arange(len(heard) + 1)
    for i, a in enumerate(said):
        for j, b in enumerate(heard):
            table[i + 1, j + 1] = min(table[i, j] + 4 * (a != b), table[i, j + 1] + 3, table[i + 1, j] + 3)
    found = score(reference, hypothesis, alignment="sclite")
    assert 3 * found.errors + found.substitutions == table[-1, -1]


def test_long_utterances_are_aligned_by_sclite_as_short_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pairs = [
        [[str(w) for w in rng.integers(0, rng.integers(1, 9), rng.integers(0, 25))] for _ in range(2)]
        for _ in range(300)
    ]
    short = [aligner("sclite")(*pair) for pair in pairs]
    monkeypatch.setattr(alignment, "_FEW_CELLS", -1)
    assert [aligner("sclite")(*pair) for pair in pairs] == short
    monkeypatch.undo()
    said = [str(w) for w in rng.integers(0, 1000, 1500)]
    heard = ["x" if rng.random() < 0.2 else w for w in said if rng.random() > 0.2]
    edits = aligner("sclite")(said, heard)
    cost = sum(SUBSTITUTION if kind == "replace" else GAP for kind, _, _ in edits)
    assert cost == Levenshtein.distance(said, heard, weights=(GAP, GAP, SUBSTITUTION))


def test_an_empty_reference_adds_errors_and_no_words() -> None:
    found = score(["", "a b"], ["x y z", "a b"])
    assert counts(found) == (2, 0, 0, 3)
    assert (found.words, found.wer, found.ser) == (2, 1.5, 0.5)
    alone = score("", "x y")
    assert alone.wer == 2  # divided by 1, as jiwer does
    assert alone.wer == jiwer.process_words([""], ["x y"]).wer
    assert score("", "").wer == score("", "").cer == score("", "").ser == 0


def test_an_empty_hypothesis_deletes_every_word() -> None:
    assert counts(score("a b c", "")) == (0, 0, 3, 0)
    assert score("a b c", "").cer == 1


def test_the_best_of_a_million_million_wordings_is_found() -> None:
    places, heard = " ".join("{ a b / c }" for _ in range(40)), " ".join(["c", "a b"] * 20)
    assert score(places, heard).errors == 0
    assert score(places, heard.replace("c", "x")).substitutions == 20


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["a", "{ a / b }", "{ b c / @ }", "{ { a / c } b / c }"]), max_size=5), words)
def test_the_chosen_wording_is_the_best_of_all(places: list[str], heard: str) -> None:
    wordings = {
        "a": ["a"],
        "{ a / b }": ["a", "b"],
        "{ b c / @ }": ["b c", ""],
        "{ { a / c } b / c }": ["a b", "c b", "c"],
    }
    every = [score(" ".join(choice), heard).errors for choice in product(*(wordings[p] for p in places))]
    assert score(" ".join(places), heard).errors == min(every)


def test_braces_without_alternatives_are_text() -> None:
    assert score("{ a } b", "{ a } b").errors == 0
    assert score("{a/b} {", "{a/b} {").words == 2
    assert parse("x { / y", lambda text: tuple(text.split())) == [[("x", "{", "/", "y")]]


def test_alternatives_nested_beyond_counting_are_refused() -> None:
    with pytest.raises(ScoringError, match="more than 4096 wordings"):
        score("{ " + "{ a / b } " * 13 + "/ c }", "c")


def test_alternatives_nested_too_deep_are_refused() -> None:
    nested = ["{ " * depth + "a" + " / b }" * depth for depth in (100, 101, 1500)]
    assert score(nested[0], "a").errors == 0
    for text in nested[1:]:
        with pytest.raises(ScoringError, match="nested deeper than 100"):
            score(text, "a")


def test_alternatives_are_normalised_like_the_rest() -> None:
    assert score("{ Um, / @ } YES!", "yes", style="basic").errors == 0
    assert score("{ It's / IT IS } fine.", "it is fine", style="basic").errors == 0


def test_normalisation_is_applied_to_both_sides() -> None:
    assert score("Don’t stop, NOW!", "don't stop now", style="basic").errors == 0
    assert score("Don't stop", "don't stop").errors == 1
    assert score("cafe\u0301", "caf\u00e9").errors == 0, "NFC even without normalisation"


def test_english_spells_numbers_and_contractions_one_way() -> None:
    pytest.importorskip("whisper_normalizer", reason="needs whisper-normalizer")
    split = word_splitter("english")
    assert split("I'm twenty-one, Mr. Brown!") == split("i am 21 mister brown")
    assert (
        score("the colour of one hundred and five things", "the color of 105 things", style="english").wer
        == 0
    )
    assert score("won't you, um, go?", "will not you go", style="english").wer == 0


def test_a_missing_english_normaliser_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from asr.scoring import styles

    styles._english.cache_clear()
    monkeypatch.setitem(sys.modules, "whisper_normalizer", None)
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(ScoringError, match="pip install whisper-normalizer"):
        score("a", "a", style="english")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hypotheses": ["a"]}, "2 references but 1 hypotheses"),
        ({"ids": ["u", "u"]}, "'u'"),
        ({"hypotheses": ["a", None]}, "utterance '2': 'b' and None: expected two texts"),
        ({"ids": ["u"]}, "1 ids"),
        ({"speakers": ["s"]}, "1 speakers"),
        ({"confidences": [[0.5, 0.5], [0.5]]}, "utterance '1': 2 confidences, 1 words"),
        ({"confidences": [[1.5], [0.5]]}, "values from 0 to 1"),
        ({"style": "latin"}, "expected one of none, basic"),
        ({"alignment": "best"}, "expected one of minimal, sclite"),
    ],
)
def test_what_does_not_belong_together_is_refused(settings: dict[str, object], message: str) -> None:
    arguments = {"references": ["a", "b"], "hypotheses": ["a", "b"], **settings}
    with pytest.raises(ScoringError, match=message):
        score(**arguments)  # type: ignore[arg-type]


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ScoringError, match="at least one utterance"):
        score([], [])


def test_alignments_are_printed_as_sclite_prints_them() -> None:
    # The lines that sclite 2.4.10 prints for this pair (without its trailing blanks).
    found = score("one two three four five", "one three two four six five", alignment="sclite")
    assert print_alignment(found.utterances[0]) == "\n".join(
        [
            "id: (1)",
            "Scores: (#C #S #D #I) 4 0 1 2",
            "REF:  one TWO three *** four *** five",
            "HYP:  one *** three TWO four SIX five",
            "Eval:     D         I        I",
        ]
    )


def test_long_alignments_are_folded_and_wide_characters_stay_in_their_columns() -> None:
    text = print_alignment(score("世 b " * 30, "x b " * 30).utterances[0], width=60)
    lines = text.splitlines()[2:]
    assert [line.split(":")[0] for line in lines[:6]] == ["REF", "HYP", "Eval", ">> REF", ">> HYP", ">> Eval"]
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("REF:  世 B"[:8]) and lines[1].startswith("HYP:  X  b")


def test_the_interval_of_independent_words_is_the_binomial_one() -> None:
    # One word an utterance, 200 of 1000 wrong: standard error √(.2·.8/1000) = 0.01265.
    references, hypotheses = ["a"] * 1000, ["b"] * 200 + ["a"] * 800
    low, high = score(references, hypotheses).wer_interval or (0, 0)
    assert low == pytest.approx(0.2 - 1.96 * 0.01265, abs=0.0015)
    assert high == pytest.approx(0.2 + 1.96 * 0.01265, abs=0.0015)


def test_intervals_resample_speakers_when_enough_are_known() -> None:
    # Every speaker is all right or all wrong: 10 independent values, however many utterances there are.
    references = ["a"] * 1000
    hypotheses = ["b" if n % 10 < 5 else "a" for n in range(1000)]
    alone = score(references, hypotheses)
    blocked = score(references, hypotheses, speakers=[str(n % 10) for n in range(1000)])
    few = score(references, hypotheses, speakers=[str(n % 4) for n in range(1000)])
    assert (alone.interval_by, blocked.interval_by, few.interval_by) == ("utterance", "speaker", "utterance")
    width = [np.diff(s.wer_interval or ())[0] for s in (alone, blocked)]
    assert width[0] == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 1000), rel=0.05)
    assert width[1] == pytest.approx(2 * 2.262 * np.sqrt(0.25 / 9), rel=0.15)  # t with 9 degrees of freedom
    assert "95%-speaker-bootstrap" in blocked.signature


def test_one_utterance_has_no_interval() -> None:
    assert score("a b", "a").wer_interval is None


def test_a_set_without_errors_is_not_taken_for_a_system_without_errors() -> None:
    # 60 independent words come out right with probability (1 − p)^60 = 0.025 at the upper end.
    low, high = score(["a b c"] * 20, ["a b c"] * 20).wer_interval or (1, 1)
    assert (low, (1 - high) ** 60) == (0, pytest.approx(0.025))


@pytest.mark.parametrize("units", [8, 60])
def test_intervals_hold_the_truth_nineteen_times_of_twenty(units: int) -> None:
    # Utterances of 5 to 20 words whose error probability differs from one to the other, 10 % on average.
    from asr.scoring.intervals import bootstrap_rates, interval

    rng = np.random.default_rng(0)
    held, trials = 0, 150
    for _ in range(trials):
        words_N = rng.integers(5, 21, units)
        errors_N = rng.binomial(words_N, rng.beta(2, 18, units))
        low, high = interval(bootstrap_rates(errors_N, words_N), units=units) or (0, 0)
        held += low <= 0.1 <= high
    assert 0.89 <= held / trials <= 0.99


def test_both_ways_of_resampling_agree() -> None:
    from asr.scoring.intervals import bootstrap_rates

    rng = np.random.default_rng(0)
    words_N = rng.integers(1, 4, 400)  # few kinds: multinomial draws
    errors_N = rng.binomial(words_N, 0.2)
    grouped = bootstrap_rates(errors_N, words_N)
    plain = bootstrap_rates(errors_N, words_N, blocks=[str(n) for n in range(400)])
    many = bootstrap_rates(errors_N * 10**6 + np.arange(400), words_N * 10**6)  # all different: gathered
    for other in (plain, many):
        assert np.quantile(other, [0.025, 0.5, 0.975]) == pytest.approx(
            np.quantile(grouped, [0.025, 0.5, 0.975]), abs=0.006
        )


def test_real_time_factor_needs_both_times() -> None:
    assert score(["a", "b"], ["a", "b"], durations_s=[4.0, 6.0], processing_s=1.0).real_time_factor == 0.1
    assert score(["a", "b"], ["a", "b"], durations_s=[4.0, None], processing_s=1.0).real_time_factor is None


def test_a_score_shows_its_numbers_and_prints_with_its_signature() -> None:
    found = score(["a b", "c d"], ["a", "c d"])
    assert repr(found) == "Score(wer=0.25, substitutions=0, deletions=1, insertions=0, words=4, sentences=2)"
    assert str(found).startswith("WER 25.00% (0 S, 1 D, 0 I of 4 words, 95% interval ")
    assert str(found).endswith(found.signature)


def test_numbers_travel_as_json() -> None:
    import json

    found = json.loads(json.dumps(score(["a b", ""], ["a", ""]).to_json()))
    assert (found["wer"], found["words"], found["correct"], found["deletions"]) == (0.5, 2, 1, 1)


def test_texts_come_in_an_order() -> None:
    assert score((t for t in ["a b"]), iter(["a c"])).wer == 0.5  # type: ignore[arg-type]
    for wrong in ({"u": "a"}, {"a"}, 3):
        with pytest.raises(ScoringError, match="expected a list of them"):
            score(wrong, ["a"])  # type: ignore[arg-type]
