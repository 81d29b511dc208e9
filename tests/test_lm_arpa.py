"""Language models as files: round trips, KenLM as another reader, every kind of damage with its line."""

import bz2
import gzip
import io
import lzma
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import asr.lm
from asr.errors import LanguageModelError, TextError

OPENERS: dict[str, Callable] = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

# As others write it: notes on top, spaces or tabs, <UNK>, no back-off where none is needed, or one of 0, a
# trigram whose suffix "b c" is no bigram, a back-off weight without followers, CRLF, −∞ for what is not said.
FOREIGN = (
    "made elsewhere\n\n\\data\\\nngram 1=6\nngram  2 = 4\nngram 3=2\n\n"
    "\\1-grams:\n-1.5 <UNK>\n-inf\t<s>\t-0.4\r\n-0.9 </s>\n-0.7\ta -0.3\n-0.6 b\t-0.25\n-1.1\tc\n\n"
    "\\2-grams:\n-0.2 <s> a -0.15\n-0.3\ta b\t0.05\n-0.5 b a -0.6\n-0.45 b </s>\n\n"
    "\\3-grams:\n-0.11 a b c 0.0\n-0.12 <s> a b\n\n\\end\\\n"
)
FOREIGN_SCORES = {  # log10 probabilities by hand, from the file: words and </s> after <s>
    "a b c": -0.2 - 0.12 - 0.11 - 0.9,
    "a": -0.2 + (-0.15 - 0.3 - 0.9),
    "c b": (-0.4 - 1.1) - 0.6 - 0.45,
    "b a b": (-0.4 - 0.6) - 0.5 + (-0.6 - 0.3) + (0.05 - 0.45),
    "z": (-0.4 - 1.5) - 0.9,
    "": -0.4 - 0.9,
}


def sentences(count: int, *, words: int = 40, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join(f"w{int(words * rng.random() ** 3)}" for _ in range(int(12 * rng.random())))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def model() -> asr.lm.NGramModel:
    return asr.lm.train(sentences(200), order=4, cutoffs=(0, 0, 1))


@pytest.mark.parametrize("suffix", OPENERS)
def test_a_saved_model_comes_back_bit_for_bit(model: asr.lm.NGramModel, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.arpa{suffix}"
    model.save(path)
    back = asr.lm.load(path)
    assert back.vocabulary == model.vocabulary
    expected = model.to_arrays()
    for name, array in back.to_arrays().items():
        assert array.dtype == expected[name].dtype
        assert (array == expected[name]).all()


@pytest.mark.parametrize("suffix", OPENERS)
def test_saving_gives_the_same_bytes_under_any_name(
    model: asr.lm.NGramModel, tmp_path: Path, suffix: str
) -> None:
    one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
    model.save(one)
    asr.lm.load(one).save(other)
    assert one.read_bytes() == other.read_bytes()
    assert sorted(tmp_path.iterdir()) == [one, other]


def test_a_dash_is_standard_output(model: asr.lm.NGramModel, tmp_path: Path, capfdbinary) -> None:
    model.save(tmp_path / "model.arpa")
    model.save("-")
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == (tmp_path / "model.arpa").read_bytes()


def test_a_model_that_cannot_be_written_leaves_nothing_behind(
    model: asr.lm.NGramModel, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(LanguageModelError, match="taken"):
        model.save(tmp_path / "taken")
    (tmp_path / "file").touch()
    with pytest.raises(LanguageModelError, match="cannot be written"):
        model.save(tmp_path / "file" / "x.arpa")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken"]


def test_a_suffix_in_capitals_compresses_too(model: asr.lm.NGramModel, tmp_path: Path) -> None:
    model.save(tmp_path / "new folder" / "X.ARPA.GZ")
    assert gzip.decompress((tmp_path / "new folder" / "X.ARPA.GZ").read_bytes()).startswith(b"\\data\\")


@pytest.mark.parametrize(("order", "cutoffs"), [(2, (0,)), (3, (0,)), (5, (0, 0, 1)), (6, (0,))])
def test_kenlm_gives_our_file_the_same_scores(tmp_path: Path, order: int, cutoffs: tuple[int, ...]) -> None:
    kenlm = pytest.importorskip("kenlm", reason="KenLM's Python module is not installed (extra: kenlm)")
    ours = asr.lm.train(sentences(300), order, cutoffs=cutoffs)
    ours.save(tmp_path / "x.arpa")
    theirs = kenlm.Model(str(tmp_path / "x.arpa"))
    for text in [*sentences(100, words=60, seed=1), *sentences(20), ""]:
        assert ours.score(text) == pytest.approx(theirs.score(text), abs=1e-4)


def test_kenlm_agrees_on_a_foreign_file(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="KenLM's Python module is not installed (extra: kenlm)")
    path = tmp_path / "x.arpa"
    strict = re.sub(r"^(-\S+)[ \t]", r"\1\t", FOREIGN.partition("\n\n")[2].replace("\r", ""), flags=re.M)
    strict = re.sub(r"[ \t](-?[\d.]+)$", r"\t\1", strict, flags=re.M).replace("  2 =\t4", " 2=4")
    path.write_text(strict)
    theirs = kenlm.Model(str(path))
    for text, expected in FOREIGN_SCORES.items():
        assert theirs.score(text) == pytest.approx(expected, abs=1e-5)


def test_files_of_other_programs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.arpa"
    path.write_text(FOREIGN)
    foreign = asr.lm.load(path)
    assert foreign.counts == (6, 4, 2)
    assert foreign.word_id("nowhere") == foreign.word_id("<unk>") == 0
    for text, expected in FOREIGN_SCORES.items():
        assert foreign.score(text) == pytest.approx(expected, abs=1e-6)


def test_a_byte_order_mark_before_the_file_is_skipped(tmp_path: Path) -> None:
    asr.lm.train(["a b"], order=1).save(tmp_path / "plain.arpa")
    marked = tmp_path / "marked.arpa"
    marked.write_bytes(b"\xef\xbb\xbf" + (tmp_path / "plain.arpa").read_bytes())
    assert asr.lm.load(marked).vocabulary == asr.lm.load(tmp_path / "plain.arpa").vocabulary


def test_words_of_all_scripts_pass_through(tmp_path: Path) -> None:
    model = asr.lm.train(["grüße 세계", "naïve \\data\\ 1=2", "%s \\end\\"], order=2)
    model.save(tmp_path / "x.arpa")
    assert asr.lm.load(tmp_path / "x.arpa").vocabulary == model.vocabulary


@pytest.mark.parametrize(
    ("old", "new", "line", "complaint"),
    [
        ("\\data\\", "data", 26, "no \\data\\"),
        ("ngram 1=6\n", "", 4, "expected 'ngram 1=<count>'"),
        ("ngram  2 = 4", "ngram 2=many", 5, "expected 'ngram 2=<count>'"),
        ("ngram 1=6", "ngram 1=7", 15, "declares 7 1-grams, but there are fewer"),
        ("ngram 1=6", "ngram 1=5", 14, "expected \\2-grams: after 5 1-grams"),
        ("ngram 3=2", "ngram 3=3", 25, "declares 3 3-grams, but there are fewer"),
        ("ngram 3=2", "ngram 3=1", 24, "expected \\end\\ after 1 3-grams"),
        ("\\2-grams:\n", "", 16, "expected \\2-grams:"),
        ("\\3-grams:", "\\4-grams:", 22, "expected \\3-grams:"),
        ("-0.7\ta -0.3", "nan\ta -0.3", 12, "nan is no log10 probability"),
        ("-0.7\ta -0.3", "0.7\ta -0.3", 12, "0.7 is no log10 probability"),
        ("-0.7\ta -0.3", "a\ta -0.3", 12, "a is no log10 probability"),
        ("-0.7\ta -0.3", "-0.7\ta b", 12, "b is no back-off weight"),
        ("-0.7\ta -0.3", "-0.7", 12, "expected log10 probability, 1 word "),
        ("-0.7\ta -0.3", "-0.7 b -0.3", 13, "for the second time"),
        ("-0.3\ta b\t0.05", "-0.3\ta b\t0.05 0", 18, "expected log10 probability, 2 words"),
        ("-0.3\ta b\t0.05", "-0.3 a d", 18, "not among the 1-grams"),
        ("-0.3\ta b\t0.05", "-0.3 b a", 19, "2-gram stands in the file for the second time"),
        ("-0.11 a b c", "-0.11 a c c", 23, "the first 2 words are no 2-gram"),
        ("-0.11 a b c", "-0.11 a b c -0.1", 23, "expected log10 probability, 3 words"),
        ("</s>", "d", 26, "lack </s>"),
        ("\\end\\\n", "", 25, "expected \\end\\"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, complaint: str) -> None:
    assert old in FOREIGN
    path = tmp_path / "x.arpa"
    path.write_text(FOREIGN.replace(old, new))
    with pytest.raises(LanguageModelError) as caught:
        asr.lm.load(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert complaint in str(caught.value)


def test_a_model_without_unknown_words_gives_them_next_to_nothing(tmp_path: Path, caplog) -> None:
    (tmp_path / "with.arpa").write_text(FOREIGN)
    (tmp_path / "without.arpa").write_text(
        re.sub(r"(?m)^.*<UNK>.*\n", "", FOREIGN).replace("ngram 1=6", "ngram 1=5")
    )
    known, closed = asr.lm.load(tmp_path / "with.arpa"), asr.lm.load(tmp_path / "without.arpa")
    assert "has no <unk>" in caplog.text
    assert closed.score("a b c") == known.score("a b c")
    assert closed.score("strange") < -99
    closed.save(tmp_path / "again.arpa")
    assert asr.lm.load(tmp_path / "again.arpa").score("b strange a") == closed.score("b strange a")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.arpa"
    for length in range(len(FOREIGN.encode()) - 1):
        path.write_bytes(FOREIGN.encode()[:length])
        with pytest.raises(LanguageModelError, match="line"):
            asr.lm.load(path)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_a_compressed_file_cut_or_damaged_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    asr.lm.train(sentences(200), order=3).save(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1], whole[:99] + b"damage" + whole[105:]):
        path.write_bytes(damaged)
        with pytest.raises(LanguageModelError, match=f"{path}.* line"):
            asr.lm.load(path)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.arpa"
    path.write_bytes(FOREIGN.replace("c", "ü").encode("latin-1"))
    with pytest.raises(LanguageModelError, match="not UTF-8"):
        asr.lm.load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "absent.arpa", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(LanguageModelError, match=why):
            asr.lm.load(path)


@pytest.mark.parametrize("suffix", OPENERS)
def test_sentences_are_read_from_files_compressed_or_not(tmp_path: Path, suffix: str) -> None:
    path, other = tmp_path / f"a.txt{suffix}", tmp_path / "b.txt"
    with OPENERS[suffix](path, "wb") as file:
        file.write("\ufeffein Wort\r\n\nzwei  Wörter\u2028hier".encode())
    other.write_text("more\n")
    expected = ["ein Wort", "", "zwei  Wörter\u2028hier", "more"]
    assert list(asr.lm.read_sentences([path, str(other)])) == expected


def test_sentences_are_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (b"a b\nc\n", gzip.compress(b"a b\nc\n")):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(data)))
        monkeypatch.setattr("sys.stdin", stdin)
        assert list(asr.lm.read_sentences("-")) == ["a b", "c"]


def test_text_that_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    wrong, cut = tmp_path / "wrong.txt", tmp_path / "cut.gz"
    wrong.write_bytes(b"fine\nna\xefve\n")
    cut.write_bytes(gzip.compress(b"one line\n" * 99)[:-9])
    for path, complaint in (
        (wrong, "line 2: not UTF-8"),
        (cut, "after line"),
        (tmp_path / "no", "no does not exist; a file with a sentence"),
    ):
        with pytest.raises(TextError, match=complaint):
            list(asr.lm.read_sentences(path))
