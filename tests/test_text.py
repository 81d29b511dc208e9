"""Normalisation and the alphabet, on more than English."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import AlphabetError, TextError
from asr.text import Alphabet, normalise

SENTENCES = {
    "korean": "안녕하세요 세계",
    "german": "die größe der häuser",
    "japanese": "東京都に行きたいです",
    "english": "don't stop",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_text_survives_the_round_trip(language):
    text = normalise(SENTENCES[language])
    alphabet = Alphabet.from_texts([text])
    assert alphabet.decode(alphabet.encode(text)) == text


@pytest.mark.parametrize("language", SENTENCES)
def test_subwords_survive_the_round_trip(language):
    text = normalise(SENTENCES[language])
    alphabet = Alphabet.from_texts([text] * 5, subwords=40)
    assert alphabet.is_subword
    assert alphabet.decode(alphabet.encode(text)) == text


def test_decomposed_and_composed_text_are_the_same_symbols():
    composed, decomposed = "größe 안녕", unicodedata.normalize("NFD", "größe 안녕")
    assert composed != decomposed
    alphabet = Alphabet.from_texts([decomposed])
    assert alphabet.encode(composed) == alphabet.encode(decomposed)
    assert Alphabet(list(decomposed and "ö")).encode(unicodedata.normalize("NFD", "ö")) == [1]


def test_the_blank_is_zero_and_symbols_follow_in_order():
    alphabet = Alphabet([" ", "a", "b"])
    assert alphabet.size == 4
    assert alphabet.encode(" ab") == [1, 2, 3]
    assert alphabet.decode([0, 2, 0, 2, 3, 0]) == "aab"


def test_unknown_characters_are_all_named():
    with pytest.raises(AlphabetError, match=r"no '5', 'é'"):
        Alphabet(["a", "b"]).encode("ab5é")
    assert Alphabet(["a", "b"]).missing("ab5é") == {"5", "é"}


def test_subwords_refuse_characters_they_were_not_trained_on():
    alphabet = Alphabet.from_texts(["one two three"] * 3, subwords=20)
    with pytest.raises(AlphabetError, match="no 'z'"):
        alphabet.encode("zone")


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ([], "at least one"),
        (["a", ""], "empty"),
        (["a", "b", "a"], "'a' stands twice"),
        ([1], "symbol 1 is of type int; expected a text"),
    ],
)
def test_contradictory_alphabets_are_refused(symbols, message):
    with pytest.raises(AlphabetError, match=message):
        Alphabet(symbols)


def test_too_few_subwords_are_refused():
    with pytest.raises(AlphabetError, match="ask for more"):
        Alphabet.from_texts(["abcdefgh"], subwords=4)


@pytest.mark.parametrize("subwords", [None, 10])
def test_an_alphabet_of_no_text_is_refused(subwords):
    with pytest.raises(AlphabetError, match="the transcripts are empty"):
        Alphabet.from_texts(["", ""], subwords=subwords)


def test_an_index_outside_the_outputs_is_refused():
    with pytest.raises(AlphabetError, match="outputs 0 to 2"):
        Alphabet(["a", "b"]).decode([3])


def test_json_keeps_all_of_the_alphabet():
    for alphabet in (Alphabet(list("abc ")), Alphabet.from_texts(["one two three"] * 3, subwords=20)):
        again = Alphabet.from_json(alphabet.to_json())
        assert again == alphabet
        assert again.encode("one" if alphabet.is_subword else "abc") == alphabet.encode(
            "one" if alphabet.is_subword else "abc"
        )


def test_symbols_of_several_characters_match_longest_first():
    assert Alphabet(["s", "h", "sh", "ch"]).encode("shs") == [3, 1]


def test_normalisation_keeps_what_is_inside_words():
    assert normalise("“It’s a well-known FACT,” she said…") == "it's a well-known fact she said"
    assert normalise("'tis  -- rock 'n' roll-") == "tis rock n roll"
    assert normalise("Straße", "upper") == "STRASSE"
    assert normalise(" A  b ", "none") == "A b"


def test_marks_of_hebrew_turkish_and_keycaps_split_no_word():
    assert normalise("ג׳ירפה") == normalise("ג'ירפה") == "ג'ירפה"
    assert normalise("צה״ל") == normalise('צה"ל') == "צהל"
    assert normalise('אמר "שלום" לי') == "אמר שלום לי"
    assert normalise("İyi") == normalise("iyi")
    assert normalise("1\ufe0f\u20e3 ja") == "1 ja"
    assert normalise("Paral·lel i «il·lusió» · fi·l") == "paral·lel i il·lusió fi l"
    assert normalise("Coŀlecció", "upper") == "COL·LECCIÓ"


def test_marks_that_combine_belong_to_the_word():
    assert normalise("दो-तीन, तीन-चार") == "दो-तीन तीन-चार"
    assert normalise("-दो- 'தீ'", "upper") == "दो தீ"


def test_characters_that_only_say_where_a_line_may_break_leave_words_whole():
    assert normalise("\ufeffWort\u00adteil, ไป\u200bไหน") == "wortteil ไปไหน"
    assert normalise("e\u00ad\u0301") == "é"
    assert normalise("\ufeffWort\u00adteil", "none") == "\ufeffWort\u00adteil"


@pytest.mark.parametrize("style", ["basic", "upper"])
@pytest.mark.parametrize("invisible", ["\u2060", "\u200e", "\u202b", "\u2066", "\U000e0061"])
def test_no_character_without_width_separates_words(invisible, style):
    assert normalise(f"ab{invisible}cd, {invisible}", style) == normalise("abcd", style)


@pytest.mark.parametrize(
    "word",
    [
        "ශ්\u200dරී",  # Sinhala: a joined consonant
        "അവന്\u200d",  # Malayalam: a consonant without vowel, at the end of a word
        "दर्\u200dया",  # Marathi: another word without
        "র\u200d্যাব",  # Bengali: before the virama
        "می\u200cخواهم",  # Persian: two parts of a word
        "مُ\u200cخ",  # after a vowel sign
    ],
)
def test_joiners_that_are_part_of_the_spelling_stay(word):
    assert normalise(f"«{word}»! {word}") == f"{word} {word}"


@pytest.mark.parametrize("joiner", ["\u200c", "\u200d"])
def test_joiners_that_show_nothing_leave_no_trace(joiner):
    said = f"{joiner}Auf{joiner}lage{joiner} 👨{joiner}👩 e{joiner}\u0301 می{joiner} ❤️"
    assert normalise(said) == "auflage é می"
    assert normalise(f"می\u200c{joiner}خواهم") == "می\u200cخواهم"


def test_an_unknown_style_is_refused():
    with pytest.raises(TextError, match="expected one of"):
        normalise("a", "fancy")  # type: ignore[arg-type]


JOINED = (
    "\u200c\u200d\u00adद्र्मیخُ\u093c\u0316\u0301e-' 👨"  # letters with marks that change places, and joiners
)


@given(
    st.text(max_size=40) | st.text(alphabet=JOINED, max_size=12), st.sampled_from(["none", "basic", "upper"])
)
def test_normalising_twice_changes_nothing_and_leaves_it_composed(text, style):
    once = normalise(text, style)
    assert normalise(normalise("ľŉš", style), style) == normalise(
        "ľŉš", style
    )  # upper case brings an apostrophe
    assert normalise(once, style) == once == unicodedata.normalize("NFC", once)


@given(st.lists(st.text(alphabet="abcäöü 안녕", max_size=12), min_size=1, max_size=5))
def test_any_text_over_its_own_alphabet_round_trips(texts):
    if not any(texts):
        return
    alphabet = Alphabet.from_texts(texts)
    for text in texts:
        normal = unicodedata.normalize("NFC", text)
        assert alphabet.decode(alphabet.encode(text)) == normal


@pytest.mark.parametrize(
    ("texts", "separates"),
    [(["one", "two"], True), (["да", "нет"], True), (["하나", "둘"], True), (["一二", "三"], False),
     (["สวัสดี"], False), (["はい", "いいえ"], False), (["我 要 OK", "好"], True),
     (["人々は 行く", "〆切"], False), (["ｶﾗｵｹ ﾊﾞｰ"], False)],
)  # fmt: skip
def test_words_can_be_told_apart_though_each_transcript_has_but_one(texts, separates):
    assert (Alphabet.from_texts(texts).space is not None) == separates


def test_a_longest_symbol_that_leads_nowhere_is_not_taken():
    alphabet = Alphabet(["ab", "a", "bc", "abcd"])
    assert [alphabet.symbols[i - 1] for i in alphabet.encode("abcabababcd")] == [
        "a",
        "bc",
        "ab",
        "ab",
        "abcd",
    ]
    with pytest.raises(AlphabetError, match="no symbols of the alphabet spell 'abb'"):
        alphabet.encode("abb")


@pytest.mark.parametrize(
    ("alphabet", "text", "words"),
    [
        (Alphabet(list("你好世界")), "世界 你好", "世 界 你 好"),
        (Alphabet(list("你好")), "你好吗", "你 好 吗"),
        (Alphabet(["s", "h", "sh"]), "shs s h", "sh s s h"),
        (Alphabet(["ab", "bc"]), "abc", "a b c"),
        (Alphabet(list(" ab")), "ab a", "ab a"),
        (Alphabet.from_texts(["你好世界"], subwords=9), "你好世界", "你好世界"),
    ],
)
def test_in_scripts_without_spaces_every_symbol_is_a_word(alphabet, text, words):
    assert alphabet.separate(text) == words
    assert alphabet.separate(words) == words
