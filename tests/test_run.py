"""`asr run` and `asr train` a second time, after something was changed, damaged or stopped."""

import json
import os
import signal
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from asr import cli, load
from asr.corpus.manifest import read_manifest
from asr.errors import ConfigError
from asr.features import Features
from asr.jobs import members
from asr.jobs.recipe import compose
from asr.jobs.stages import _development_wer

QUICK = ["features.rate_hz=8000", "features.bands=24", "encoder.layers=1", "encoder.width=16"]
QUICK += ["training.epochs=1", "training.device=cpu", "data.workers=1", "exp=exp"]


@pytest.fixture
def asr(monkeypatch, capsys, tmp_path):
    """Runs the command in an empty folder: (exit status, what it printed)."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["asr", *words])
        try:
            cli.main()
            status = 0
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        return status, "".join(capsys.readouterr())

    return call


@pytest.fixture
def words(tone_manifest: Callable[..., Path]) -> list[str]:
    """A recipe with six training utterances, and three for each of development and test."""
    sizes = (("train", 6), ("dev", 3), ("test", 3))
    splits = ",".join(f"{name}:{tone_manifest(name, n, seed=n)}" for name, n in sizes)
    return ["folder", f"data.options.splits={{{splits}}}", *QUICK]


def scored() -> dict[str, int]:
    results = json.loads(Path("exp/results.json").read_text())["splits"]
    return {split: result["sentences"] for split, result in results.items()}


def test_another_test_set_is_measured_anew_and_nothing_else(asr, words, tmp_path):
    asr("run", *words)
    assert scored() == {"dev": 3, "test": 3}
    report = Path("exp/report-dev.html").stat().st_mtime_ns
    lines = (tmp_path / "test.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "test.jsonl").write_text("".join(lines[:2]))
    status, said = asr("run", *words)
    assert status == 0 and "training is done already" in said
    assert scored() == {"dev": 3, "test": 2}
    assert Path("exp/report-dev.html").stat().st_mtime_ns == report
    stamp = Path("exp/results.json").stat().st_mtime_ns
    asr("run", *words)
    assert Path("exp/results.json").stat().st_mtime_ns == stamp


def test_all_recordings_of_a_further_folder_are_trained_on_and_what_else_it_has_is_told(
    asr, words, tone_manifest
):
    ten = tone_manifest("ten", 10, seed=9)
    status, said = asr("prepare", *words, f"data.extra.folder.root={ten}")
    assert status == 0 and "train: 16 utterances" in said and "not used" not in said
    assert " min, " in said and "0.00 h" not in said
    splits = f"{{train:{ten},test:{tone_manifest('four', 4, seed=8)}}}"
    status, said = asr("prepare", *words, f"data.extra.folder.splits={splits}")
    assert status == 0 and "train: 16 utterances" in said
    assert "data.extra.folder: only train is added; not used are 4 of test" in " ".join(said.split())


def test_a_further_folder_that_is_missing_is_noticed_before_anything_is_fetched(asr, words):
    status, said = asr("prepare", *words, "data.root=gone", "data.extra.folder.root=missing")
    assert status == 1 and "data.extra.folder.root=missing: there is no such file or folder" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["lm.text=[nowhere.txt]", "lm.order=2"], "nowhere.txt, of which the language model"),
        (["lm.arpa=nowhere.arpa"], "nowhere.arpa, of which the language model"),
        (["lm.text=[said.txt]"], "lm.text without lm.order"),
        (["decoder.rescore=8"], "decoder.rescore without a language model"),
        (["decoder.lexicon=true"], "decoder.lexicon without a language model"),
        (["lm.order=9"], "lm.order=9: expected 1 to 6"),
        (["lm.text=[-]", "lm.order=2", "decoder.rescore=8"], "standard input can be read but once"),
        (["lm.text=[-]", "lm.order=2", "data.phones=cmudict"], "standard input can be read but once"),
        (["lm.arpa=said.txt"], "lm.arpa=said.txt: not an ARPA file"),
    ],
)
def test_a_language_model_that_cannot_be_made_is_noticed_at_once(asr, words, given, message):
    Path("said.txt").write_text("ab cd\n")
    status, said = asr("run", *words, *given)
    assert status == 1 and message in said.replace("\n", " ")
    assert not Path("exp").exists() and not Path("data").exists()


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ("é", "'é' is"),
        ("éñ", "2 characters ('é', 'ñ') are"),
        ("αβγδεζ", "6 characters ('α', 'β', 'γ', 'δ', 'ε', …) are"),
    ],
)
def test_characters_that_are_not_in_training_are_told_in_one_line(asr, words, tmp_path, added, told):
    for line in (lines := [json.loads(text) for text in (tmp_path / "test.jsonl").read_text().splitlines()]):
        line["text"] += f" {added}" * (line != lines[0])
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, said = asr("prepare", *words)
    said = " ".join(said.split())
    assert status == 0 and said.count("in no training transcript") == 1
    assert f", line 2: {lines[1]['id']}: {told} in no training transcript; test has such in 2 of 3" in said


def test_recordings_that_are_measured_and_trained_on_are_told(asr, words, tmp_path):
    status, said = asr("prepare", *words)
    assert status == 0 and "in train too" not in said
    trained = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    lines = [line.replace('"id": "train', '"id": "other') for line in trained[:2]]
    (tmp_path / "dev.jsonl").write_text("".join([*lines, (tmp_path / "dev.jsonl").read_text()]))
    status, said = asr("prepare", *words)
    assert status == 0 and "2 of 5 dev recordings are in train too" in said and "test recordings" not in said


@pytest.mark.parametrize(
    "given",
    [
        "features.rate_hz=0",
        "features.rate_hz=-8000",
        "features.bands=400",
        "encoder.width=-3",
        "encoder.layers=0",
        "augmentation.noise_snr_db=[5.0, 20.0, 30.0]",
        "augmentation.reverb_s=[0.2]",
        "seed=99999999999999999999",
    ],
)
def test_a_setting_that_cannot_work_is_noticed_before_the_corpus_is_packed(asr, words, given):
    status, said = asr("train", *words, given)
    assert status == 1 and f"error: {given}: " in said
    assert not Path("data").exists() and not Path("exp").exists()


def test_what_is_done_needs_no_statistics_of_the_corpus(asr, words, monkeypatch):
    given = [*words, "features.pool_s=0.5"]
    assert asr("train", *given)[0] == 0
    monkeypatch.setattr(Features, "fit", lambda *_: pytest.fail("computed again"))
    status, said = asr("train", *given)
    assert status == 0 and "training is done already" in said


def test_who_names_no_recordings_is_told_the_key(asr):
    status, said = asr("run", "folder")
    assert status == 1 and "add data.root=FOLDER" in said.replace("\n", " ")
    assert not Path("data").exists()


def test_what_was_tuned_before_a_setting_existed_is_not_tuned_again(asr, words):
    asr("run", *words)
    tuned = json.loads((file := Path("exp/tuning.json")).read_text())
    for section, key in (
        (tuned["asked"]["decoder"], "by_member"),
        (tuned["asked"]["lm"]["recurrent"], "width"),
    ):
        del section[key]
    file.write_text(json.dumps(tuned))
    stamp = Path("exp/model/model.safetensors").stat().st_mtime_ns
    asr("run", *words)
    assert Path("exp/model/model.safetensors").stat().st_mtime_ns == stamp
    asr("run", *words, "decoder.by_member=true")
    assert Path("exp/model/model.safetensors").stat().st_mtime_ns > stamp


def test_a_search_minimises_what_the_run_measures(tmp_path):
    (tmp_path / "results.json").write_text('{"splits": {"test": {"wer": 0.3}, "dev": {"wer": 0.2}}}')
    assert _development_wer(tmp_path, "run") == 0.2


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = compose(
        [
            "folder",
            "data.root='~/a b'",
            "exp='~/e'",
            "training.start_from='~/m'",
            "lm.text=['~/t']",
            "data.extra.folder.root='~/f'",
            "data.extra.synthetic.train=3",
        ]
    )
    with pytest.raises(ConfigError, match="no home folder of that name"):
        compose(["folder", "exp='~nobody-of-that-name/e'"])
    found = [made.data.root, made.exp, made.training.start_from, *made.lm.text]
    found.append(made.data.extra["folder"]["root"])
    assert found == [str(tmp_path / name) for name in ("a b", "e", "m", "t", "f")]
    assert made.data.extra["synthetic"] == {"train": 3}
    bare = [
        "data.root=~/a b",
        "data.phones=~/p.txt",
        "lm.text=[~/t, ~/a b.txt]",
        "data.extra.folder.root=~/f",
    ]
    made = compose(["folder", *bare])
    found = [made.data.root, made.data.phones, *made.lm.text, made.data.extra["folder"]["root"]]
    assert found == [str(tmp_path / name) for name in ("a b", "p.txt", "t", "a b.txt", "f")]
    (tmp_path / "a b").mkdir()
    (tmp_path / "mine.jsonl").touch()
    for name in ("a b", "mine.jsonl"):
        assert compose([f"~/{name}"]).data.root == str(tmp_path / name)


def test_a_further_source_teaches_sounds_but_no_language(asr, words, tone_manifest):
    ten = tone_manifest("ten", 10, seed=9)
    assert asr("run", *words, f"data.extra.folder.root={ten}", "lm.order=2")[0] == 0
    own, further = (
        {word for u in read_manifest(file) for word in u.text.split()} for file in (Path("train.jsonl"), ten)
    )
    assert further - own and set(load("exp/model").lm.known_words) == own
    [done] = Path("data").glob("*/prepared.json")
    facts = json.loads(done.read_text())
    assert facts.pop("own") == 6
    done.write_text(json.dumps(facts))  # as it was written before there was `own`
    assert asr("prepare", *words, f"data.extra.folder.root={ten}")[0] == 0
    assert json.loads(done.read_text())["own"] == 6


def test_a_changed_text_gives_another_language_model(asr, words):
    text = Path("more.txt")
    text.write_text("bad cab\n")
    words += ["lm.order=2", "lm.text=[more.txt]"]
    assert asr("run", *words)[0] == 0
    text.write_text("dada\n")
    assert "language model of order" in asr("run", *words)[1]
    vocabulary = load("exp/model").lm.vocabulary
    assert "dada" in vocabulary and "cab" not in vocabulary
    assert "language model of order" not in asr("run", *words)[1]


def test_an_ensemble_whose_member_was_stopped_before_its_curves_were_drawn_is_finished(
    asr, words, monkeypatch
):
    monkeypatch.setattr(members, "available_cores", lambda: 1)  # no processes to wait for
    words.append("members=2")
    asr("train", *words)
    drawn = Path("exp/member-1/curves.png")
    drawn.unlink()
    Path("exp/model/model.safetensors").unlink()
    status, said = asr("train", *words)
    assert status == 0, said
    assert drawn.is_file() and Path("exp/model/model.safetensors").is_file()


def test_a_signal_when_all_members_are_trained_stops_before_they_are_combined(asr, words, monkeypatch):
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a single core trains one member after the other")
    answered = []
    answer_of = members._answer

    def answer(*args, **kw):
        answered.append(answer_of(*args, **kw))
        if len(answered) == 2:
            signal.raise_signal(signal.SIGINT)
        return answered[-1]

    monkeypatch.setattr(members, "_answer", answer)
    words.append("members=2")
    assert asr("train", *words)[0] == 130
    assert all(isinstance(bundle, Path) for bundle in answered) and not Path("exp/model").exists()


@pytest.mark.parametrize(("there", "count"), [("checkpoints", 2), ("member-1", 1)])
def test_an_ensemble_and_a_single_model_do_not_share_a_folder(asr, words, there, count):
    Path("exp", there).mkdir(parents=True)
    status, said = asr("train", *words, f"members={count}")
    assert status == 1 and f"members={count}: {Path('exp', there)} is of" in " ".join(said.split())
    assert not Path("exp/model").exists()


def test_a_member_that_cannot_write_says_why(asr, words):
    Path("exp").mkdir()
    Path("exp/member-2").touch()
    status, said = asr("train", *words, "members=2")
    assert status == 1 and "error: exp/member-2: File exists" in said
    assert "out of memory" not in said and "Traceback" not in said


def test_training_goes_on_only_with_the_pronunciations_it_began_with(asr, words):
    spelled = {"".join(word): " ".join(word).upper() for n in (1, 2, 3) for word in product("abcd", repeat=n)}
    lexicon = Path("lexicon.txt")

    def write(a: str = "A", **further: str) -> None:
        lines = [f"{word} {phones.replace('A', a)}" for word, phones in (spelled | further).items()]
        lexicon.write_text("\n".join(lines) + "\n")

    write()
    words.append("data.phones=lexicon.txt")
    assert asr("train", *words)[0] == 0
    write(further="A B")
    status, said = asr("train", *words)
    assert status == 0 and "training is done already" in said, "a word that was not heard in training"
    for renamed_or_more in ("AH", "A X"):
        write(renamed_or_more)
        status, said = asr("train", *words)
        assert status == 1 and "begun with other settings" in " ".join(said.split()), said


def test_words_of_the_lexicon_that_no_sentence_has_can_be_recognised_if_asked_for(asr, words):
    spelled = [" ".join(["".join(word), *map(str.upper, word)]) for word in product("abcd", repeat=2)]
    singles = [f"{letter} {letter.upper()}" for letter in "abcd"]
    Path("lexicon.txt").write_text("\n".join([*singles, *spelled, "Dr. D A"]) + "\n")
    asked = [*words, "data.phones=lexicon.txt", "decoder.name=beam", "lm.order=2"]
    asr("run", *asked)
    heard = {word for found in read_manifest("train.jsonl") for word in found.text.split()}
    assert set(load("exp/model").lm.known_words) == heard
    status, said = asr("run", *asked, "lm.dictionary=true")
    known = set(load("exp/model").lm.known_words)
    assert status == 0 and "training is done already" in said
    assert known == heard | {line.split()[0] for line in spelled} | {*"abcd", "dr"}


def test_a_language_model_has_the_words_of_a_list_too(asr):
    Path("text.txt").write_text("one two\n")
    Path("words.txt").write_text(";;; a comment\nTwo T UW\ntwo(2) T AH\n\nthree\nfour F AO R\n")
    for vocabulary, count in ((["--vocabulary", "words.txt"], 4), ([], 2)):
        status, said = asr("lm", "train", "text.txt", "-o", "lm.arpa", *vocabulary)
        assert status == 0 and f"lm.arpa: order 4, {count} words" in said
    assert asr("lm", "train", "text.txt", "-o", "lm.arpa", "--vocabulary", "cmudict")[0] == 0
    assert "\tsparkle" in Path("lm.arpa").read_text()
