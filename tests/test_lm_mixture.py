"""Two language models as one: by hand, against the sums of each, and for texts that they cut differently."""

import contextlib
import itertools
import math
import unicodedata
from collections.abc import Sequence

import numpy as np
import pytest

import asr.lm
from asr import cli
from asr.encoder import EncoderConfig
from asr.errors import LanguageModelError
from asr.lm import NGramModel, RecurrentConfig, RecurrentModel, Steps, by_words, mixed
from asr.lm.mixture import AFTER
from asr.lm.recurrent import UNSEEN_LN
from asr.recognizer import Recognizer

TEXT = ["one two three", "two one", "three three one", "two thirteen"] * 6


def small(text: list[str], pieces: int = 24) -> RecurrentModel:
    config = RecurrentConfig(pieces=pieces, width=16, epochs=1)
    return asr.lm.train_recurrent(text, config, device="cpu")


@pytest.fixture(scope="module")
def lstm() -> RecurrentModel:
    return small(TEXT)


def test_the_steps_of_n_grams_are_their_words() -> None:
    model, sentences = asr.lm.train(TEXT, 3), ["two one", "", "three unheard two"]
    found = by_words(model, sentences)
    assert [read.ends.tolist() for read in found] == [[3, 6, AFTER], [AFTER], [5, 12, 15, AFTER]]
    for read, sentence in zip(found, sentences, strict=True):
        assert read.ln.sum() == pytest.approx(model.score(sentence) * math.log(10))
    first = model.score("two") - model.score("")
    assert found[0].ln[0] != pytest.approx(first * math.log(10)), "the end of a sentence is a step of its own"


def test_words_that_a_model_has_decomposed_are_known_by_their_usual_spelling() -> None:
    decomposed = unicodedata.normalize("NFD", "grün")
    model = asr.lm.train([f"{decomposed} rot"], 2)
    assert model.word_id("grün") == model.word_id(decomposed) != model.unknown_id
    assert model.score("grün rot") == model.score(f"{decomposed} rot")
    assert by_words(model, [f"{decomposed} rot"])[0].ends.tolist() == [4, 7, AFTER]


def test_the_steps_of_an_lstm_are_pieces_that_end_where_words_do(lstm: RecurrentModel) -> None:
    sentences = ["three thirteen", "one", "", "two two thirteen one"]
    for read, sentence in zip(lstm.steps(sentences), sentences, strict=True):
        words = np.cumsum([*map(len, sentence.split())]).tolist()
        assert {*words, AFTER} <= set(read.ends.tolist()) and (np.diff(read.ends) > 0).all()
        assert len(read.ends) == len(read.ln) == len(lstm.spell(sentence)[0]) + 1
        assert read.ln.sum() == pytest.approx(lstm.log_probs([sentence])[0])
    assert lstm.log_probs(sentences) == pytest.approx([lstm.log_probs([s])[0] for s in sentences], abs=1e-5)


def test_unseen_characters_count_where_their_word_ends(lstm: RecurrentModel) -> None:
    plain, [read] = lstm.steps(["one e"])[0], lstm.steps(["one é漢 漢字"])
    with_e = lstm.steps(["one"])[0]
    assert read.ends.tolist() == [*with_e.ends[:-1], 5, 7, AFTER]
    assert read.ln.tolist()[-3:-1] == [2 * UNSEEN_LN, 2 * UNSEEN_LN]
    assert lstm.steps(["one e漢"])[0].ends.tolist() == [*plain.ends[:-1][:-1], 5, 5, AFTER]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_stretch_is_what_lies_between_common_ends(share: float) -> None:
    one = Steps(np.array([2, 3, 5, AFTER]), np.log([0.5, 0.4, 0.2, 0.9]))
    other = Steps(np.array([1, 3, 4, 5, AFTER]), np.log([0.7, 0.3, 0.6, 0.5, 0.1]))
    stretches = [(0.5 * 0.4, 0.7 * 0.3), (0.2, 0.6 * 0.5), (0.9, 0.1)]
    expected = sum(math.log((1 - share) * a + share * b) for a, b in stretches)
    assert mixed(one, other, share) == pytest.approx(expected)
    assert mixed(other, one, 1 - share) == pytest.approx(expected)


def test_characters_and_pieces_of_several_are_mixed_by_piece() -> None:
    text = ["天好天", "好天天好", "天好"] * 8
    ngrams, pieces = asr.lm.train(map(" ".join, text), 2), small(text, pieces=8)
    sentence = "天好天好"
    [characters], [read] = by_words(ngrams, [" ".join(sentence)]), pieces.steps([sentence])
    assert characters.ends.tolist() == [1, 2, 3, 4, AFTER]
    assert set(read.ends) < set(characters.ends), "at least one piece has two characters"
    between = np.split(characters.ln, [*np.searchsorted(characters.ends, read.ends[:-1], side="right")])
    by_hand = [
        math.log(0.5 * math.exp(p.sum()) + 0.5 * math.exp(ln)) for p, ln in zip(between, read.ln, strict=True)
    ]
    assert mixed(characters, read, 0.5) == pytest.approx(sum(by_hand))


def conditional(model: NGramModel, history: tuple[str, ...], words: Sequence[str]) -> np.ndarray:
    """P(w | <s> history) of each word."""
    _, log10 = model.token_scores([" ".join([*history, word]) for word in words])
    return 10 ** log10.reshape(len(words), len(history) + 2)[:, len(history)]


@pytest.mark.parametrize("orders", [(3, 3), (2, 4), (4, 1), (1, 3)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_probabilities_of_a_merged_model_sum_to_one_after_every_history(orders, share):
    texts = (["a b c d", "b c a", "c a b b", "d d a"], ["b c e", "e f a b", "f e a", "a b e"])
    first, second = (asr.lm.train(text, order, quiet=True) for text, order in zip(texts, orders, strict=True))
    merged = asr.lm.interpolate(first, second, share)
    assert merged.order == max(orders) and set(merged.known_words) == set("abcdef")
    words = [*"abcdef", "<unk>"]
    for history in itertools.chain.from_iterable(itertools.product("abcdefg", repeat=n) for n in range(4)):
        end = 10 ** merged.token_scores([" ".join(history)])[1][-1]
        assert conditional(merged, history, words).sum() + end == pytest.approx(1, abs=1e-5), history


def test_what_either_model_lists_has_the_mean_of_their_probabilities():
    first = asr.lm.train(["a b c", "a b d", "b c a"], 3, quiet=True)
    second = asr.lm.train(["a b e", "e a b", "c b a b"], 2, quiet=True)
    merged = asr.lm.interpolate(first, second, 0.25)
    for history in ((), ("a",), ("b",)):  # after <s>
        words = list("abcde")
        one, other = (
            conditional(model, history, words) * [w in model.vocabulary for w in words]
            for model in (first, second)
        )
        mean = 0.75 * one + 0.25 * other
        listed = [is_listed(first, history, w) or is_listed(second, history, w) for w in words]
        assert 0 < sum(listed) < len(words)
        found = conditional(merged, history, words)
        np.testing.assert_allclose(found[listed], mean[listed], rtol=1e-5)


def is_listed(model: NGramModel, history: tuple[str, ...], word: str) -> bool:
    """Whether the model has the n-gram <s> history word."""
    node = 1 + model.start_id
    for w in (*history, word):
        found = model.find(np.array([node]), np.array([model.word_id(w)])) if w in model.vocabulary else [-1]
        if (node := int(found[0])) < 0:
            return False
    return True


def test_a_model_merged_with_nothing_scores_as_before():
    first = asr.lm.train(["a b c", "a b d", "b c a"], 3, quiet=True)
    for merged in (
        asr.lm.interpolate(first, first, 0.4),
        asr.lm.interpolate(first, asr.lm.train(["a"], 1), 0.0),
    ):
        for sentence in ("a b c", "d d a b", "", "c z b"):
            assert merged.score(sentence) == pytest.approx(first.score(sentence), abs=1e-5)
    with pytest.raises(LanguageModelError, match=r"share 1\.5"):
        asr.lm.interpolate(first, first, 1.5)


def test_the_best_share_is_the_one_a_grid_finds():
    first = asr.lm.train(["a b c", "a b d", "b c a", "c d"], 2, quiet=True)
    second = asr.lm.train(["a d e", "e d a", "d d"], 2, quiet=True)
    held_out = ["a b e", "c d d", "e d", "zzz a"]
    one, other = (
        np.where((found := model.token_scores(held_out))[0] == model.unknown_id, 0, 10 ** found[1])
        for model in (first, second)
    )
    known = one + other > 0
    grid = np.linspace(0.05, 0.95, 901)
    best = max(grid, key=lambda share: np.log(((1 - share) * one + share * other)[known]).sum())
    assert asr.lm.best_share(first, second, held_out) == pytest.approx(best, abs=0.01)
    assert asr.lm.best_share(first, second, []) == 0.5


def test_the_command_merges_files_and_the_n_grams_of_bundles(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, second = asr.lm.train(["a b", "b a"], 2, quiet=True), asr.lm.train(["b c", "c c"], 2, quiet=True)
    second.save("second.arpa")
    model = Recognizer.build(asr.Alphabet(list(" abc")), encoder=EncoderConfig(layers=1, width=4))
    model.save("without")
    model.lm = first
    model.save("with")
    (tmp_path / "held_out.txt").write_text("B, c!\nc c\n", encoding="utf-8")

    def mix(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["asr", "lm", "mix", *words, "second.arpa", "-o", "mixed.arpa.gz"])
        with contextlib.suppress(SystemExit):
            cli.main()
        return capsys.readouterr().err

    for options, share in (
        (["--share", "0.2"], 0.2),
        ([], 0.5),
        (["--text", "held_out.txt"], asr.lm.best_share(first, second, ["b c", "c c"])),
    ):
        assert f"3 words, {share:.0%} of second.arpa" in mix("with", *options)
        merged, expected = asr.lm.load("mixed.arpa.gz"), asr.lm.interpolate(first, second, share)
        assert merged.score("a b c") == pytest.approx(expected.score("a b c"), abs=1e-5)
    assert "without: the bundle has no n-gram model" in mix("without")
    assert "--share or --text" in mix("with", "--share", "0.2", "--text", "held_out.txt")
