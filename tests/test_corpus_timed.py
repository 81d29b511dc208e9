"""Recordings whose texts have times, and data folders of Kaldi, as corpora."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr import corpus
from asr.corpus.packed import PackedCorpus, pack
from asr.errors import CorpusError, ManifestError

RATE_HZ = 8000


def wav(path: Path, *, seconds: float = 10.0) -> Path:
    """A recording whose samples count the hundredths of a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    counted = np.repeat(np.arange(round(100 * seconds), dtype=np.int16), RATE_HZ // 100)
    soundfile.write(path, counted, RATE_HZ)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def srt(path: Path, *cues: tuple[str, str, str]) -> Path:
    return text(path, "".join(f"{k}\n{a} --> {b}\n{said}\n\n" for k, (a, b, said) in enumerate(cues, 1)))


def flaws(folder: Path, **options) -> dict[str, str]:
    found = corpus.prepare("folder", folder, fractions={}, **options)["train"]
    return {u.id: u.flaw[0] for u in found if u.flaw}


def parts(folder: Path, **options) -> list[tuple]:
    found = corpus.prepare("folder", folder, fractions={}, **options)["train"]
    return [(u.id, u.start_s, round(u.duration_s, 3), u.text, u.speaker) for u in found if not u.flaw]


def test_subtitles_cut_a_recording_into_what_is_said_in_it(tmp_path):
    wav(tmp_path / "talks" / "one.wav")
    srt(
        tmp_path / "talks" / "one.srt",
        ("00:00:01,000", "00:00:02,000", "good"),
        ("00:00:02,000", "00:00:03,500", "morning"),
        ("00:00:05,000", "00:00:06,000", "[applause]"),
        ("00:00:08,000", "00:00:10,500", "all"),
        ("00:00:11,000", "00:00:12,500", "beyond its end"),
    )
    wav(tmp_path / "two.wav")
    text(tmp_path / "two.en-GB.vtt", "WEBVTT\n\n00:00.000 --> 00:01.000\n<v Ann>yes")
    wav(tmp_path / "three.wav", seconds=1)
    text(tmp_path / "three.txt", "a plain text")
    assert parts(tmp_path) == [
        ("one_1.00", 1.0, 2.5, "good morning", None),
        ("one_8.00", 8.0, 2.0, "all", None),
        ("three", None, 0.0, "a plain text", None),
        ("two_0.00", 0.0, 1.0, "yes", "Ann"),
    ]
    assert flaws(tmp_path) == {"one_11.00": "impossible times"}
    found = corpus.prepare("folder", tmp_path, fractions={}, speaker_folders=True)["train"]
    assert {u.id: u.speaker for u in found if u.speaker} == {
        **dict.fromkeys(("one_1.00", "one_8.00", "one_11.00"), "talks"),
        "two_0.00": "Ann",
    }
    pack(found, tmp_path / "packed", rate_hz=RATE_HZ, workers=1)
    packed = PackedCorpus(tmp_path / "packed")
    pcm = {u.id: packed.samples(n) for n, u in enumerate(packed.utterances)}
    assert np.unique(pcm["one_1.00"]).tolist() == list(range(100, 350))
    assert np.unique(pcm["one_8.00"]).tolist() == list(range(800, 1000))


def test_texts_with_times_come_before_those_without_and_better_ones_first(tmp_path):
    wav(tmp_path / "a.wav")
    text(tmp_path / "a.txt", "what is said")
    text(tmp_path / "a.tsv", "start\tend\ttext\n1000\t2000\tfrom the table\n")
    text(tmp_path / "a.json", '{"text": "what is said"}')
    assert [said for *_, said, _ in parts(tmp_path)] == ["from the table"]
    srt(tmp_path / "a.srt", ("00:00:01,000", "00:00:02,000", "from the subtitles"))
    assert [said for *_, said, _ in parts(tmp_path)] == ["from the subtitles"]


def test_a_text_beside_a_recording_may_be_a_label_track(tmp_path):
    wav(tmp_path / "a.wav")
    text(tmp_path / "a.txt", "1.0\t2.0\tgood\n3.0\t4.0\tmorning\n")
    found = [(start_s, said) for _, start_s, _, said, _ in parts(tmp_path)]
    assert found == [(1.0, "good"), (3.0, "morning")]


def test_speakers_without_a_name_are_others_in_each_recording(tmp_path):
    for name in ("a", "b"):
        wav(tmp_path / f"{name}.wav")
        cues = [f"00:0{k}.000 --> 00:0{k}.500\n<v {who}>yes" for k, who in enumerate(("Speaker 1", "Ann"))]
        text(tmp_path / f"{name}.vtt", "\n\n".join(["WEBVTT", *cues]))
    assert [speaker for *_, speaker in parts(tmp_path)] == ["a Speaker 1", "Ann", "b Speaker 1", "Ann"]


def test_other_texts_of_a_recording_with_subtitles_do_not_matter(tmp_path):
    for name in ("a.wav", "b.mp3"):
        wav(tmp_path / name)
    for name in ("a.srt", "b.mp3.srt"):  # the latter as whisper.cpp writes it
        srt(tmp_path / name, ("00:00:01,000", "00:00:02,000", "yes"))
    (tmp_path / "a.txt").write_bytes(b"\xe9t\xe9")
    text(tmp_path / "list.txt", "a one\na another\n")
    assert {name for name, *_ in parts(tmp_path)} == {"a_1.00", "b_1.00"}
    assert not flaws(tmp_path)


def test_subtitles_that_cannot_be_used_cost_their_recording_only(tmp_path, caplog):
    for name in ("a", "b", "c", "d"):
        wav(tmp_path / f"{name}.wav")
    srt(tmp_path / "a.srt", ("00:00:01,000", "00:00:02,000", "yes"))
    for language in ("en", "de"):
        srt(tmp_path / f"b.{language}.srt", ("00:00:01,000", "00:00:02,000", "yes"))
    text(tmp_path / "c.srt", "nothing in here")
    srt(tmp_path / "d.srt", ("00:00:01,000", "00:00:02,000", "[music]"))
    srt(tmp_path / "other.srt", ("00:00:01,000", "00:00:02,000", "yes"))
    assert [name for name, *_ in parts(tmp_path)] == ["a_1.00"]
    assert "subtitles that belong to no recording: other.srt" in caplog.text
    assert flaws(tmp_path) == {"b": "ambiguous", "c": "invalid captions", "d": "invalid captions"}
    (tmp_path / "a.wav").write_bytes(b"no audio")
    with pytest.raises(ManifestError, match=r"a\.wav"):
        parts(tmp_path)


KALDI = {
    "wav.scp": """\
r1 one.wav
r2 flac -c -d -s sub/two.flac |
r3 sox one.wav -t wav - speed 1.1 |
r4 gone.wav
""",
    "segments": """\
u1 r1 1.0 2.5
u2 r1 4 -1
u3 r2 0 1
u4 r3 0 1
u5 r4 0 1
u6 r9 0 1
u7 r1 2 1
u8 r1 5 6
u10 r1 14 -1
""",
    "text": "u1 good morning\nu2 all\nu3 yes\nu4 no\nu5 gone\nu6 where\nu7 backwards\nu9 nowhere\nu10 late\n",
    "utt2spk": "u1 ann\nu2 ann\nu3 bob\n",
}


def kaldi(folder: Path, without: str = "") -> Path:
    wav(folder / "one.wav")
    wav(folder / "sub" / "two.flac")
    for name, content in KALDI.items():
        if name != without:
            text(folder / "data" / "train" / name, content)
    return folder / "data" / "train"


def test_a_data_folder_of_kaldi(tmp_path):
    folder = kaldi(tmp_path)
    assert parts(folder) == [
        ("u1", 1.0, 1.5, "good morning", "ann"),
        ("u2", 4.0, 6.0, "all", "ann"),
        ("u3", 0.0, 1.0, "yes", "bob"),
        ("u5", 0.0, 1.0, "gone", None),  # as in a manifest: packing finds that the file is missing
    ]
    assert flaws(folder) == {
        **dict.fromkeys(("u4", "u6", "u7", "u9", "u10"), "no recording"),
        "u8": "no text",
    }
    [u4] = [u for u in corpus.prepare("folder", folder, fractions={})["train"] if u.id == "u4"]
    assert "speed 1.1 |: a command that is not run here" in u4.flaw[1]
    report = pack(
        corpus.prepare("folder", folder, fractions={})["train"],
        tmp_path / "packed",
        rate_hz=RATE_HZ,
        workers=1,
    )
    assert {p.id for p in report.left_out} == {"u4", "u5", "u6", "u7", "u8", "u9", "u10"}


def test_texts_without_a_recording_keep_their_order(tmp_path):
    folder, names = kaldi(tmp_path), [f"x{k}" for k in range(20)]
    text(folder / "text", "u1 yes\n" + "".join(f"{name} no\n" for name in names))
    assert [u.id for u in corpus.prepare("folder", folder, fractions={})["train"]][-20:] == names


def test_speakers_that_are_called_as_their_utterances_are_not_known(tmp_path):
    folder = kaldi(tmp_path)
    text(folder / "utt2spk", "u1 u1\nu2 u2\nu3 u3\n")
    assert {speaker for *_, speaker in parts(folder)} == {None}


def test_without_segments_an_utterance_is_a_recording(tmp_path):
    folder = kaldi(tmp_path, without="segments")
    text(folder / "text", "r1 good morning\nr2 yes\n")
    assert parts(folder) == [("r1", None, 0.0, "good morning", None), ("r2", None, 0.0, "yes", None)]
    assert flaws(folder) == {"r3": "no recording", "r4": "no text"}


def test_data_folders_named_like_splits_are_the_splits(tmp_path):
    kaldi(tmp_path)
    (tmp_path / "data" / "train").rename(tmp_path / "data" / "dev")
    kaldi(tmp_path)
    assert {split: len(found) for split, found in corpus.prepare("folder", tmp_path / "data").items()} == {
        "train": 10,
        "dev": 10,
    }


@pytest.mark.parametrize(
    ("command", "is_read"),
    [
        ("one.wav", True),
        ("cat one.wav |", True),
        ("/usr/bin/flac -cds one.wav |", True),
        ("sph2pipe -f wav -p one.wav |", True),
        ("sph2pipe -f wav -p -c 2 one.wav |", False),
        ("sox one.wav -r 16000 -c 1 -t wav - |", True),
        ("sox one.wav -t wav - remix 2 |", False),
        ("ffmpeg -i one.wav -f wav -ac 1 -ar 16000 -ab 16k - |", True),
        ("ffmpeg -ss 3 -i one.wav -f wav - |", False),
        ("cat one.wav two.wav |", False),
        ("cat one.wav | sox -t wav - -t wav - speed 2 |", False),
        ("touch made |", False),
        ("one.ark:12", False),
        ('sox "one.wav |', False),
        ("|", False),
    ],
)
def test_commands_stand_for_the_file_that_they_convert_and_are_not_run(tmp_path, command, is_read):
    kaldi(tmp_path, without="segments")
    folder = tmp_path / "data" / "train"
    text(folder / "wav.scp", f"r1 {command}\nr2 {tmp_path}/sub/two.flac\n")
    text(folder / "text", "r1 yes\nr2 no\n")
    assert [name for name, *_ in parts(folder)] == (["r1", "r2"] if is_read else ["r2"])
    assert not any(tmp_path.rglob("made"))


@pytest.mark.parametrize("lacking", ["text", "wav.scp"])
def test_a_data_folder_that_lacks_something_says_what_is_read(tmp_path, lacking):
    folder = kaldi(tmp_path)
    text(folder / "feats.scp", "u1 feats.ark:12\n")
    (folder / lacking).unlink()
    with pytest.raises(CorpusError, match=r"Kaldi is read if it has both wav\.scp and text"):
        parts(folder)


def test_an_id_that_stands_twice_is_an_error(tmp_path):
    folder = kaldi(tmp_path)
    text(folder / "text", "u1 yes\nu2 no\nu1 no\n")
    with pytest.raises(ManifestError, match="line 3: u1 stands there twice"):
        parts(folder)
