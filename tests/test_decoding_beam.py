"""The beam against every path there is, with and without language model; and what it must never do."""

import copy
import itertools
import math
import multiprocessing
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor

import asr.lm
from asr.corpus import fsdd
from asr.ctc import forward_backward
from asr.decoding import BeamDecoder, Hypothesis, PyctcDecoder, alternatives, greedy
from asr.decoding.hotwords import normalise_hotwords
from asr.decoding.occurrence import Heard
from asr.decoding.prefixes import ENTRIES, NODES
from asr.decoding.spelling import build_trie, spell_outputs, spell_words
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


def word_score(lm: asr.lm.NGramModel, alpha: float, beta: float) -> Callable[[str], float]:
    return lambda text: alpha * LN_10 * lm.score(text) + beta * len(text.split())


def hotword_score(weights: dict[str, float]) -> Callable[[str], float]:
    """The weights of all hotwords, each as often as its words stand in the text in a row."""

    def score(text: str) -> float:
        bordered = f" {text.replace(' ', '  ')} "
        return sum(w * bordered.count(f" {word.replace(' ', '  ')} ") for word, w in weights.items())

    return score


def best_by_brute_force(
    alphabet: Alphabet, log_probs_TV: Tensor, score: Callable[[str], float]
) -> dict[str, float]:
    """ln p of the likeliest labelling plus score of every text, best first."""
    found: dict[str, float] = {}
    for tokens, ln in all_labellings(log_probs_TV).items():
        text = " ".join(alphabet.decode(tokens).split())
        found[text] = max(found.get(text, -math.inf), ln + score(text))
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


SUBWORDS = Alphabet(["▁a", "b", "▁"], tokenizer="{}")
LM = language_model()
UNKNOWN_AS_GIVEN = {"lm": LM, "unknown_penalty": 0.0}


@pytest.mark.parametrize(
    ("alphabet", "settings", "score"),
    [
        pytest.param(WORDS, {}, lambda text: 0.0, id="acoustics alone"),
        pytest.param(WORDS, UNKNOWN_AS_GIVEN, word_score(LM, 0.5, 1.0), id="word n-grams"),
        pytest.param(
            WORDS,
            {"alpha": 1.5, "beta": -0.5, **UNKNOWN_AS_GIVEN},
            word_score(LM, 1.5, -0.5),
            id="word n-grams, other weights",
        ),
        pytest.param(SUBWORDS, {}, lambda text: 0.0, id="subwords"),
        pytest.param(SUBWORDS, UNKNOWN_AS_GIVEN, word_score(LM, 0.5, 1.0), id="subwords, word n-grams"),
        pytest.param(
            WORDS,
            {"lexicon": ["ab", "b"]},
            lambda text: 0.0 if set(text.split()) <= {"ab", "b"} else -math.inf,
            id="lexicon",
        ),
        pytest.param(
            WORDS,
            {"lexicon": ["ab", "b"], "lm": LM},
            lambda text: word_score(LM, 0.5, 1.0)(text) if set(text.split()) <= {"ab", "b"} else -math.inf,
            id="lexicon, word n-grams",
        ),
        pytest.param(
            WORDS, {"hotwords": (hot := {"ab": 2.0, "b": 0.7, "a b": 1.5})}, hotword_score(hot), id="hotwords"
        ),
        pytest.param(SUBWORDS, {"hotwords": hot}, hotword_score(hot), id="subwords, hotwords"),
        pytest.param(
            Alphabet(list("好天今")),
            {"hotwords": {"今天": 1.0, "天好": 0.7}},
            lambda text: text.count("今天") + 0.7 * text.count("天好"),
            id="hotwords without spaces",
        ),
        pytest.param(
            WORDS,
            {"hotwords": hot, **UNKNOWN_AS_GIVEN},
            lambda text: hotword_score(hot)(text) + word_score(LM, 0.5, 1.0)(text),
            id="hotwords, word n-grams",
        ),
    ],
)
def test_without_pruning_the_best_texts_of_all_are_found_with_their_exact_scores(alphabet, settings, score):
    decoder = BeamDecoder(alphabet, **settings, **UNPRUNED)
    for seed in range(18):
        frames = 1 + seed % 6
        log_probs_TV = random_log_probs(frames, 4, seed)
        every = best_by_brute_force(alphabet, log_probs_TV, score)
        [best] = decoder.decode(log_probs_TV[None], [frames])
        assert every[best.text(alphabet)] == pytest.approx(max(every.values()), abs=1e-5)
        [several] = decoder.decode(log_probs_TV[None], [frames], n_best=5)
        assert [h.score for h in several] == pytest.approx(
            [s for s in every.values() if s > -math.inf][:5], abs=1e-5
        )
        for found in (best, *several):
            assert found.score == pytest.approx(every[found.text(alphabet)], abs=1e-5)
            assert found.log_prob == pytest.approx(all_labellings(log_probs_TV)[found.tokens], abs=1e-5)


def test_the_parts_of_a_score_are_those_of_the_models():
    decoder = BeamDecoder(WORDS, lm=LM, alpha=0.7, beta=0.3, hotwords={"ab": 2.0}, unknown_penalty=0.0)
    for seed in range(20):
        log_probs_TV = random_log_probs(30, 4, seed)
        [found] = decoder.decode(log_probs_TV[None], [30])
        text = found.text(WORDS)
        lattice = forward_backward(
            log_probs_TV[None],
            torch.tensor([found.tokens]),
            torch.tensor([30]),
            torch.tensor([len(found.tokens)]),
        )
        assert found.log_prob == pytest.approx(-float(lattice.nll_B[0]), abs=1e-9)
        assert found.lm_log_prob == pytest.approx(LN_10 * LM.score(text), abs=1e-5)
        words = text.split()
        assert found.bonus == pytest.approx(0.3 * len(words) + 2.0 * words.count("ab"), abs=1e-9)
        assert found.score == pytest.approx(found.log_prob + 0.7 * found.lm_log_prob + found.bonus)


@pytest.mark.parametrize("settings", [{}, {"lm": LM, "unknown_penalty": 0.0}], ids=["no model", "n-grams"])
@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_no_width_scores_below_what_greedy_finds(width, settings):
    decoder = BeamDecoder(WORDS, beam_width=width, **settings)
    score = word_score(LM, 0.5, 1.0) if settings else lambda text: 0.0
    for seed in range(30):
        log_probs_TV = random_log_probs(6, 4, seed, sharpness=1.0)
        every = all_labellings(log_probs_TV)
        [found], [best_path] = decoder.decode(log_probs_TV[None], [6]), greedy(log_probs_TV[None], [6])
        truth = [every[h.tokens] + score(h.text(WORDS)) for h in (found, best_path)]
        assert found.score == pytest.approx(truth[0], abs=1e-5)
        assert truth[0] >= truth[1] - 1e-5


def test_the_lexicon_keeps_to_its_words():
    decoder = BeamDecoder(WORDS, lexicon=["ab", "ba"], **UNPRUNED)
    for seed in range(20):
        log_probs_TV = random_log_probs(6, 4, seed)
        [found] = decoder.decode(log_probs_TV[None], [6])
        assert set(found.text(WORDS).split()) <= {"ab", "ba"}


def test_what_the_lexicon_forbids_at_any_width_still_gives_whole_words():
    clear = torch.full((1, 5, 4), 1e-9, dtype=torch.float64)
    for t, k in enumerate([2, 3, 1, 3, 3]):  # "ab b", but no word is "b"
        clear[0, t, k] = 1 - 3e-9
    [found] = BeamDecoder(WORDS, lexicon=["ab", "bb"], beam_width=1).decode(clear.log(), [5])
    assert found.text(WORDS) == "ab"


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("spoken", ["b", "ab b", "ab bab a"])
@pytest.mark.parametrize("lm", [None, LM])
def test_what_the_lexicon_allows_no_path_for_gives_the_whole_words_before_it(lm, spoken, size):
    tokens = WORDS.encode(spoken)
    certain_TV = torch.full((len(tokens), WORDS.size), -math.inf)
    certain_TV[range(len(tokens)), tokens] = 0.0
    decoder = BeamDecoder(WORDS, lm, lexicon=["ab"])
    [found], [several] = (decoder.decode(certain_TV[None], [len(tokens)], n_best=n) for n in (1, 2))
    assert found.text(WORDS) == several[0].text(WORDS) == ("ab" if "ab" in spoken else "")
    search = decoder.begin()
    for block_TV in certain_TV.split(size):
        search.advance(block_TV)
    assert search.finish(search.settled()) == [found]


def test_single_precision_loses_no_output_that_it_can_express():
    rare_TV = torch.full((2, WORDS.size), -105.0)  # e^−105 is below the least float32
    rare_TV[:, 3] = 0.0
    [found] = BeamDecoder(WORDS, lexicon=["a"]).decode(rare_TV[None], [2])
    assert found.log_prob == pytest.approx(-210.0 + math.log(3), abs=1e-4)  # of three paths


@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("heard", ["_hhree seven", "three _even", "zero three six_"])
def test_an_output_that_every_word_needs_and_nobody_heard_does_not_lose_the_rest(heard, width):
    digits = list(fsdd.WORDS)
    letters = Alphabet(sorted({*" x", *"".join(digits)}))
    heard_TV = torch.full((2 * len(heard), letters.size), -12.0)
    for i, letter in enumerate(heard):
        heard_TV[2 * i, 0 if letter == "_" else letters.encode(letter)[0]] = 12.0
        heard_TV[2 * i + 1, 0] = 12.0
    log_probs_TV = torch.log_softmax(heard_TV, -1)
    texts = [" ".join(words) for n in (1, 2, 3) for words in itertools.product(digits, repeat=n)]
    labels = [torch.tensor(letters.encode(text)) for text in texts]
    lengths_B = torch.tensor([len(label) for label in labels])
    exact = -forward_backward(
        log_probs_TV.double().expand(len(texts), -1, -1),
        torch.nn.utils.rnn.pad_sequence(labels, batch_first=True),
        torch.full_like(lengths_B, len(log_probs_TV)),
        lengths_B,
    ).nll_B
    decoder = BeamDecoder(letters, lexicon=digits, beam_width=width)
    [found] = decoder.decode(log_probs_TV[None], [len(log_probs_TV)])
    assert found.text(letters) == texts[int(exact.argmax())]
    assert found.log_prob == pytest.approx(float(exact.max()), abs=1e-4)
    search = decoder.begin()
    for block_TV in log_probs_TV.split(7):
        search.advance(block_TV)
    assert search.finish() == [found]
    [several] = decoder.decode(log_probs_TV[None], [len(log_probs_TV)], n_best=2)
    assert several[0].text(letters) == found.text(letters)


def test_prefixes_have_the_same_key_exactly_if_they_have_the_same_future():
    letters = "abcdefghijklmnop"
    words = ["".join(pair) for pair in itertools.product(letters, repeat=2)]
    lm = asr.lm.train([" ".join(words[n::7]) for n in range(7)], order=2)
    decoder = BeamDecoder(Alphabet([" ", *letters]), lm, lexicon=words, beam_width=500, beam_threshold=60.0)
    search = decoder.begin()
    search.advance(random_log_probs(12, 18, seed=4, sharpness=1.0))
    entries = search._beam.entries[: search._beam.counts[ENTRIES]]
    futures = [tuple(search._tree[n][["token", "word_node", "history", "hot"]]) for n in entries["node"]]
    assert len(futures) > len(set(futures)) > 300
    assert (
        len(set(entries["key"])) == len(set(futures)) == len(set(zip(entries["key"], futures, strict=True)))
    )


def test_a_hotword_wins_where_it_is_nearly_as_likely():
    probs = torch.tensor([[0.04, 0.03, 0.9, 0.03], [0.9, 0.02, 0.04, 0.04], [0.03, 0.03, 0.5, 0.44]])
    said = {
        hotwords: BeamDecoder(WORDS, hotwords=hotwords, hotword_weight=2.0).decode(probs.log()[None], [3])
        for hotwords in ((), ("ab",))
    }
    assert [h.text(WORDS) for [h] in said.values()] == ["aa", "ab"]


def test_within_a_word_nothing_is_pruned_before_its_hotword_bonus_is_counted():
    decoder = BeamDecoder(
        WORDS, lm=LM, alpha=6.0, beta=0.0, hotwords={"abab": 12.0}, beam_threshold=3.0, token_threshold=-30.0
    )
    patient, lost = copy.copy(decoder), 0
    patient.tables = decoder.tables._replace(bound=1e100)
    for seed in range(200):
        log_probs_TV = random_log_probs(8, 4, seed)
        log_probs_TV[:, 1] = -40.0  # a single word: closing one is not tried for its language model's sake
        log_probs_TV = log_probs_TV.log_softmax(-1)
        [found], [careful] = (d.decode(log_probs_TV[None], [8]) for d in (decoder, patient))
        lost += found != careful
    assert lost == 0


def test_padding_and_company_change_nothing():
    decoder = BeamDecoder(WORDS, lm=language_model())
    long, short = random_log_probs(12, 4, 1), random_log_probs(5, 4, 2)
    batch = torch.log_softmax(torch.zeros(2, 12, 4, dtype=torch.float64), -1)
    batch[0], batch[1, :5] = long, short
    together = decoder.decode(batch, [12, 5])
    assert together == [decoder.decode(x[None], [len(x)])[0] for x in (long, short)]


def some_utterances() -> tuple[Tensor, list[int]]:
    lengths = [40, 7, 0, 23, 40, 1]
    return torch.stack([random_log_probs(40, 4, seed) for seed in range(6)]), lengths


def test_threads_change_nothing():
    one, three = (BeamDecoder(WORDS, lm=LM, beam_width=20, threads=n) for n in (1, 3))
    assert one.decode(*some_utterances(), n_best=3) == three.decode(*some_utterances(), n_best=3)


def test_a_decoder_works_in_a_spawned_process():
    decoder = BeamDecoder(WORDS, lm=LM, hotwords=["ab"], beam_width=20)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(decoder.decode, some_utterances()) == decoder.decode(*some_utterances())


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_blocks_of_any_size_give_what_the_whole_gives(size):
    decoder = BeamDecoder(WORDS, lm=LM, beam_width=30)
    for seed in range(5):
        log_probs_TV = random_log_probs(200, 4, seed)
        search = decoder.begin()
        agreed: tuple[int, ...] = ()
        for block in log_probs_TV.split(size):
            search.advance(block)
            assert search.agreed()[: len(agreed)] == agreed
            agreed = search.agreed()
        assert search.finish() == decoder.decode(log_probs_TV[None], [200], n_best=1)


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


LISTENERS = pytest.mark.parametrize(
    ("settings", "score"),
    [({}, lambda text: 0.0), (UNKNOWN_AS_GIVEN, word_score(LM, 0.5, 1.0))],
    ids=["acoustics alone", "word n-grams"],
)


@LISTENERS
def test_words_are_as_sure_as_their_outputs_and_as_all_texts_that_have_them(settings, score):
    decoder = BeamDecoder(WORDS, **settings, **UNPRUNED)
    differences: list[float] = []
    for seed in range(60):
        frames = 4 + seed % 3
        log_probs_TV = random_log_probs(frames, 4, seed, sharpness=1.5)
        masses: dict[str, float] = {}
        for tokens, ln in all_labellings(log_probs_TV).items():
            text = " ".join(WORDS.decode(tokens).split())
            masses[text] = masses.get(text, 0.0) + math.exp(ln + score(text))
        [found] = decoder.decode(log_probs_TV[None], [frames])
        words = found.words(WORDS)
        exact = np.zeros(len(words))
        for text, mass in masses.items():
            for edit in Levenshtein.opcodes([w.text for w in words], text.split()):
                if edit.tag == "equal":
                    exact[edit.src_start : edit.src_end] += mass / sum(masses.values())
        peaks = [min(found.confidences[first:end]) for first, end in WORDS.word_slices(found.tokens)]
        for word, share, peak in zip(words, exact, peaks, strict=True):
            odds = np.log(word.confidence / (1 - word.confidence)) * 1.5 - np.log(peak / (1 - peak)) / 2
            differences.append(1 / (1 + np.exp(-odds)) - share)
    assert len(differences) > 60
    assert np.mean(np.abs(differences)) < 0.07  # 64 labellings that are drawn make 0.05
    assert abs(np.mean(differences)) < 0.03


@LISTENERS
@pytest.mark.parametrize("since", [0, 40, 400])
def test_dropped_prefixes_have_the_mass_of_all_ways_to_them(settings, score, since):
    """A way to a prefix may leave it, or what it begins with, for what had been dropped before."""
    search = BeamDecoder(WORDS, beam_width=16, **settings).begin()
    search.advance(random_log_probs(80, 4, 1, sharpness=2.0))
    beam, tree = search._beam, search._tree
    gains, masses, shares = alternatives.restored(beam, tree, since)

    def noted(node: int) -> Iterator[int]:
        at = int(tree[node]["alternative"])
        while at >= 0:
            yield at
            at = int(beam.alternatives[at]["next"])

    @cache
    def mass(node: int, number: int) -> float:
        """Of a prefix when alternative `number` was noted."""
        if node <= since:
            return 1.0
        before = [share(at) for at in noted(node) if at < number]
        return mass(int(tree[node]["parent"]), number) + sum(before)

    def share(at: int) -> float:
        return math.exp(beam.alternatives[at]["ln"]) * mass(int(beam.alternatives[at]["node"]), at)

    count = 0
    for node in range(since + 1, int(beam.counts[NODES])):
        assert gains[node] == pytest.approx(sum(map(share, noted(node))))
        for at in noted(node):
            assert masses[at] * math.exp(beam.alternatives[at]["ln"]) == pytest.approx(share(at))
            assert shares[at] == pytest.approx(share(at))
            count += 1
    assert count > 20 and gains[since + 1 : beam.counts[NODES]].max() > 1


@LISTENERS
@pytest.mark.parametrize("width", [4, 16])
def test_several_are_the_best_that_a_narrow_beam_has_seen_not_what_it_ends_with(settings, score, width):
    narrow, wide = (BeamDecoder(WORDS, beam_width=w, **settings) for w in (width, 3000))
    shares = []
    for seed in range(12):
        log_probs_TV = random_log_probs(24, 4, seed, sharpness=3.0)[None]
        [one], [several] = narrow.decode(log_probs_TV, [24]), narrow.decode(log_probs_TV, [24], n_best=8)[:1]
        assert several[0].score >= one.score - 1e-9
        assert [h.score for h in several] == sorted((h.score for h in several), reverse=True)
        assert len({h.text(WORDS) for h in several}) == len(several) > 4
        [best] = wide.decode(log_probs_TV, [24], n_best=8)
        shares.append(len({h.text(WORDS) for h in several} & {h.text(WORDS) for h in best}) / 8)
    assert np.mean(shares) > (0.6 if width == 4 else 0.8)  # of what a beam ends with 0.42 and 0.82


def test_what_is_too_long_for_the_recording_is_not_among_several():
    decoder = BeamDecoder(Alphabet(["t", "u"]), beam_width=3)
    for seed in range(200):
        log_probs_TV = random_log_probs(7, 3, seed, sharpness=1.0)
        for found in decoder.decode(log_probs_TV[None], [7], n_best=20)[0]:
            repeats = sum(a == b for a, b in itertools.pairwise(found.tokens))
            assert len(found.tokens) + repeats <= 7 and math.isfinite(found.score)


def test_pyctcdecode_behind_the_same_door_finds_the_same_clear_words():
    pytest.importorskip("pyctcdecode")
    clear = torch.full((1, 9, 4), 0.01)
    for t, k in enumerate([2, 2, 0, 3, 1, 1, 2, 0, 0]):
        clear[0, t, k] = 0.97
    ours, theirs = (make(WORDS).decode(clear.log(), [9])[0] for make in (BeamDecoder, PyctcDecoder))
    assert ours.text(WORDS) == theirs.text(WORDS) == "ab a"
    assert ours.frames == theirs.frames


@pytest.mark.parametrize("wrong", [{"hotwords": {"ab": 9.0}}, {"hotwords": "ab"}, {"beam_width": 0}])
def test_pyctcdecode_refuses_settings_that_it_would_ignore_or_fail_with(wrong):
    pytest.importorskip("pyctcdecode")
    with pytest.raises(DecodingError, match=next(iter(wrong))):
        PyctcDecoder(WORDS, **wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam_width": 0}, "whole number from 1 to"),
        ({"beam_width": 2.5}, "whole number from 1 to"),
        ({"beam_width": "8"}, "whole number from 1 to"),
        ({"beam_threshold": 0.0}, "more than 0"),
        ({"alpha": math.nan}, "finite"),
        ({"alpha": "much"}, "expected numbers"),
        ({"beta": None}, "expected numbers"),
        ({"hotwords": ["xyz"]}, "x"),
        ({"hotwords": [1]}, "hotword 1: expected a text"),
        ({"hotwords": 5}, "hotwords 5: expected a list of words"),
        ({"prior_weight": 0.3}, "there is no prior"),
        ({"hotwords": {"ab": "x"}}, "finite number"),
        ({"hotwords": {"ab": 200.0}}, "raise a word by 200 nats; expected at most 80"),
        ({"lm": asr.lm.train(["ab a"], order=2), "beta": 200.0}, "raise a word by 19. nats"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(DecodingError, match=message):
        BeamDecoder(WORDS, **settings)


def test_hotwords_in_the_style_of_the_texts_are_lost_neither_in_whole_nor_in_weight():
    for wrong, message in ((5, "hotwords 5: expected a list"), ([5], "hotword 5"), (["!!!"], "'!!!'")):
        with pytest.raises(DecodingError, match=message):
            normalise_hotwords(wrong, "basic")
    assert normalise_hotwords({"St. Gallen": 9, "st gallen": 3}, "basic") == {"st gallen": 9}
    assert normalise_hotwords(["ab", " "], "basic") == ("ab", "")


def test_whole_numbers_as_weights_do_not_compile_the_search_anew():
    lm, log_probs = asr.lm.train(["ab a", "b ab"], order=2), torch.randn(1, 9, 4).log_softmax(-1)
    as_floats = BeamDecoder(WORDS, lm, alpha=1.0, beta=2.0, unknown_penalty=10.0)
    as_integers = BeamDecoder(
        WORDS, lm, alpha=1, beta=2, unknown_penalty=np.int64(10), beam_width=np.int64(64)
    )
    changed = as_floats.reweighed(alpha=1, beta=2, beam_width=np.int32(64))
    for decoder in (as_integers, changed):
        assert [type(value) for value in decoder.tables] == [type(value) for value in as_floats.tables]
        assert type(decoder.settings.width) is int
        assert decoder.decode(log_probs, [9]) == as_floats.decode(log_probs, [9])


@pytest.mark.parametrize("n_best", [0, 1.5, "3"])
def test_a_number_of_hypotheses_that_is_none_is_refused(n_best):
    with pytest.raises(DecodingError, match=r"n_best.*whole number"):
        BeamDecoder(WORDS).decode(torch.zeros(1, 1, 4).log_softmax(-1), [1], n_best=n_best)


def test_what_no_path_spells_is_no_hypothesis_and_all_others_are_exact():
    """A third of the outputs are impossible, in every frame others."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(60):
        logits = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        logits[torch.rand(6, 4, generator=generator) < 0.33] = -math.inf
        logits[logits.isneginf().all(1), 0] = 0.0
        log_probs_TV = logits.log_softmax(-1)
        [found] = BeamDecoder(WORDS).decode(log_probs_TV[None], [6], n_best=20)
        assert found
        for h in found:
            targets = torch.tensor([h.tokens]).reshape(1, -1)
            lengths = torch.tensor([6]), torch.tensor([len(h.tokens)])
            truth = -forward_backward(log_probs_TV[None], targets, *lengths).nll_B.item()
            assert math.isfinite(truth) and h.log_prob == pytest.approx(truth, abs=1e-9)


def test_texts_that_fit_badly_are_scored_exactly_too():
    """Peaks of 14 nats, and labels that have nothing to do with them."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        frames = int(rng.integers(20, 80))
        logits = rng.normal(size=(frames, 4))
        logits[np.arange(frames), rng.integers(0, 4, frames)] += 14
        log_probs_TV = torch.from_numpy(logits).log_softmax(-1)
        tokens = rng.integers(1, 4, rng.integers(5, frames // 2 + 1))
        lengths = torch.tensor([frames]), torch.tensor([len(tokens)])
        truth = forward_backward(log_probs_TV[None], torch.from_numpy(tokens)[None], *lengths).nll_B
        assert Heard(log_probs_TV.exp().numpy()).locate(tokens)[0] == pytest.approx(-float(truth), abs=1e-9)


def test_an_array_that_torch_cannot_take_is_an_error_of_ours():
    log_probs = np.log(np.full((1, 3, 4), 0.25))[:, ::-1]
    for decode in (BeamDecoder(WORDS).decode, greedy):
        with pytest.raises(DecodingError, match=r"as a tensor or an array.*stride"):
            decode(log_probs, [3])


def test_pyctcdecode_takes_what_is_certain_and_refuses_unigrams():
    pytest.importorskip("pyctcdecode")
    certain = torch.tensor([[0, 1.0, 0, 0], [0, 0, 0.9, 0.1], [0.9, 0, 0, 0.1]]).log()
    assert PyctcDecoder(WORDS).decode(certain[None], [3])[0].text(WORDS) == "a"
    with pytest.raises(DecodingError, match="unigram"):
        PyctcDecoder(WORDS, asr.lm.train(["ab a"], order=1))


def test_a_list_of_labels_is_no_alphabet() -> None:
    with pytest.raises(DecodingError, match=r"list instead of an alphabet: expected asr.Alphabet\(symbols\)"):
        BeamDecoder([" ", "a", "b"])  # type: ignore[arg-type]


ACUTE = Alphabet([" ", "é", "a"])


@pytest.mark.parametrize(
    "settings",
    [
        {"hotwords": ["éa"]},
        {"hotwords": {"éa": 4.0}},
        {"lexicon": ["éa", "aa"]},
        {"lexicon": {"éa": [["é", "a"]], "aa": [["a", "a"]]}, "hotwords": ["éa"]},
        {"lm": ["éa", "a a", "éa éa"]},
        {"lm": ["éa", "a a", "éa éa"], "hotwords": ["éa"]},
        {"lm": ["éa", "a a", "éa éa"], "lexicon": ["éa"]},
    ],
)
@pytest.mark.parametrize("which", [("NFD", "NFD", "NFD"), ("NFC", "NFD", "NFC"), ("NFD", "NFC", "NFC")])
def test_words_may_be_given_composed_or_decomposed(settings, which):
    def given(form, value):
        if isinstance(value, str):
            return unicodedata.normalize(form, value)
        if isinstance(value, dict):
            return {given(form, key): given(form, part) for key, part in value.items()}
        return [given(form, part) for part in value] if isinstance(value, list) else value

    def decoder(forms):
        parts = {name: given(forms[name], value) for name, value in settings.items()}
        return BeamDecoder(
            ACUTE, **parts | {"lm": asr.lm.train(parts["lm"], order=2) if "lm" in parts else None}
        )

    log_probs_TV = random_log_probs(6, 4, 3)
    expected, found = (
        decoder(dict(zip(("hotwords", "lexicon", "lm"), forms, strict=True))).decode(log_probs_TV[None], [6])
        for forms in (("NFC",) * 3, which)
    )
    assert found == expected


def test_a_lexicon_is_no_switch():
    with pytest.raises(DecodingError, match="expected a list of words"):
        BeamDecoder(WORDS, lexicon=True)  # as in a recipe


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


def test_half_precision_outputs_count_as_normalised():
    flat = torch.zeros(1, 2, 3500).log_softmax(-1).bfloat16()
    assert float(flat.float().exp().sum(-1).max()) < 0.98
    words = asr.Alphabet([chr(0x4E00 + i) for i in range(3499)])
    for decode in (asr.decoding.greedy, BeamDecoder(words).decode):
        assert len(decode(flat, [2])) == 1


def test_a_prior_is_divided_out_before_the_search_and_in_every_block():
    prior = [0.5, 0.2, 0.2, 0.1]
    log_probs_TV = random_log_probs(6, 4, 7)
    divided_TV = (log_probs_TV - 0.6 * torch.tensor(prior).log()).log_softmax(-1)
    plain = BeamDecoder(WORDS, **UNPRUNED)
    weighed = BeamDecoder(WORDS, **UNPRUNED, prior=prior, prior_weight=0.6)
    [expected], [found] = plain.decode(divided_TV[None], [6]), weighed.decode(log_probs_TV[None], [6])
    assert found.tokens == expected.tokens
    assert found.log_prob == pytest.approx(expected.log_prob, abs=1e-5)
    search = weighed.begin()
    for block_TV in log_probs_TV.split(2):
        search.advance(block_TV)
    assert search.finish()[0].tokens == found.tokens
    for wrong in ([0.5, 0.5], [-1.0, 1.0, 0.5, 0.5]):
        with pytest.raises(DecodingError, match="expected 4 shares"):
            BeamDecoder(WORDS, prior=wrong, prior_weight=0.5)


def test_words_that_are_not_judged_are_the_same_and_as_sure_as_their_outputs():
    log_probs_TV = random_log_probs(40, 4, seed=1)
    [judged] = BeamDecoder(WORDS, language_model()).decode(log_probs_TV[None], [40])
    [plain] = BeamDecoder(WORDS, language_model(), judge=False).decode(log_probs_TV[None], [40])
    assert (plain.tokens, plain.log_prob) == (judged.tokens, judged.log_prob)
    words, heard = judged.words(WORDS), plain.words(WORDS)
    assert [w.text for w in words] == [w.text for w in heard]
    for word, (start, end) in zip(heard, WORDS.word_slices(plain.tokens), strict=True):
        assert word.confidence == pytest.approx(min(plain.confidences[start:end]))
    assert [w.confidence for w in words] != [w.confidence for w in heard]


def test_one_very_long_word_takes_memory_for_its_own_letters_only():
    words = ["ab" * 1000, *map("".join, itertools.product("ab", repeat=11))]
    spelled = spell_words(words, spell_outputs(Alphabet([" ", "a", "b"])))
    tracemalloc.start()
    trie, (_, peak_bytes) = build_trie(spelled), tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sorted(trie.lengths) == [11] * 2048 + [2000] and peak_bytes < 8e6
