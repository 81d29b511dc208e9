"""One's own recordings, however they are laid out."""

import json
import os
import unicodedata

import numpy as np
import pytest
import soundfile

from asr import corpus
from asr.augmentation import AugmentationConfig, draw
from asr.corpus.packed import pack
from asr.errors import ConfigError, CorpusError


def wav(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(800, 500, np.int16), 8000)
    return path


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def jsonl(path, names, speakers=None):
    lines = [{"audio_filepath": n, "text": f"text of {n}", "duration": 1} for n in names]
    for line, speaker in zip(lines, speakers or [], strict=False):
        line["speaker"] = speaker
    return text(path, "".join(json.dumps(line) + "\n" for line in lines))


def texts(found):
    return {u.id: u.text for split in found.values() for u in split}


def sizes(found):
    return {name: len(split) for name, split in found.items()}


@pytest.mark.parametrize("suffix", [".txt", ".lab"])
def test_a_text_beside_each_recording(tmp_path, suffix):
    for i in range(10):
        wav(tmp_path / f"s{i % 2}" / f"clip {i}.flac")
        text(tmp_path / f"s{i % 2}" / f"clip {i}{suffix}", f"\ufeffgood\n morning {i}\n")
    found = corpus.prepare("folder", tmp_path)
    assert sizes(found) == {"train": 8, "dev": 1, "test": 1}
    assert texts(found) == {f"clip {i}": f"good morning {i}" for i in range(10)}
    assert all(u.speaker is None for u in found["train"])


@pytest.mark.parametrize("separator", [" ", "\t", "|", "  \t "])
@pytest.mark.parametrize("named", ["{}", "{}.wav", "deep/{}", "deep/{}.wav"])
def test_a_list_of_texts(tmp_path, separator, named, caplog):
    for i in range(10):
        wav(tmp_path / "deep" / f"c{i}.wav")
    lines = [f"{named.format(f'c{i}')}{separator}good morning | {i}\n" for i in range(10)]
    text(tmp_path / "transcripts.txt", "".join(lines))
    text(tmp_path / "README.txt", "These are my recordings.\n")
    text(tmp_path / "deep" / "c10.txt", "the recording is missing\n")
    assert texts(corpus.prepare("folder", tmp_path)) == {f"c{i}": f"good morning | {i}" for i in range(10)}
    assert "text files that belong to no recording: README.txt, c10.txt\n" in caplog.text


def test_files_of_the_same_name_in_two_folders_keep_their_own_texts(tmp_path):
    for speaker in ("ann", "bob"):
        lines = []
        for i in range(5):
            wav(tmp_path / speaker / f"{i}.wav")
            lines.append(f"{i} {speaker} says {i}\n")
        text(tmp_path / speaker / "list.trans.txt", "".join(lines))
    found = corpus.prepare("folder", tmp_path, speaker_folders=True)
    assert texts(found) == {f"{s}/{i}": f"{s} says {i}" for s in ("ann", "bob") for i in range(5)}
    assert all(u.speaker in u.text for split in found.values() for u in split)


def test_recordings_without_text_are_reported_by_packing(tmp_path):
    for i in range(10):
        wav(tmp_path / f"{i}.wav")
        if i != 3:
            text(tmp_path / f"{i}.txt", "yes")
    found = corpus.prepare("folder", tmp_path, fractions={})
    report = pack(found["train"], tmp_path / "out" / "train", rate_hz=8000)
    assert (report.packed, [(p.id, p.kind) for p in report.left_out]) == (9, [("3", "no text")])
    assert report.left_out[0].detail == "no text was found for it"
    text(tmp_path / "3.txt", "yes")
    split = {name: {u.id for u in us} for name, us in corpus.prepare("folder", tmp_path).items()}
    (tmp_path / "3.txt").unlink()
    assert {name: {u.id for u in us} for name, us in corpus.prepare("folder", tmp_path).items()} == split


def test_a_manifest_is_split_by_speaker_where_speakers_are_known(tmp_path):
    path = jsonl(tmp_path / "all.jsonl", [f"{i}.wav" for i in range(40)], [f"s{i % 8}" for i in range(40)])
    found = corpus.prepare("folder", path)
    assert sizes(found) == {"train": 30, "dev": 5, "test": 5}
    assert len({u.speaker for u in found["dev"]}) == len({u.speaker for u in found["test"]}) == 1
    assert corpus.prepare("folder", path) == found
    found = corpus.prepare("folder", path, by="utterance", fractions={"dev": 0.25})
    assert sizes(found) == {"train": 30, "dev": 10}


def test_a_folder_with_one_manifest_is_that_manifest(tmp_path):
    jsonl(tmp_path / "anything.jsonl", [f"clips/{i}.wav" for i in range(10)])
    wav(tmp_path / "clips" / "unlisted.wav")
    assert len(texts(corpus.prepare("folder", tmp_path))) == 10


def test_manifests_named_like_splits_are_the_splits(tmp_path):
    jsonl(tmp_path / "train.jsonl", [f"{i}.wav" for i in range(20)])
    text(tmp_path / "valid.csv", "path,text\nv.wav,hello\n")
    text(tmp_path / "test.tsv", "path\ttext\nt.wav\thello\n")
    found = corpus.prepare("folder", tmp_path)
    assert sizes(found) == {"train": 20, "dev": 1, "test": 1}


def test_folders_named_like_splits_are_the_splits_and_dev_is_made_if_missing(tmp_path):
    for split, count in (("train", 10), ("test", 4)):
        for i in range(count):
            wav(tmp_path / split / f"{split}{i}.wav")
            text(tmp_path / split / f"{split}{i}.txt", "yes")
    assert sizes(corpus.prepare("folder", tmp_path)) == {"train": 9, "test": 4, "dev": 1}
    assert sizes(corpus.prepare("folder", tmp_path, fractions={"dev": 0})) == {"train": 10, "test": 4}


def test_splits_can_be_put_together_by_configuration(tmp_path):
    jsonl(tmp_path / "a.jsonl", [f"a{i}.wav" for i in range(5)])
    text(tmp_path / "b.csv", "path,text\nb0.wav,hello\nb1.wav,hello\n")
    wav(tmp_path / "c" / "c0.wav")
    text(tmp_path / "c" / "c0.txt", "hello")
    found = corpus.prepare("folder", tmp_path, splits={"train": ["a.jsonl", "b.csv"], "dev": "c"})
    assert sizes(found) == {"train": 7, "dev": 1}
    with pytest.raises(CorpusError, match=r"none\.jsonl does not exist"):
        corpus.prepare("folder", tmp_path, splits={"train": "none.jsonl"})


def test_recordings_of_the_same_name_in_two_parts_of_a_split_are_all_used(tmp_path):
    for part in "ab":
        for name in "12":
            wav(tmp_path / part / f"{name}.wav")
            text(tmp_path / part / f"{name}.txt", f"{part} {name}")
    found = corpus.prepare("folder", tmp_path, splits={"train": ["a", "b", "a"], "test": "b"}, fractions={})
    assert texts({"train": found["train"]}) == {"1": "a 1", "2": "a 2", "b/1": "b 1", "b/2": "b 2"}
    report = pack(found["train"], tmp_path / "packed" / "train", rate_hz=8000)
    assert (report.packed, report.counts) == (4, {"duplicate id": 2})  # what is named twice is used once


def test_what_cannot_be_understood_is_an_error_that_says_why(tmp_path):
    with pytest.raises(CorpusError, match="does not exist; a manifest or a folder"):
        corpus.prepare("folder", tmp_path / "none")
    with pytest.raises(ConfigError, match=r"expected a folder or a file that ends in \.jsonl"):
        corpus.prepare("folder", text(tmp_path / "a.xlsx", ""))
    empty = tmp_path / "empty"
    text(empty / "a.m4a", "")
    with pytest.raises(CorpusError, match=r"has no recordings .*; its 1 m4a, mp4 or similar files must be"):
        corpus.prepare("folder", empty)
    silent = tmp_path / "silent"
    wav(silent / "a.wav")
    with pytest.raises(
        CorpusError, match=r"1 recordings but no texts: expected NAME\.txt or NAME\.srt beside NAME\.wav"
    ):
        corpus.prepare("folder", silent)
    several = tmp_path / "several"
    jsonl(several / "a.jsonl", ["a.wav"])
    jsonl(several / "b.jsonl", ["b.wav"])
    with pytest.raises(ConfigError, match=r"several manifests \(a\.jsonl, b\.jsonl\); name one of them"):
        corpus.prepare("folder", several)
    jsonl(several / "train.jsonl", ["a.wav"])
    jsonl(several / "training.jsonl", ["b.wav"])
    with pytest.raises(ConfigError, match=r"train\.jsonl and training\.jsonl could both be train"):
        corpus.prepare("folder", several)
    latin = tmp_path / "latin"
    wav(latin / "a.wav")
    (latin / "a.txt").write_bytes(b"gr\xf6\xdfe")
    with pytest.raises(CorpusError, match=r"a\.txt is not text in UTF-8"):
        corpus.prepare("folder", latin)


def left_out(found, stem):
    report = pack(found["train"], stem, rate_hz=8000)
    return report.packed, {p.id: p.kind for p in report.left_out}, [p.detail for p in report.left_out]


def test_of_two_copies_of_a_recording_one_is_used_and_the_other_reported(tmp_path):
    for i in range(3):
        wav(tmp_path / f"{i}.wav")
        wav(tmp_path / f"{i}.flac").rename(tmp_path / f"{i}.mp3")
        text(tmp_path / f"{i}.txt", f"text {i}")
    text(tmp_path / "list.txt", "3.mp3 text 3\n")
    (tmp_path / "3.wav").symlink_to("gone.wav")
    wav(tmp_path / "3.flac").rename(tmp_path / "3.mp3")
    found = corpus.prepare("folder", tmp_path, fractions={"dev": 0.25})
    assert sizes(found) == {"train": 3 + 4, "dev": 1}
    used = [u for split in found.values() for u in split if u.flaw is None]
    assert {u.id: (u.audio_filepath.name, u.text) for u in used} == {
        **{f"{i}": (f"{i}.wav", f"text {i}") for i in range(3)},
        "3": ("3.mp3", "text 3"),
    }
    packed, kinds, details = left_out(found, tmp_path / "out" / "train")
    assert (packed, kinds) == (
        3,
        {"0.mp3": "duplicate", "1.mp3": "duplicate", "2.mp3": "duplicate", "3.wav": "duplicate"},
    )
    assert details[0] == "0.wav beside it is used"


def test_formats_that_cannot_be_read_and_dangling_links_are_reported(tmp_path):
    wav(tmp_path / "a.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "gone.wav")
    for name in ("c.m4a", "deep/d.aac", "a.m4a"):
        text(tmp_path / name, "")
    for name in ("a", "b", "c", "deep/d"):
        text(tmp_path / f"{name}.txt", "yes")
    for i in range(2):
        wav(tmp_path / f"{i}.wav")
        text(tmp_path / f"{i}.txt", "yes")
    found = corpus.prepare("folder", tmp_path, fractions={"dev": 0.4})
    assert all(u.audio_filepath.is_file() for u in found["dev"])
    packed, kinds, details = left_out(found, tmp_path / "o" / "train")
    assert packed == 2
    assert kinds == {
        "b": "missing",
        "a.m4a": "duplicate",
        "c.m4a": "foreign format",
        "deep/d.aac": "foreign format",
    }
    assert any("convert it first: ffmpeg -i IN.aac OUT.flac" in detail for detail in details)


def test_a_text_that_is_not_utf8_costs_its_recording_only(tmp_path):
    for name in "abcd":
        wav(tmp_path / f"{name}.wav")
    text(tmp_path / "a.txt", "yes")
    (tmp_path / "b.txt").write_bytes(b"gr\xf6\xdfe")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfc one\nd gr\xf6\xdfe\n")
    (tmp_path / "README.txt").write_bytes(b"gr\xf6\xdfe\n")
    found = corpus.prepare("folder", tmp_path, fractions={})
    packed, kinds, details = left_out(found, tmp_path / "o" / "train")
    assert (packed, kinds) == (2, {"b": "invalid text", "d": "invalid text"})
    assert "b.txt is not text in UTF-8" in details[0]
    assert "list.txt, line 2 is not text in UTF-8" in details[1]


@pytest.mark.parametrize(
    "name, content, line",
    [
        (
            "a.jsonl",
            '{"audio_filepath": "a.wav", "text": null}\n{"audio_filepath": "a.wav", "text": "yes"}\n',
            1,
        ),
        ("a.jsonl", '{"audio_filepath": "a.wav", "text": "yes"}\n{"audio_filep', 2),
        ("a.csv", "path,text\na.wav,yes\nb.wav\n", 3),
    ],
)
def test_a_wrong_line_costs_its_utterance_only(tmp_path, name, content, line):
    wav(tmp_path / "a.wav")
    found = corpus.prepare("folder", text(tmp_path / name, content), fractions={})
    packed, kinds, details = left_out(found, tmp_path / "o" / "train")
    assert (packed, kinds) == (1, {f"{name}, line {line}": "invalid line"})
    assert details[0].startswith(f"{tmp_path / name}, line {line}: ")


@pytest.mark.parametrize("content", ["", "\n"])
def test_a_manifest_without_lines_is_named_as_the_fault(tmp_path, content):
    with pytest.raises(CorpusError, match=r"a\.jsonl has no utterances: expected recordings and their texts"):
        corpus.prepare("folder", text(tmp_path / "a.jsonl", content))


@pytest.mark.parametrize("line", ["my rec 0.wav|zero", "my rec 0\tzero", "my rec 0.wav | zero"])
def test_a_tab_or_a_bar_separates_names_with_blanks(tmp_path, line):
    wav(tmp_path / "my rec 0.wav")
    text(tmp_path / "texts.txt", line + "\n")
    assert texts(corpus.prepare("folder", tmp_path, fractions={})) == {"my rec 0": "zero"}


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_names_that_a_mac_has_decomposed_are_found(tmp_path, forms, kind):
    on_disk, written = (unicodedata.normalize(form, "größe.wav") for form in forms)
    wav(tmp_path / on_disk)
    contents = {"csv": f"path,text\n{written},yes\n", "txt": f"{written} yes"}
    if kind in contents:
        text(tmp_path / f"m.{kind}", contents[kind])
    else:
        jsonl(tmp_path / "m.jsonl", [written])
    (u,) = corpus.prepare("folder", tmp_path, fractions={})["train"]
    assert u.audio_filepath.is_file() and u.text


def test_a_file_name_that_is_no_utf8_can_be_held_out(tmp_path):
    for name in [b"gr\xf6\xdfe", *(b"%d" % i for i in range(9))]:
        path = tmp_path / os.fsdecode(name)
        wav(tmp_path / "new.wav").rename(path.with_name(path.name + ".wav"))
        text(path.with_name(path.name + ".txt"), "yes")
    found = corpus.prepare("folder", tmp_path)
    assert sum(map(len, found.values())) == 10
    assert found == corpus.prepare("folder", tmp_path)
    ids = [u.id for us in found.values() for u in us]
    assert os.fsdecode(b"gr\xf6\xdfe") in ids
    assert len(draw(AugmentationConfig(), seed=1, epoch=0, utterance_ids=ids).silent_B) == 10


def test_a_name_that_begins_with_a_tilde_is_a_name(tmp_path):
    for name in ("a.wav", "~b.wav", *(f"{i}.wav" for i in range(8))):
        wav(tmp_path / name)
    rows = "".join(f"{name},hello\n" for name in ("a.wav", "~b.wav", *(f"{i}.wav" for i in range(8))))
    found = corpus.prepare("folder", text(tmp_path / "t.csv", "audio,text\n" + rows))
    assert "~b" in texts(found) and all(u.flaw is None for split in found.values() for u in split)
