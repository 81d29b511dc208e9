"""The beam against every path there is, with and without language model; and what it must never do."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

import asr.lm
from asr.decoding import BeamDecoder, Hypothesis, PyctcDecoder, greedy
from asr.errors import DecodingError, LanguageModelError
from asr.text import Alphabet

LN_10 = math.log(10)
WORDS = Alphabet([" ", "a", "b"])
UNPRUNED = {"beam_width": 3000, "beam_threshold": 500.0, "token_threshold": -200.0}


def random_log_probs(frames: int, outputs: int, seed: int, sharpness: float = 2.0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.log_softmax(torch.from_numpy(rng.normal(size=(frames, outputs)) * sharpness), -1)


def all_labellings(log_probs_TV: Tensor) -> dict[tuple[int, ...], float]:
    """ln p of every labelling: the sum over all of its paths, one by one."""
    frames, outputs = log_probs_TV.shape
    table = log_probs_TV.tolist()
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(outputs), repeat=frames):
        labels = tuple(k for k, _ in itertools.groupby(path) if k)
        ln = sum(table[t][k] for t, k in enumerate(path))
        found[labels] = float(np.logaddexp(found.get(labels, -math.inf), ln))
    return found


@cache
def language_model() -> asr.lm.NGramModel:
    return asr.lm.train(["a b", "a a b", "b a", "ab b", "a"], order=3)


@pytest.mark.parametrize("outputs", [2, 3, 4])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6])
def test_without_pruning_the_most_probable_labelling_is_found_exactly(frames, outputs):
    decoder = BeamDecoder(Alphabet([" ", "a", "b"][4 - outputs :]), **UNPRUNED)
    for seed in range(8):
        log_probs_TV = random_log_probs(frames, outputs, seed)
        every = all_labellings(log_probs_TV)
        [found] = decoder.decode(log_probs_TV[None], [frames])
        assert every[found.tokens] == pytest.approx(max(every.values()), abs=1e-6)
        assert found.log_prob == pytest.approx(every[found.tokens], abs=1e-5)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 1.0), (1.5, -0.5), (1.0, 0.0)])
def test_without_pruning_the_best_of_acoustics_words_and_bonus_is_found(alpha, beta):
    lm = language_model()
    decoder = BeamDecoder(WORDS, lm=lm, alpha=alpha, beta=beta, unknown_penalty=0.0, **UNPRUNED)

    def score(tokens: tuple[int, ...], ln: float) -> float:
        words = WORDS.decode(tokens).split()
        return ln + alpha * LN_10 * lm.score(" ".join(words)) + beta * len(words)

    for seed in range(30):
        frames = 1 + seed % 6
        log_probs_TV = random_log_probs(frames, 4, seed)
        every = all_labellings(log_probs_TV)
        best = max(score(tokens, ln) for tokens, ln in every.items())
        [found] = decoder.decode(log_probs_TV[None], [frames])
        assert score(found.tokens, every[found.tokens]) == pytest.approx(best, abs=1e-5)
        assert found.score == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_no_width_scores_below_what_greedy_finds(width):
    decoder = BeamDecoder(WORDS, beam_width=width)
    for seed in range(30):
        log_probs_TV = random_log_probs(6, 4, seed, sharpness=1.0)
        every = all_labellings(log_probs_TV)
        [best_path] = greedy(log_probs_TV[None], [6])
        [found] = decoder.decode(log_probs_TV[None], [6])
        assert every[found.tokens] >= every[best_path.tokens] - 1e-5


def test_the_best_hypotheses_are_distinct_sorted_and_the_best_there_are():
    decoder = BeamDecoder(WORDS, **UNPRUNED)
    for seed in range(10):
        log_probs_TV = random_log_probs(5, 4, seed)
        every = sorted(all_labellings(log_probs_TV).values(), reverse=True)
        [found] = decoder.decode(log_probs_TV[None], [5], n_best=6)
        assert len({h.tokens for h in found}) == 6
        assert [h.log_prob for h in found] == pytest.approx(every[:6], abs=1e-5)


def test_the_lexicon_keeps_to_its_words():
    decoder = BeamDecoder(WORDS, lexicon=["ab", "ba"], **UNPRUNED)
    for seed in range(20):
        log_probs_TV = random_log_probs(6, 4, seed)
        [found] = decoder.decode(log_probs_TV[None], [6])
        assert set(found.text(WORDS).split()) <= {"ab", "ba"}


def test_a_hotword_wins_where_it_is_nearly_as_likely():
    probs = torch.tensor([[0.04, 0.03, 0.9, 0.03], [0.9, 0.02, 0.04, 0.04], [0.03, 0.03, 0.5, 0.44]])
    said = {
        hotwords: BeamDecoder(WORDS, hotwords=hotwords, hotword_weight=2.0).decode(probs.log()[None], [3])
        for hotwords in ((), ("ab",))
    }
    assert [h.text(WORDS) for [h] in said.values()] == ["aa", "ab"]


def test_padding_and_company_change_nothing():
    decoder = BeamDecoder(WORDS, lm=language_model())
    long, short = random_log_probs(12, 4, 1), random_log_probs(5, 4, 2)
    batch = torch.log_softmax(torch.zeros(2, 12, 4, dtype=torch.float64), -1)
    batch[0], batch[1, :5] = long, short
    together = decoder.decode(batch, [12, 5])
    assert together == [decoder.decode(x[None], [len(x)])[0] for x in (long, short)]


def test_tokens_have_frames_in_order_and_confidences():
    [found] = BeamDecoder(WORDS).decode(random_log_probs(40, 4, 3)[None], [40])
    times = [t for span in found.frames for t in span]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 40
    assert len(found.frames) == len(found.tokens) == len(found.confidences)
    assert all(0 < c <= 1 for c in found.confidences)
    nothing = BeamDecoder(WORDS).decode(torch.zeros(1, 3, 4).log_softmax(-1), [0])
    assert nothing == [Hypothesis((), (), (), 0.0, 0.0)]


def test_pyctcdecode_behind_the_same_door_finds_the_same_clear_words():
    pytest.importorskip("pyctcdecode")
    clear = torch.full((1, 9, 4), 0.01)
    for t, k in enumerate([2, 2, 0, 3, 1, 1, 2, 0, 0]):
        clear[0, t, k] = 0.97
    ours, theirs = (make(WORDS).decode(clear.log(), [9])[0] for make in (BeamDecoder, PyctcDecoder))
    assert ours.text(WORDS) == theirs.text(WORDS) == "ab a"
    assert ours.frames == theirs.frames


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam_width": 0}, "expected at least 1"),
        ({"beam_threshold": 0.0}, "more than 0"),
        ({"alpha": math.nan}, "finite"),
        ({"hotwords": ["xyz"]}, "x"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(DecodingError, match=message):
        BeamDecoder(WORDS, **settings)


def test_a_language_model_that_cannot_be_spelled_is_refused():
    with pytest.raises(LanguageModelError, match="cannot be spelled"):
        BeamDecoder(WORDS, lm=asr.lm.train(["X Y", "Y Z"], order=2))


@pytest.mark.parametrize(
    ("log_probs", "message"),
    [
        (torch.zeros(1, 4, 3).log_softmax(-1), "transpose first"),
        (torch.zeros(1, 5, 4), "not normalised"),
        (torch.full((1, 5, 4), math.nan), "NaN"),
        (torch.full((1, 5, 4), 0.25), "probabilities, not their natural logs"),
    ],
)
def test_what_is_no_log_probabilities_is_refused(log_probs, message):
    with pytest.raises(DecodingError, match=message):
        BeamDecoder(WORDS).decode(log_probs, [log_probs.shape[1]])
