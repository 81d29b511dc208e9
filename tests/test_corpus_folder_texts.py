"""Which text belongs to which recording of a folder, and which files of a folder count."""

import unicodedata

import pytest
from test_corpus_folder import left_out, text, texts, wav

from asr import corpus
from asr.errors import ConfigError, CorpusError


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("suffix", [".txt", ".lab"])
def test_a_text_beside_a_recording_is_found_in_another_unicode_form(tmp_path, forms, suffix):
    recording, beside = (unicodedata.normalize(form, "größe") for form in forms)
    wav(tmp_path / f"{recording}.wav")
    text(tmp_path / f"{beside}{suffix}", "yes")
    assert texts(corpus.prepare("folder", tmp_path, fractions={})) == {recording: "yes"}


def test_a_bare_name_of_two_recordings_gives_its_text_to_neither(tmp_path):
    for folder in "xy":
        for name in "ab":
            wav(tmp_path / folder / f"{name}.wav")
    wav(tmp_path / "c.wav")
    text(tmp_path / "list.txt", "c see\na hello\nx/b one\ny/b.wav two\nb three\n")
    found = corpus.prepare("folder", tmp_path, fractions={})
    used = {u.audio_filepath.relative_to(tmp_path).as_posix(): u.text for u in found["train"] if not u.flaw}
    assert used == {"c.wav": "see", "x/b.wav": "one", "y/b.wav": "two"}
    packed, kinds, details = left_out(found, tmp_path / "o" / "train")
    assert (packed, kinds) == (3, {"x/a": "ambiguous", "y/a": "ambiguous"})
    place = f"{tmp_path / 'list.txt'}, line 2"
    assert details == [f"{place}: 2 recordings are called 'a'; give its path in the list"] * 2


def test_two_different_texts_of_a_recording_are_a_flaw_and_the_same_twice_is_none(tmp_path):
    for name in "abcd":
        wav(tmp_path / f"{name}.wav")
    text(tmp_path / "1.txt", "a hello\nb one\nd\n")
    text(tmp_path / "2.txt", "a|other\nb\tone\nc see\nd dee\n")
    text(tmp_path / "README.txt", "c stands for cat\n")
    text(tmp_path / "c.txt", "a text beside it comes first")
    found = corpus.prepare("folder", tmp_path, fractions={})
    used = {u.id: u.text for u in found["train"] if not u.flaw}
    assert used == {"b": "one", "c": "a text beside it comes first", "d": "dee"}
    packed, kinds, details = left_out(found, tmp_path / "o" / "train")
    assert (packed, kinds) == (3, {"a": "ambiguous"})
    places = [f"{tmp_path / name}, line 1" for name in ("1.txt", "2.txt")]
    assert details == [f"a.wav has two texts: {places[0]}, and {places[1]}"]


def test_what_recordings_are_called_is_found_out_once_for_all_lists_of_a_folder(tmp_path, monkeypatch):
    for i in range(30):
        wav(tmp_path / "sounds" / f"{i}.wav")
        text(tmp_path / f"{i}.txt", f"{i} yes")
    calls: list[str] = []
    monkeypatch.setattr("asr.corpus.folder.composed", lambda name: calls.append(name) or name)
    assert len(texts(corpus.prepare("folder", tmp_path, fractions={}))) == 30
    assert len(calls) < 30 * 30


def test_hidden_files_and_those_of_the_system_are_not_looked_at(tmp_path):
    for name in ("a", ".b", "~$c", ".ipynb_checkpoints/a", "__MACOSX/a", "deep/.git/d"):
        wav(tmp_path / f"{name}.wav")
        text(tmp_path / f"{name}.txt", "yes")
    text(tmp_path / "._list.txt", "a no")
    assert texts(corpus.prepare("folder", tmp_path, fractions={})) == {"a": "yes"}
    for name in ("m.csv", "._m.csv", "~$m.csv"):
        text(tmp_path / name, "path,text\na.wav,of the table\n" if name == "m.csv" else "\0\5\x16\7")
    assert texts(corpus.prepare("folder", tmp_path, fractions={})) == {"a": "of the table"}


def test_a_hidden_folder_that_is_named_is_read(tmp_path):
    wav(tmp_path / ".cache" / "a.wav")
    text(tmp_path / ".cache" / "a.txt", "yes")
    assert texts(corpus.prepare("folder", tmp_path / ".cache", fractions={})) == {"a": "yes"}


def test_a_json_without_a_line_of_a_manifest_is_none_where_there_are_texts(tmp_path):
    wav(tmp_path / "a.wav")
    text(tmp_path / "dataset_info.json", '{\n "name": "mine"\n}\n')
    with pytest.raises(CorpusError, match=r"dataset_info\.json, line 1: not JSON"):  # there is nothing else
        corpus.prepare("folder", tmp_path)
    text(tmp_path / "a.txt", "yes")
    assert texts(corpus.prepare("folder", tmp_path, fractions={})) == {"a": "yes"}
    text(tmp_path / "m.csv", "path,text\na.wav,of the table\n")
    assert texts(corpus.prepare("folder", tmp_path, fractions={})) == {"a": "of the table"}
    text(tmp_path / "more.json", 'wrong\n{"audio_filepath": "a.wav", "text": "x"}\n')
    with pytest.raises(ConfigError, match=r"several manifests \(m\.csv, more\.json\)"):
        corpus.prepare("folder", tmp_path)
