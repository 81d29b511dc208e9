"""Pronunciation lexicons: the beam over phones against every labelling and every way of writing it."""

import itertools
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

import asr.lm
from asr.decoding import BeamDecoder
from asr.errors import DecodingError
from asr.pronunciation import Lexicon
from asr.text import Alphabet
from tests.test_decoding_beam import LN_10, UNPRUNED, all_labellings, hotword_score, random_log_probs

PHONES = Alphabet([" ", "t", "uː"])
LEXICON = {
    "two": [("t", "uː")],
    "too": [("t", "uː")],
    "to": [("t", "uː"), ("t",)],
    "ooh": [("uː",)],
    "oo": [("uː",)],
}
SENTENCES = ["two to two", "to two too", "ooh to two", "two too", "oo to ooh", "too"]


def ways_of_writing(tokens: tuple[int, ...]) -> list[str]:
    """Every text whose words have these phones."""
    symbols = [PHONES.symbols[token - 1] for token in tokens]
    spoken = [tuple(word) for space, word in itertools.groupby(symbols, lambda s: s == " ") if not space]
    choices = [[word for word, all_ in LEXICON.items() if phones in all_] for phones in spoken]
    return [" ".join(words) for words in itertools.product(*choices)]


def scores(log_probs_TV: Tensor, score: Callable[[str], float]) -> dict[tuple[int, ...], dict[str, float]]:
    """For each labelling the score of each text that it can be written as."""
    return {
        tokens: {text: ln + score(text) for text in ways_of_writing(tokens)}
        for tokens, ln in all_labellings(log_probs_TV).items()
    }


def phone_score(order: int, hot: Mapping[str, float]) -> tuple[asr.lm.NGramModel, Callable[[str], float]]:
    lm = asr.lm.train(SENTENCES, order=order)
    return (
        lm,
        lambda text: 0.9 * LN_10 * lm.score(text) + 0.4 * len(text.split()) + hotword_score(dict(hot))(text),
    )


@pytest.mark.parametrize("hot", [{}, {"too": 1.5, "ooh to": 2.0}], ids=["", "hotwords"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_without_pruning_phones_are_written_as_the_best_words_of_all(order, hot):
    lm, score = phone_score(order, hot)
    settings = {"lm": lm, "alpha": 0.9, "beta": 0.4, "lexicon": LEXICON, "hotwords": hot, **UNPRUNED}
    decoder, missed = BeamDecoder(PHONES, **settings), 0
    for seed in range(24):
        frames = 1 + seed % 6
        log_probs_TV = random_log_probs(frames, 4, seed)
        every = scores(log_probs_TV, score)
        [found] = decoder.decode(log_probs_TV[None], [frames], n_best=8)
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        assert len({h.text(PHONES) for h in found}) == len(found)
        for h in found:
            assert h.score == pytest.approx(every[h.tokens][h.text(PHONES)], abs=1e-5)
            assert h.score == pytest.approx(max(every[h.tokens].values()), abs=1e-5)
        best = max(max(texts.values()) for texts in every.values() if texts)
        missed += found[0].score < best - 1e-5
    assert missed == 0


def test_words_have_their_orthography_times_and_confidence():
    clear = torch.full((1, 8, 4), 0.01)
    for t, k in enumerate([2, 3, 0, 1, 0, 3, 3, 1]):  # t uː, space, uː uː, space
        clear[0, t, k] = 0.97
    decoder = BeamDecoder(PHONES, lm=asr.lm.train(SENTENCES, order=2), lexicon=LEXICON)
    [found] = decoder.decode(clear.log(), [8])
    words = found.words(PHONES)
    assert found.text(PHONES) == " ".join(word.text for word in words)
    assert words[0].text in ("two", "too", "to") and words[1].text in ("ooh", "oo")
    assert [(w.start_frame, w.end_frame) for w in words] == [(0, 2), (5, 7)]
    assert all(0.8 < w.confidence <= 1 for w in words)


def test_the_language_model_and_hotwords_choose_among_homophones():
    clear = torch.full((1, 2, 4), 0.01)
    clear[0, 0, 2] = clear[0, 1, 3] = 0.97
    lm = asr.lm.train(["two", "two to", "two", "ooh too"], order=2)
    assert lm.score("two") > lm.score("too")
    plain, hot = (BeamDecoder(PHONES, lm=lm, lexicon=LEXICON, hotwords=h) for h in ((), ("too",)))
    assert [d.decode(clear.log(), [2])[0].text(PHONES) for d in (plain, hot)] == ["two", "too"]


def test_what_no_word_spells_is_not_written():
    clear = torch.full((1, 3, 4), 0.01)
    for t, k in enumerate([2, 3, 2]):  # t uː t
        clear[0, t, k] = 0.97
    [found] = BeamDecoder(PHONES, lexicon=LEXICON).decode(clear.log(), [3])
    assert found.text(PHONES) in ways_of_writing(found.tokens)


@pytest.mark.parametrize(
    ("alphabet", "settings", "message"),
    [
        (Alphabet(["t", "uː"]), {"lexicon": LEXICON}, "between words"),
        (PHONES, {"lexicon": {"two": ["tuː"]}}, "each a list of symbols"),
        (PHONES, {"lexicon": {"two": "tuː"}}, "each a list of symbols"),
        (PHONES, {"lexicon": {"no": [("n", "oʊ")]}}, "cannot be spelled"),
        (PHONES, {"lexicon": {}}, "without words"),
        (PHONES, {"lexicon": LEXICON, "hotwords": ["three"]}, "without a pronunciation: 'three'"),
    ],
)
def test_lexicons_without_sense_are_refused(alphabet, settings, message):
    with pytest.raises(DecodingError, match=message):
        BeamDecoder(alphabet, **settings)


def test_chosen_words_are_pronounced_as_the_alphabet_s_lexicon_says(caplog):
    lm = asr.lm.train(SENTENCES, order=2)
    phones = Alphabet(PHONES.symbols, lexicon=Lexicon(LEXICON))
    log_probs_BTV = torch.randn(3, 30, PHONES.size, generator=torch.Generator().manual_seed(1)).log_softmax(2)
    for model, hotwords in itertools.product((None, lm), ((), ("ooh",))):
        words = dict.fromkeys(("two", "too", *hotwords))
        found = BeamDecoder(phones, model, lexicon=["two", "too"], hotwords=hotwords)
        expected = BeamDecoder(PHONES, model, lexicon={w: LEXICON[w] for w in words}, hotwords=hotwords)
        [said, meant] = (d.decode(log_probs_BTV, [30, 20, 10]) for d in (found, expected))
        assert [h.text(phones) for h in said] == [h.text(PHONES) for h in meant]
        assert set(" ".join(h.text(phones) for h in said).split()) <= set(words)
    caplog.clear()
    BeamDecoder(phones, lm, lexicon=["two"])
    assert not caplog.text, "whoever chooses words wants no others"
    with pytest.raises(DecodingError, match="1 of 1 words cannot be spelled"):
        BeamDecoder(phones, lexicon=["nowhere"])


def test_words_without_a_pronunciation_or_with_strange_symbols_are_counted(caplog):
    lm = asr.lm.train([*SENTENCES, "three nine"], order=2)
    more = {"nine": [("n", "aɪ", "n")], "ten": [], "toot": iter([("t", "uː", "t")])}
    decoder = BeamDecoder(PHONES, lm=lm, lexicon=LEXICON | more)
    assert decoder.unspellable == ["nine", "ten"] and "toot" in decoder.words
    assert "2 of 9 words cannot be spelled" in caplog.text
    assert "1 of 7 words of the language model have no pronunciation, e.g. 'three'" in caplog.text
