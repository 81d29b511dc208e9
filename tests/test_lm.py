"""N-gram training and scoring: by hand, against the formulas done slowly, against KenLM's numbers."""

import math
import pickle
import random
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pytest

import asr.lm
from asr.errors import LanguageModelError
from asr.lm.kneser_ney import FALLBACK_DISCOUNTS, estimate_discounts

UNKNOWN, START, END = "<unk>", "<s>", "</s>"


def corpus(*, seed: int, sentences: int, words: int) -> list[str]:
    """Sentences of up to 11 words, some words far more frequent than others, some sentences empty."""
    rng = random.Random(seed)
    return [
        " ".join(f"w{int(words * rng.random() ** 3)}" for _ in range(int(12 * rng.random())))
        for _ in range(sentences)
    ]


def walk(model: asr.lm.NGramModel, history: str, word: str) -> tuple[int, float]:
    """(state, log10 P(word | history)) by the automaton; the history begins with <s> or anywhere."""
    from asr.lm.automaton import advance

    words = history.split()
    state = model.start_state if words[:1] == [START] else 0
    for known in words[words[:1] == [START] :]:
        state, _ = advance(model.arrays, state, model.word_id(known))
    return advance(model.arrays, state, model.word_id(word))


class Oracle:
    """Modified Kneser–Ney straight from the formulas, one probability at a time, over tuples of words."""

    def __init__(self, sentences: list[str], order: int, cutoffs: tuple[int, ...]) -> None:
        padded = [(START, *s.split(), END) for s in sentences]
        self.words = sorted({w for s in padded for w in s} - {START} | {UNKNOWN})
        self.order = order
        cutoffs = (*cutoffs, *[cutoffs[-1]] * order)
        self.raw = Counter(
            s[i : i + n] for s in padded for n in range(1, order + 1) for i in range(len(s) - n + 1)
        )
        preceding = defaultdict(set)
        for gram in self.raw:
            preceding[gram[1:]].add(gram[0])
        self.adjusted = {
            gram: count if len(gram) == order or gram[0] == START else len(preceding[gram])
            for gram, count in self.raw.items()
            if gram != (START,)
        }
        self.kept = {g for g in self.adjusted if len(g) == 1 or self.raw[g] > cutoffs[len(g) - 1]}
        self.followers = defaultdict(list)
        for gram in self.adjusted:
            self.followers[gram[:-1]].append(gram)
        self.discounts = [self.estimate(n) for n in range(1, order + 1)]

    def estimate(self, n: int) -> tuple[float, ...]:
        of = Counter(a for gram, a in self.adjusted.items() if len(gram) == n)
        if not (of[1] and of[2] and of[3]):
            return FALLBACK_DISCOUNTS
        y = of[1] / (of[1] + 2 * of[2])
        found = tuple(k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3))
        assert all(abs(d) > 1e-6 for d in found), "a corpus at the border decides nothing; take another"
        return found if min(found) > 0 else FALLBACK_DISCOUNTS

    def lost(self, gram: tuple[str, ...]) -> float:
        count = self.adjusted[gram]
        return self.discounts[len(gram) - 1][min(count, 3) - 1] if gram in self.kept else count

    def probability(self, word: str, history: tuple[str, ...]) -> float:
        history = history[max(0, len(history) - self.order + 1) :]
        lower = self.probability(word, history[1:]) if history else 1 / len(self.words)
        grams = self.followers[history]
        if not grams:
            return lower
        total = sum(self.adjusted[g] for g in grams)
        gram = (*history, word)
        own = self.adjusted[gram] - self.lost(gram) if gram in self.kept else 0
        return own / total + sum(self.lost(g) for g in grams) / total * lower


def test_a_unigram_model_agrees_with_the_arithmetic_by_hand() -> None:
    # Counts a 2, b 1, </s> 1; discounts 0.5, 1; freed 2 of 4, shared by a, b, </s>, <unk>: 0.125 each.
    model = asr.lm.train(["a a b"], order=1)
    expected = {"a": 1 / 4 + 0.125, "b": 0.5 / 4 + 0.125, END: 0.5 / 4 + 0.125, "x": 0.125}
    for word, probability in expected.items():
        assert walk(model, START, word)[1] == pytest.approx(math.log10(probability), abs=1e-6)


def test_a_bigram_model_agrees_with_the_arithmetic_by_hand() -> None:
    # Each word has one predecessor: 0.5 / 3 + 0.5 · 1/4 = 7/24; each bigram occurs once: 0.5 + 0.5 · 7/24.
    model = asr.lm.train(["a b"], order=2)
    assert walk(model, START, "a")[1] == pytest.approx(math.log10(0.5 + 0.5 * 7 / 24), abs=1e-6)
    assert walk(model, START, "b")[1] == pytest.approx(math.log10(0.5 * 7 / 24), abs=1e-6)
    assert model.score("a b") == pytest.approx(3 * math.log10(0.5 + 0.5 * 7 / 24), abs=1e-6)


@pytest.mark.parametrize("order", range(1, 7))
@pytest.mark.parametrize("cutoffs", [(0,), (0, 0, 1), (0, 1, 2)])
@pytest.mark.parametrize("size", [(8, 3), (60, 9), (150, 60)])
@pytest.mark.parametrize("further", [[], ["unheard", "w1", "of", "unheard"]])
def test_training_agrees_with_the_formulas_done_slowly(
    order: int, cutoffs: tuple[int, ...], size: tuple[int, int], further: list[str]
) -> None:
    sentences = corpus(seed=5, sentences=size[0], words=size[1])
    model = asr.lm.train(
        sentences, order, cutoffs=cutoffs, vocabulary=iter([*further, START, END, UNKNOWN, "<UNK>"])
    )
    oracle = Oracle(sentences, order, cutoffs)
    oracle.words = sorted({*oracle.words, *further})
    assert sorted(model.vocabulary) == sorted({*oracle.words, START})
    rng = random.Random(order)
    texts = [
        *rng.sample(sentences, 8),
        *corpus(seed=6, sentences=4, words=size[1] + 3),
        "of unheard w1 unheard",
    ]
    for text in texts:
        history: tuple[str, ...] = (START,)
        for word in [*text.split(), END]:
            word = word if word in oracle.words else UNKNOWN
            expected = math.log10(oracle.probability(word, history))
            assert walk(model, " ".join(history), word)[1] == pytest.approx(expected, abs=2e-6)
            history = (*history, word)


@pytest.mark.parametrize(("order", "cutoffs"), [(1, (0,)), (2, (0,)), (4, (0,)), (4, (0, 0, 1)), (3, (0, 2))])
def test_the_probabilities_of_every_state_sum_to_one(order: int, cutoffs: tuple[int, ...]) -> None:
    from asr.lm.automaton import advance

    model = asr.lm.train(corpus(seed=1, sentences=80, words=12), order, cutoffs=cutoffs)
    words = [i for i in range(len(model.vocabulary)) if i != model.start_id]
    for state in range(len(model.arrays.contexts)):
        total = sum(10 ** advance(model.arrays, state, word)[1] for word in words)
        assert total == pytest.approx(1, abs=1e-5)


LMPLZ = {
    # `lmplz` of kenlm 0.3.0 (built from its PyPI source): (log10 probability, log10 back-off weight).
    # -o 3, 300 words; discounts 0.37963 1.32007 1.86111, 0.837186 1.34886 1.72429, fallback for order 3.
    (300, 3, (0,)): {
        "<unk>": (-2.8847842, 0.0),
        "</s>": (-0.94816375, 0.0),
        "w0": (-1.0793741, -0.27862185),
        "w29": (-2.3374777, -0.112336226),
        "<s> </s>": (-0.8672892, 0.0),
        "w0 w74": (-2.1767957, -0.30103),
        "w15 w66": (-1.7840431, -0.30103),
        "w212 w0": (-0.6334863, -0.30103),
        "w66 </s>": (-0.8695526, 0.0),
        "<s> w0 </s>": (-0.6295193, 0.0),
        "w0 w131 w1": (-0.22598518, 0.0),
        "w14 w2 w10": (-0.59410334, 0.0),
        "w23 w182 w140": (-0.2663631, 0.0),
        "w5 w0 </s>": (-0.43742955, 0.0),
    },
    # -o 4 --prune 0 0 1 1 --discount_fallback, 30 words.
    (30, 4, (0, 0, 1, 1)): {
        "<unk>": (-2.418622, 0.0),
        "</s>": (-1.0902205, 0.0),
        "w0": (-1.0902205, -0.6036697),
        "w7": (-1.5829655, -0.35095152),
        "<s> </s>": (-1.052579, 0.0),
        "w0 w9": (-1.5923917, -0.09289927),
        "w13 w22": (-1.4063429, 0.0),
        "w19 w3": (-1.2271433, -0.03926846),
        "w7 w27": (-1.5564529, 0.0),
        "<s> w0 </s>": (-0.7932927, 0.0),
        "<s> w0 w0 w0": (-0.5341879, 0.0),
    },
}
LMPLZ_COUNTS = {(300, 3, (0,)): (259, 953, 1001), (30, 4, (0, 0, 1, 1)): (33, 381, 116, 30)}


@pytest.mark.parametrize("settings", LMPLZ)
def test_the_model_is_that_of_lmplz(settings: tuple[int, int, tuple[int, ...]]) -> None:
    words, order, cutoffs = settings
    model = asr.lm.train(corpus(seed=3, sentences=200, words=words), order, cutoffs=cutoffs)
    assert model.counts == LMPLZ_COUNTS[settings]
    for gram, expected in LMPLZ[settings].items():
        node = np.zeros(1, dtype=np.int32)
        for word in gram.split():
            node = model.find(node, np.array([model.word_id(word)]))
        assert (model.log10_probs[node[0]], model.backoffs[node[0]]) == pytest.approx(expected, abs=2e-6)


def test_discounts_follow_chen_and_goodman_equation_26() -> None:
    counts = np.repeat([0, 1, 2, 3, 4, 9], [7, 40, 20, 10, 5, 3])
    y = 40 / (40 + 2 * 20)
    expected = (1 - 2 * y * 20 / 40, 2 - 3 * y * 10 / 20, 3 - 4 * y * 5 / 10)
    assert estimate_discounts(counts) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_discounts_without_a_count_of_counts_are_not_guessed_from_it(missing: int) -> None:
    counts = np.array([c for c in [1, 1, 1, 2, 2, 3, 4] if c != missing])
    assert estimate_discounts(counts) is None


def test_a_tiny_text_takes_the_fallback_discounts_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    asr.lm.train(["a b"], order=2)
    assert "discounts of order 1, 2" in caplog.text
    caplog.clear()
    asr.lm.train(["a b"], order=2, quiet=True)
    assert not caplog.text


@pytest.mark.parametrize("sentences", [[""], ["a"], ["a", ""], ["a a a a a a a"], ["a b", "c"]])
@pytest.mark.parametrize("order", [1, 3, 6])
def test_the_smallest_texts_make_sound_models(sentences: list[str], order: int) -> None:
    model = asr.lm.train(sentences, order)
    for history in ("", START, "a", "a a", "x"):
        words = [w for w in model.vocabulary if w != START]
        assert sum(10 ** walk(model, history, w)[1] for w in words) == pytest.approx(1, abs=1e-5)


def test_the_order_of_sentences_changes_no_score() -> None:
    sentences = corpus(seed=8, sentences=60, words=10)
    one, other = asr.lm.train(sentences, 3), asr.lm.train(sorted(sentences), 3)
    for text in sentences[:10]:
        assert one.score(text) == pytest.approx(other.score(text), abs=1e-5)


def test_histories_that_share_a_state_share_their_future() -> None:
    model = asr.lm.train(corpus(seed=4, sentences=40, words=6), 3, cutoffs=(0, 1))
    oracle = Oracle(corpus(seed=4, sentences=40, words=6), 3, (0, 1))
    names = [w for w in model.vocabulary if w != START]
    futures: dict[int, list[float]] = {}
    for history in product(names[:5], repeat=2):
        state = walk(model, history[0], history[1])[0]
        future = [oracle.probability(w, history) for w in names]
        assert futures.setdefault(state, future) == pytest.approx(future, abs=1e-9)
    assert len(futures) < 25  # cut-offs make some histories equal, and the states find them


@pytest.mark.parametrize(
    ("sentences", "settings", "complaint"),
    [
        ([], {}, "no sentences"),
        ("a b", {}, "expected strings"),
        (["a", "b <s> c"], {}, "sentence 2 has <s>"),
        (["<unk>"], {}, "sentence 1 has <unk>"),
        (["a"], {"order": 0}, "order 0"),
        (["a"], {"order": 7}, "order 7"),
        (["a"], {"order": "2"}, "order '2': expected a whole number"),
        (["a"], {"order": 2.0}, "order 2.0: expected a whole number"),
        (["a"], {"cutoffs": (1,)}, "expected 0 for the words"),
        (["a"], {"cutoffs": (0, 2, 1)}, "do not fall"),
        (["a"], {"vocabulary": "one two"}, "the vocabulary is one str, 'one two'"),
        (["a"], {"vocabulary": ["one", "two three"]}, "'two three' in the vocabulary"),
        (["a"], {"vocabulary": [""]}, "'' in the vocabulary"),
        (["a"], {"vocabulary": [3]}, "3 in the vocabulary"),
    ],
)
def test_what_cannot_be_trained_from_is_refused(sentences: list[str], settings: dict, complaint: str) -> None:
    with pytest.raises(LanguageModelError, match=complaint):
        asr.lm.train(sentences, **settings)


def test_composed_and_decomposed_words_are_the_same() -> None:
    texts = ["caf\u00e9 au lait", "caf\u00e9 noir"]
    model = asr.lm.train(texts, order=2)
    apart = model.renamed(lambda word: unicodedata.normalize("NFD", word))
    scores = {
        m.score(unicodedata.normalize(form, texts[1])) for m in (model, apart) for form in ("NFC", "NFD")
    }
    assert len(scores) == 1 and model.perplexity(["cafe\u0301"]).oov == 0


def test_perplexity_is_what_its_definition_says() -> None:
    model = asr.lm.train(corpus(seed=2, sentences=50, words=8), 3)
    texts = ["w0 w1", "w0 martian w2", ""]
    scores = [model.score(text) for text in texts]
    found = model.perplexity(iter(texts))
    unknown = walk(model, "<s> w0", "martian")[1]
    assert (found.words, found.oov, found.sentences) == (5, 1, 3)
    assert found.log10_prob == pytest.approx(sum(scores), abs=1e-9)
    assert found.perplexity == pytest.approx(10 ** (-sum(scores) / 8))
    assert found.perplexity_without_oov == pytest.approx(10 ** (-(sum(scores) - unknown) / 7))


def test_one_text_in_place_of_several_sentences_is_refused() -> None:
    model = asr.lm.train(["one two", "two"], order=2)
    with pytest.raises(LanguageModelError, match="sentences is one str"):
        model.perplexity("one two")
    for wrong in (["one two"], b"one", None):
        with pytest.raises(LanguageModelError, match=f"a {type(wrong).__name__} to score"):
            model.score(wrong)


def test_perplexity_of_nothing_is_refused() -> None:
    with pytest.raises(LanguageModelError, match="empty text"):
        asr.lm.train(["a"], 1).perplexity([])


def test_a_model_survives_its_arrays_and_pickling() -> None:
    model = asr.lm.train(corpus(seed=2, sentences=50, words=8), 3)
    model.score("w0")  # the automaton is kept, and must not get in the way
    for copy in (asr.lm.NGramModel.from_arrays(model.to_arrays()), pickle.loads(pickle.dumps(model))):
        assert copy.vocabulary == model.vocabulary
        assert copy.counts == model.counts
        assert copy.score("w0 w3 x w1") == model.score("w0 w3 x w1")


@pytest.mark.parametrize(
    "damage",
    [
        lambda a: a.pop("words"),
        lambda a: a.update(words=a["words"][:-1]),
        lambda a: a.update(words=a["words"] + 100),
        lambda a: a.update(parents=a["parents"][::-1].copy()),
        lambda a: a.update(parents=a["parents"] + 2**20),
        lambda a: a.update(log10_probs=a["log10_probs"] + 9),
        lambda a: a.update(backoffs=a["backoffs"] * np.nan),
        lambda a: a.update(vocabulary=a["vocabulary"][:-9]),
        lambda a: a.update(vocabulary=np.full_like(a["vocabulary"], 255)),
        lambda a: a.update(counts=a["counts"] + 1),
        lambda a: a.update(counts=a["counts"][:0]),
    ],
)
def test_damaged_arrays_are_refused(damage: object) -> None:
    arrays = dict(asr.lm.train(corpus(seed=2, sentences=50, words=8), 3).to_arrays())
    damage(arrays)  # type: ignore[operator]
    with pytest.raises(LanguageModelError):
        asr.lm.NGramModel.from_arrays(arrays)


def test_importing_the_room_does_not_load_numba() -> None:
    code = "import asr.lm, sys; asr.lm.train(['a b']); sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_words_can_be_renamed_without_changing_a_probability():
    model = asr.lm.train(["A B", "B A C"], order=2)
    small = model.renamed(str.lower)
    assert small.vocabulary == ["<unk>", "<s>", "</s>", "a", "b", "c"]
    assert small.score("b a c") == model.score("B A C")
    with pytest.raises(LanguageModelError, match="2 words of the language model become 'a'"):
        asr.lm.train(["a A"], order=1).renamed(str.lower)
