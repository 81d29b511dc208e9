"""Corpora in their own layouts, made small: every source finds what is there and says what is not."""

import tarfile
import zipfile

import numpy as np
import pytest
import soundfile

from asr import corpus
from asr.corpus import an4, fsdd, librispeech, yesno
from asr.corpus.packed import PackedCorpus, pack
from asr.errors import ConfigError, CorpusError


def wav(path, *, rate_hz=16000, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(len(str(path))).uniform(-0.1, 0.1, rate_hz // 10)
    soundfile.write(path, wave, rate_hz, **kw)
    return path


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def ids(split):
    return [u.id for u in split]


def make_fsdd(root, speakers=("george", "jackson", "theo"), indices=range(12)):
    for speaker in speakers:
        for digit in (0, 7):
            for index in indices:
                wav(root / f"{digit}_{speaker}_{index}.wav", rate_hz=8000)
    return root


def test_fsdd_holds_out_its_published_test_part_unless_told_otherwise(tmp_path):
    make_fsdd(tmp_path / "recordings")
    found = corpus.prepare("fsdd", tmp_path)
    assert {name: len(split) for name, split in found.items()} == {"train": 12, "dev": 30, "test": 30}
    assert {u.id.rpartition("_")[2] for u in found["test"]} == set("01234")
    assert {u.id.rpartition("_")[2] for u in found["dev"]} == set("56789")
    assert {(u.id[0], u.text) for u in found["train"]} == {("0", "zero"), ("7", "seven")}
    assert all(u.audio_filepath.is_absolute() for split in found.values() for u in split)


def test_fsdd_holds_out_speakers_by_configuration(tmp_path):
    make_fsdd(tmp_path)
    found = corpus.prepare("fsdd", tmp_path, test_speakers=["theo"])
    assert {u.speaker for u in found["test"]} == {"theo"} and len(found["test"]) == 24
    assert {u.speaker for u in found["train"]} == {u.speaker for u in found["dev"]} == {"george", "jackson"}
    assert {u.id.rpartition("_")[2] for u in found["dev"]} == set("01234")
    found = corpus.prepare("fsdd", tmp_path, test_speakers="theo", dev_speakers=["george"])
    assert [{u.speaker for u in found[s]} for s in ("train", "dev", "test")] == [
        {"jackson"},
        {"george"},
        {"theo"},
    ]
    assert sum(map(len, found.values())) == 72


def test_fsdd_says_which_speaker_does_not_exist_and_when_none_is_left(tmp_path):
    make_fsdd(tmp_path)
    with pytest.raises(ConfigError, match="no speaker of fsdd 'gorge'; did you mean 'george'"):
        corpus.prepare("fsdd", tmp_path, test_speakers=["gorge"])
    with pytest.raises(CorpusError, match="all of george, jackson, theo is held out"):
        corpus.prepare("fsdd", tmp_path, test_speakers=["george", "jackson", "theo"])
    with pytest.raises(ConfigError, match=r"test_speakers={'a': 1}: expected a name or a list"):
        corpus.prepare("fsdd", tmp_path, test_speakers={"a": 1})


def test_fsdd_reports_recordings_with_strange_names_instead_of_guessing(tmp_path):
    make_fsdd(tmp_path / "recordings")
    wav(tmp_path / "recordings" / "hello.wav")
    found = corpus.prepare("fsdd", tmp_path)
    report = pack(found["train"], tmp_path / "out" / "train", rate_hz=8000)
    assert [(p.id, p.kind) for p in report.left_out] == [("hello", "empty transcript")]


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Stands in for the net: archives that `provide` would have to fetch are made from a folder."""
    asked = []

    def serve(module, source, top):
        def fake(urls, path, **_):
            asked.append(urls[0])
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".zip":
                with zipfile.ZipFile(path, "w") as archive:
                    for file in sorted(source.rglob("*.*")):
                        archive.write(file, f"{top}/{file.relative_to(source)}")
            else:
                with tarfile.open(path, "w:gz") as archive:
                    archive.add(source, top)
            return path

        monkeypatch.setattr("asr.corpus.download.download", fake)
        return asked

    return serve


def test_fsdd_is_fetched_where_nothing_is_there(tmp_path, fetched):
    make_fsdd(tmp_path / "net" / "recordings")
    asked = fetched(fsdd, tmp_path / "net", "free-spoken-digit-dataset-1.0.10")
    for _ in range(2):
        assert len(corpus.prepare("fsdd", tmp_path / "data" / "fsdd")["train"]) == 12
    assert asked == [fsdd.ARCHIVE.urls[0]]


def make_librispeech(part, speakers=("19", "26"), suffix=".flac"):
    for speaker in speakers:
        chapter = part / speaker / "198"
        names = [f"{speaker}-198-{i:04d}" for i in range(3)]
        text(chapter / f"{speaker}-198.trans.txt", "".join(f"{n} HELLO FROM {n[-1]}\n" for n in names))
        for name in names:
            wav(chapter / f"{name}{suffix}")


@pytest.mark.parametrize("suffix", [".flac", ".wav", ".ogg", ".mp3"])
@pytest.mark.parametrize("inside", ["", "LibriSpeech"])
def test_librispeech_is_read_in_its_own_layout_with_any_suffix(tmp_path, suffix, inside):
    for part in ("train-clean-5", "mine"):
        make_librispeech(tmp_path / "LibriSpeech" / part, suffix=suffix)
    root = tmp_path if inside else tmp_path / "LibriSpeech"
    found = corpus.prepare("librispeech", root, splits={"train": ["train-clean-5", "mine"], "dev": "mine"})
    assert {name: len(split) for name, split in found.items()} == {"train": 12, "dev": 6}
    u = found["dev"][4]
    assert (u.id, u.text, u.speaker) == ("26-198-0001", "HELLO FROM 1", "26")
    assert u.audio_filepath == tmp_path / "LibriSpeech" / "mine" / "26" / "198" / f"26-198-0001{suffix}"


def test_librispeech_parts_may_lie_in_a_folder_of_any_name(tmp_path):
    make_librispeech(tmp_path / "corpora" / "train-clean-5")
    make_librispeech(tmp_path / "corpora" / "dev-clean-2")
    found = corpus.prepare("librispeech", tmp_path / "corpora")
    assert {name: len(split) for name, split in found.items()} == {"train": 6, "dev": 6}


def test_librispeech_reports_lines_without_recording_and_recordings_without_line(tmp_path):
    part = tmp_path / "train-clean-5"
    make_librispeech(part)
    (part / "19" / "198" / "19-198-0000.flac").unlink()
    wav(part / "26" / "198" / "26-198-9999.flac")
    with (part / "26" / "198" / "26-198.trans.txt").open("a") as file:
        file.write("26-198-0001 TWICE\n\n")
    us = corpus.prepare("librispeech", tmp_path, splits={"train": "train-clean-5"})["train"]
    report = pack(us, tmp_path / "out" / "train", rate_hz=16000)
    assert [(p.id, p.kind) for p in report.left_out] == [
        ("19-198-0000", "missing"),
        ("26-198-0001", "duplicate id"),
        ("26-198-9999", "empty transcript"),
    ]


def test_librispeech_says_what_is_missing(tmp_path):
    make_librispeech(tmp_path / "train-clean-5")
    with pytest.raises(
        CorpusError, match="no folder 'dev-unseen'; it has train-clean-5, and train-clean-5, dev-"
    ):
        corpus.prepare("librispeech", tmp_path, splits={"train": "train-clean-5", "dev": "dev-unseen"})
    with pytest.raises(CorpusError, match="no folder 'dev-clean-2'"):
        corpus.prepare("librispeech", tmp_path, download=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="empty has no transcripts"):
        corpus.prepare("librispeech", tmp_path, splits={"train": ["train-clean-5", "empty"]})
    with pytest.raises(ConfigError, match="splits='train-clean-5': expected, for example"):
        corpus.prepare("librispeech", tmp_path, splits="train-clean-5")


def test_librispeech_fetches_the_published_parts_that_are_not_there(tmp_path, fetched):
    make_librispeech(tmp_path / "net")
    asked = fetched(librispeech, tmp_path / "net", "LibriSpeech/dev-clean-2")
    make_librispeech(tmp_path / "data" / "LibriSpeech" / "train-clean-5")
    found = corpus.prepare("librispeech", tmp_path / "data")
    assert {name: len(split) for name, split in found.items()} == {"train": 6, "dev": 6}
    assert asked == ["https://www.openslr.org/resources/31/dev-clean-2.tar.gz"]
    assert (tmp_path / "data" / "LibriSpeech" / "dev-clean-2" / "19").is_dir()


def make_an4(root):
    for part, folder, count in (("train", "an4_clstk", 20), ("test", "an4test_clstk", 3)):
        lines = []
        for i in range(count):
            speaker = f"sp{part[0]}{i // 2}"
            name = f"an{i}-{speaker}-b"
            wav(root / "wav" / folder / speaker / f"{name}.sph", format="NIST", subtype="PCM_16")
            lines.append(f"<s> GO {i} </s> ({name})" if part == "train" else f"RUBOUT {i} ({name})")
        text(root / "etc" / f"an4_{part}.transcription", "\n".join(lines) + "\n")


@pytest.mark.parametrize("below", [".", "an4"])
def test_an4_is_read_in_its_own_layout(tmp_path, below):
    make_an4(tmp_path / below)
    found = corpus.prepare("an4", tmp_path)
    assert {name: len(split) for name, split in found.items()} == {"train": 18, "dev": 2, "test": 3}
    assert not {u.speaker for u in found["train"]} & {u.speaker for u in found["dev"]}
    assert {u.text for u in found["test"]} == {"RUBOUT 0", "RUBOUT 1", "RUBOUT 2"}
    assert all(u.text.startswith("GO ") for u in found["train"])
    report = pack(found["train"], tmp_path / "out" / "train", rate_hz=16000)
    assert (report.packed, report.left_out) == (18, ())


def test_an4_says_what_is_wrong(tmp_path):
    make_an4(tmp_path)
    with (tmp_path / "etc" / "an4_test.transcription").open("a") as file:
        file.write("NO NAME\n")
    with pytest.raises(CorpusError, match=r"an4_test\.transcription, line 4: expected .*: NO NAME"):
        corpus.prepare("an4", tmp_path)
    (tmp_path / "etc" / "an4_test.transcription").unlink()
    with pytest.raises(CorpusError, match="is missing: the corpus is not whole"):
        corpus.prepare("an4", tmp_path)
    (tmp_path / "raw" / "etc").mkdir(parents=True)
    with pytest.raises(CorpusError, match=r"take an4_sphere\.tar\.gz"):
        corpus.prepare("an4", tmp_path / "raw")


def test_an4_is_fetched(tmp_path, fetched):
    make_an4(tmp_path / "net")
    asked = fetched(an4, tmp_path / "net", "an4")
    assert len(corpus.prepare("an4", tmp_path / "data")["test"]) == 3
    assert len(asked) == 1


def make_yesno(folder):
    for i in range(60):
        wav(folder / ("_".join(f"{i * 37 % 256:08b}") + ".wav"), rate_hz=8000)


def test_yesno_reads_texts_from_names(tmp_path, fetched):
    make_yesno(tmp_path / "net")
    asked = fetched(yesno, tmp_path / "net", "waves_yesno")
    found = corpus.prepare("yesno", tmp_path / "data")
    assert {name: len(split) for name, split in found.items()} == {"train": 36, "dev": 9, "test": 15}
    texts = {u.id: u.text for split in found.values() for u in split}
    assert texts["0_0_1_0_0_1_0_1"] == "no no yes no no yes no yes"
    assert corpus.prepare("yesno", tmp_path / "data" / "waves_yesno") == found
    assert len(asked) == 1


def make_commonvoice(folder):
    head = "client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale\n"
    rows = [f"c{i // 2}\tcommon_voice_de_{i}.mp3\t{i}\tSatz „{i}“, sagt er.\t2\tde\n" for i in range(10)]
    for i in range(10):
        wav(folder / "clips" / f"common_voice_de_{i}.mp3", rate_hz=48000)
    for name, part in {"train": rows[:4], "dev": rows[4:6], "test": rows[6:8], "validated": rows}.items():
        text(folder / f"{name}.tsv", head + "".join(part))


@pytest.mark.parametrize("below", [".", "de", "cv-corpus-21.0/de"])
def test_common_voice_is_read_in_its_own_layout(tmp_path, below):
    make_commonvoice(tmp_path / below)
    found = corpus.prepare("commonvoice", tmp_path)
    assert {name: ids(split)[0] for name, split in found.items()} == {
        "train": "common_voice_de_0",
        "dev": "common_voice_de_4",
        "test": "common_voice_de_6",
    }
    assert found["train"][2].text == "Satz „2“, sagt er." and found["train"][2].speaker == "c1"
    pack(found["dev"], tmp_path / "out" / "dev", rate_hz=16000)
    assert PackedCorpus(tmp_path / "out" / "dev").lengths_samples.tolist() == [1600, 1600]


def test_common_voice_never_trains_on_what_it_measures_with(tmp_path):
    make_commonvoice(tmp_path)
    found = corpus.prepare(
        "commonvoice", tmp_path, splits={"train": "validated", "dev": "dev", "test": "test"}
    )
    assert ids(found["train"]) == [f"common_voice_de_{i}" for i in (0, 1, 2, 3, 8, 9)]


def test_common_voice_is_unpacked_from_the_archive_that_was_put_there(tmp_path):
    make_commonvoice(tmp_path / "x" / "de")
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "cv-corpus-21.0-de.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "x", "cv-corpus-21.0")
    for language in ("de", ""):
        assert len(corpus.prepare("commonvoice", tmp_path / "data", language=language)["train"]) == 4


def test_common_voice_says_which_languages_there_are_or_how_to_get_one(tmp_path):
    with pytest.raises(CorpusError, match="Accept the terms and download it"):
        corpus.prepare("commonvoice", tmp_path, language="de")
    for language in ("de", "ko"):
        make_commonvoice(tmp_path / language)
    with pytest.raises(ConfigError, match=r"has de, ko; choose with data\.options\.language"):
        corpus.prepare("commonvoice", tmp_path)
    assert len(corpus.prepare("commonvoice", tmp_path, language="ko")["train"]) == 4


def test_unknown_sources_and_options_are_errors_with_the_nearest_that_exists(tmp_path):
    with pytest.raises(ConfigError, match="no corpus 'librispech'; did you mean 'librispeech'"):
        corpus.prepare("librispech", tmp_path)
    with pytest.raises(ConfigError, match="no corpus 'xyz'; there are an4, commonvoice, folder"):
        corpus.prepare("xyz", tmp_path)
    with pytest.raises(ConfigError, match="fsdd has no option 'test_speaker'; did you mean 'test_speakers'"):
        corpus.prepare("fsdd", tmp_path, test_speaker=["theo"])


@pytest.mark.parametrize("source", corpus.SOURCES)
def test_every_source_can_be_loaded_and_takes_root_and_progress(source):
    import importlib
    import inspect

    names = list(inspect.signature(importlib.import_module(corpus.SOURCES[source]).prepare).parameters)
    assert names[0] == "root" and "progress" in names


def test_every_published_archive_has_mirrors_or_a_single_home_and_a_checksum():
    archives = [an4.ARCHIVE, yesno.ARCHIVE, fsdd.ARCHIVE]
    checksums = [a.checksum for a in archives] + [checksum for _, checksum in librispeech.PARTS.values()]
    for checksum in checksums:
        kind, _, digest = checksum.partition(":")
        assert len(bytes.fromhex(digest)) == {"sha256": 32, "md5": 16}[kind]
    assert len(set(checksums)) == len(checksums)
