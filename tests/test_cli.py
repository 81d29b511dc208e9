"""The command as people use it: recipes, overrides, odd files, errors without tracebacks."""

import fcntl
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile
import yaml
from rich.table import Table
from tone_model import spoken, tone_model
from tones import RATE_HZ, sentences

from asr import cli, lm, load
from asr.audio import resample
from asr.decoding.choice import DecoderName
from asr.encoder import EncoderConfig
from asr.errors import ConfigError
from asr.files import locked
from asr.jobs import align, console, export, stages
from asr.jobs import recipe as recipes
from asr.jobs.formats import FORMATS
from asr.precision import Precision
from asr.recognizer import Recognizer
from asr.scoring.alignment import Alignment
from asr.scoring.styles import Style
from asr.text import Alphabet
from asr.voice import VoiceDetector

QUICK = [
    "features.rate_hz=8000",
    "features.bands=24",
    "encoder.layers=1",
    "encoder.width=16",
    "training.epochs=2",
    "training.seconds_per_batch=8",
    "training.device=cpu",
    "data.workers=1",
]


@pytest.fixture
def asr(monkeypatch, capsys, tmp_path):
    """Runs the command in an empty folder: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["asr", *map(str, words)])
        try:
            cli.main()
            status = 0
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A bundle for the language of tones."""
    folder = tmp_path_factory.mktemp("trained")
    tone_model().save(folder)
    return folder


def write_manifest(
    path: Path, count: int, *, seed: int, rate_hz: int = 8000, channels: int = 1, suffix: str = "wav"
) -> Path:
    lines = []
    for i, text in enumerate(sentences(count, seed=seed)):
        wave = resample(spoken(text, seed=seed * 1000 + i), RATE_HZ, rate_hz)
        file = path.with_name(f"{path.stem} {i}.{suffix}")
        soundfile.write(file, np.stack([wave] * channels, 1), rate_hz)
        lines.append({"audio_filepath": file.name, "duration": len(wave) / rate_hz, "text": text})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_help_imports_nothing_heavy():
    heavy = "{'torch', 'numpy', 'numba', 'matplotlib', 'hydra', 'librosa'}"
    code = f"import sys, asr.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_folder_is_evaluated_tuned_on_and_aligned_as_its_manifest_is(asr, tmp_path):
    """One recording has its text beside it, one subtitles, one nothing, one is no audio."""
    model, folder = tone_model().save(tmp_path / "model"), tmp_path / "my tests"
    folder.mkdir()
    (folder / "said.txt").write_text("ab ca")
    waves = [spoken("ab ca"), np.concatenate([spoken("bad"), np.zeros(8000, np.float32), spoken("cab")])]
    for name, wave in zip(("said", "long", "unsaid"), (*waves, waves[0]), strict=True):
        soundfile.write(folder / f"{name}.wav", wave, RATE_HZ)
    ends_s = len(spoken("bad")) / RATE_HZ
    (folder / "long.srt").write_text(
        f"1\n00:00:00,000 --> 00:00:0{ends_s:.3f}\nbad\n\n2\n00:00:0{ends_s + 1:.3f} --> 00:00:09,000\ncab\n"
    )
    (folder / "broken.wav").write_bytes(b"no audio")
    (folder / "broken.txt").write_text("ab")
    status, out, err = asr("evaluate", folder, "--model", model, "--json")
    score = json.loads(out)
    assert (status, score["sentences"], score["wer"], score["failed"]) == (1, 3, 0.0, 2)
    assert "unsaid is not in the score: no text was found for it" in err and "broken is not in" in err
    status, out, err = asr("align", folder, "--model", model)
    assert status == 1
    assert [line.split()[0] for line in out.splitlines()] == [
        *("long_0.00", f"long_{ends_s + 1:.2f}", "said", "said"),
    ]
    lm.train(["ab ca", "bad", "cab"], order=1).save(tmp_path / "words.arpa")
    status, _, err = asr("tune", folder, "--model", model, "--lm", tmp_path / "words.arpa")
    assert status == 1 and "unsaid" in err and "greedy 0.00%" in err


@pytest.mark.parametrize(
    ("rate_hz", "channels", "suffix"),
    [(8000, 1, "wav"), (48_000, 2, "mp3"), (16_000, 1, "flac"), (44_100, 1, "ogg")],
)
def test_one_model_evaluates_any_rate_channels_and_format(asr, trained, tmp_path, rate_hz, channels, suffix):
    manifest = write_manifest(
        tmp_path / "test.jsonl", 12, seed=9, rate_hz=rate_hz, channels=channels, suffix=suffix
    )
    status, out, _ = asr("evaluate", manifest, "--model", trained, "--json")
    assert status == 0
    score = json.loads(out)
    assert score["sentences"] == 12
    assert score["signature"].startswith("style:basic|")
    assert score["wer"] <= (0.2 if suffix in ("mp3", "ogg") else 0.1)  # codecs add tones to the pauses


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_a_closed_stream_is_taken_for_an_empty_one(asr, trained, tmp_path, monkeypatch, closed):
    soundfile.write(tmp_path / "a.wav", spoken("ab"), RATE_HZ)
    monkeypatch.setattr(sys, closed, None)
    status, out, err = asr("transcribe", "-" if closed == "stdin" else "a.wav", "--model", trained)
    getattr(sys, closed).close()
    assert status == (closed == "stdin") and ("standard input is empty" in err) == (closed == "stdin")
    assert bool(out.strip()) == (closed == "stderr")


def test_transcribe_prints_one_line_a_file(asr, trained, tmp_path):
    folder = tmp_path / "my recordings"
    folder.mkdir()
    for name, text in (("a.wav", "abc"), ("b.flac", "d ab")):
        soundfile.write(folder / name, spoken(text), RATE_HZ)
    status, out, err = asr("transcribe", folder, "--model", trained)
    assert (status, out) == (0, "abc\nd ab\n"), err


def test_bad_files_are_listed_and_the_rest_goes_on(asr, trained, tmp_path):
    soundfile.write(tmp_path / "good.wav", spoken("abc"), RATE_HZ)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("this is no sound")
    status, out, err = asr(
        "transcribe", *(tmp_path / f"{n}.wav" for n in ("empty", "good", "text", "none")),
        "--model", trained,
    )  # fmt: skip
    assert status == 1
    assert out == "\nabc\n\n\n", "lines and recordings must correspond"
    for name in ("empty.wav", "text.wav", "none.wav"):
        assert name in err
    assert "Traceback" not in err


def test_an_interruption_keeps_what_is_done_and_the_same_command_goes_on(asr, trained, tmp_path, monkeypatch):
    folder = tmp_path / "my calls"
    folder.mkdir()
    for i, text in enumerate(["abc", "d ab", "cab"]):
        soundfile.write(folder / f"{i}.wav", spoken(text), RATE_HZ)
    words = ["transcribe", folder, "--model", trained, "-o", tmp_path / "out", "-f", "srt,json"]

    whole = Recognizer.outcomes

    def interrupted(*given, **settings):
        yield next(whole(*given, **settings))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Recognizer, "outcomes", interrupted)
        status, _, err = asr(*words)
    assert (status, "the same command goes on" in err) == (130, True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.json", "0.srt"]
    status, _, err = asr(*words)
    assert status == 0 and "1 of 3 recordings done already" in err
    assert len(list((tmp_path / "out").iterdir())) == 6


@pytest.mark.parametrize(
    ("words", "goes_on"),
    [
        (["--debug", "train", "digits"], True),
        (["transcribe", "a", "-m", "b", "--output_dir=c"], True),
        (["transcribe", "run", "-m", "b", "-f", "json"], False),
        (["lm", "train", "a", "-o", "b.safetensors", "--recurrent"], True),
        (["lm", "train", "a", "-o", "b.arpa"], False),
        (["score", "train", "b"], False),
        ([], False),
    ],
)
def test_an_interruption_promises_to_go_on_only_where_the_command_does(asr, monkeypatch, words, goes_on):
    def interrupted():
        raise SystemExit(130)

    monkeypatch.setattr(cli, "app", interrupted)
    assert ("the same command goes on" in asr(*words)[2]) == goes_on


def test_unreadable_utterances_are_counted_not_scored(asr, trained, tmp_path):
    manifest = write_manifest(tmp_path / "test.jsonl", 5, seed=9)
    (tmp_path / "test 2.wav").write_bytes(b"RIFF")
    status, out, err = asr("evaluate", manifest, "--model", trained, "--json")
    assert status == 1
    found = json.loads(out)
    assert (found["sentences"], found["failed"]) == (4, 1)
    assert sum(group["sentences"] for group in found["lengths"].values()) == 4 and 0 <= found["ece"] <= 1
    assert "test 2.wav" in err


def test_run_goes_from_a_manifest_to_scores_and_a_second_run_does_nothing_again(asr, tmp_path):
    write_manifest(tmp_path / "mine.jsonl", 60, seed=3)
    words = ["run", "mine.jsonl", *QUICK]
    status, out, err = asr(*words)
    assert status == 0, err
    folder = tmp_path / "exp" / "mine"
    for name in (
        "model/model.safetensors",
        "results.json",
        "report.html",
        "curves.png",
        "history.jsonl",
        "recipe.json",
    ):
        assert (folder / name).is_file(), name
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    status, again, err = asr(*words)
    assert status == 0
    assert again == out
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before
    assert load(folder / "model").trained_on["recipe"] == "mine"


def test_a_sweep_trains_each_value_in_its_own_folder(asr, tmp_path):
    write_manifest(tmp_path / "mine.jsonl", 30, seed=3)
    words = ["mine.jsonl", *QUICK, "encoder.cell=gru,rnn,lstn", "-m"]
    status, out, err = asr("run", *words)
    assert status == 1
    assert "expected one of rnn, gru, lstm" in err  # one wrong value does not stop the others
    for cell in ("gru", "rnn"):
        assert load(tmp_path / "exp" / "mine" / f"encoder.cell={cell}" / "model").encoder.config.cell == cell
    assert out.count("encoder.cell=gru") == 1  # in the ranking


def test_the_folder_of_a_sweep_keeps_its_name(asr, tmp_path):
    write_manifest(tmp_path / "größe.jsonl", 10, seed=3)
    for old in ("seed=3", "seed=4"):
        (tmp_path / "exp" / "größe" / old).mkdir(parents=True)
        line = '{"id": "a", "text": "ab", "pred_text": "ab"}\n'
        (tmp_path / "exp" / "größe" / old / "dev.hypotheses.jsonl").write_text(line)
    status, out, _ = asr("prepare", "größe.jsonl", *QUICK, "seed=1,2", "-m")
    assert (status, out) == (0, ""), "earlier trainings are not ranked again"
    for old in ("seed=3", "seed=4"):
        shutil.rmtree(tmp_path / "exp" / "größe" / old)
    assert sorted(path.name for path in (tmp_path / "exp").glob("*/seed=*")) == ["seed=1", "seed=2"]
    assert (tmp_path / "exp" / "größe" / "seed=1").is_dir()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("lm.text=[a],[b,c]", ["lm.text=[a]", "lm.text=[b,c]"]),
        ("data.options.fractions={dev: 0.1},{dev: 0.2}", ["++data.options.fractions={dev:0.1}"]),
        ('lm.arpa="a b","c d"', ['lm.arpa="a b"', 'lm.arpa="c d"']),
        ("seed=sort(2,1)", ["seed=1", "seed=2"]),
    ],
)
def test_each_value_of_a_sweep_has_its_own_folder_whatever_it_is(asr, tmp_path, given, names):
    write_manifest(tmp_path / "mine.jsonl", 10, seed=3)
    status, _, err = asr("prepare", "mine.jsonl", *QUICK, "lm.order=1", given, "-m")
    assert status == 0, err
    said = " ".join(err.split())
    assert [said.count(f"exp/mine/{name}") for name in names] == [1] * len(names), said


def test_of_a_key_that_a_sweep_is_given_twice_the_last_counts(asr, tmp_path):
    write_manifest(tmp_path / "mine.jsonl", 10, seed=3)
    words = ["prepare", "mine.jsonl", *QUICK, "exp=exp/lost", "exp=exp/sw", "encoder.cell=rnn"]
    assert asr(*words, "encoder.cell=gru,lstn", "-m")[0] == 1
    assert [path.parent.name for path in (tmp_path / "exp" / "sw").glob("*/failed.txt")] == [
        "encoder.cell=lstn"
    ]
    status, _, err = asr(*words, "encoder.cell=lstn", "-m")
    assert status == 1, "a single job that fails is a failure, too"
    assert "1 of the jobs failed" in err
    assert asr(*words, "-m")[0] == 0


@pytest.mark.parametrize("launcher", ["basic", "submitit_local"])
def test_jobs_that_fail_are_listed_wherever_they_ran(asr, tmp_path, launcher):
    if launcher != "basic":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    write_manifest(tmp_path / "mine.jsonl", 10, seed=3)
    words = ["prepare", "mine.jsonl", *QUICK, f"hydra/launcher={launcher}", "-m"]
    status, _, err = asr(*words, "encoder.cell=gru,lstn")
    assert status == 1
    assert "1 of the jobs failed" in err and "encoder.cell=lstn: encoder.cell=lstn: expected one of" in err
    if launcher == "basic":
        assert asr(*words, "encoder.cell=gru,rnn")[0] == 0, "what failed in another sweep is not told again"


def test_slurm_is_missed_before_anything_is_done(asr, tmp_path, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, err = asr("train", "digits", "encoder.width=8,16", "hydra/launcher=slurm", "-m")
    assert status == 1 and "there is no Slurm on this machine (srun is missing)" in " ".join(err.split())


def test_two_processes_do_not_work_in_one_experiment(asr, tmp_path):
    write_manifest(tmp_path / "mine.jsonl", 10, seed=3)
    words = ["train", "mine.jsonl", *QUICK, "training.epochs=1", "exp=mine"]
    with locked(tmp_path / "mine" / ".lock"):
        status, _, err = asr(*words)
        assert status == 1 and "another process works in mine: wait for it" in " ".join(err.split())
        status, corpus, _ = asr("prepare", "mine.jsonl", *QUICK, "exp=mine")
        assert status == 0 and (Path(corpus.rstrip("\n")) / "train.jsonl").is_file()
        assert asr(*words[:-1], "exp=other")[0] == 0
    assert asr(*words)[0] == 0


def test_a_lock_that_its_holder_removes_on_leaving_is_taken_anew(tmp_path, monkeypatch):
    lock, flock, removed = tmp_path / ".lock", fcntl.flock, []

    def late(file, how):
        if not removed:
            removed.append(lock.unlink())
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(lock), pytest.raises(ConfigError, match="busy"), locked(lock, busy="busy"):
        pass


def test_the_gradients_of_the_laboratory_go_as_far_as_asked(asr, tmp_path):
    status, out, _ = asr("lab", "gradients", "--longest", 25, "-o", tmp_path / "g.jpeg")
    assert status == 0 and {row.split()[1] for row in out.splitlines() if " RTRL " in row} == {"10", "25"}
    assert (tmp_path / "g.jpeg").is_file()


def test_a_typing_error_in_a_sweep_names_the_nearest_key_and_nothing_is_trained(asr, tmp_path):
    write_manifest(tmp_path / "mine.jsonl", 10, seed=3)
    status, _, err = asr("train", "mine.jsonl", *QUICK, "training.lerning_rate=1e-3,1e-2", "-m")
    assert status == 1 and "did you mean 'training.learning_rate'?" in err
    status, _, err = asr("train", "mine.jsonl", *QUICK, "training.epochs=choice(x,2)", "-m")
    assert status == 1 and "HYDRA_FULL_ERROR" not in err
    status, _, err = asr("train", "mine.jsonl", *QUICK, "encoder.layers=1,2", "encoder.width=8,abc", "-m")
    assert status == 1 and "encoder.width=abc; Value 'abc'" in err and "HYDRA_FULL_ERROR" not in err
    assert not (tmp_path / "exp").exists()


def test_a_job_whose_folder_cannot_be_made_stops_no_other_and_trained_ones_are_listed(asr, tmp_path):
    write_manifest(tmp_path / "mine.jsonl", 20, seed=3)
    words = ["train", "mine.jsonl", *QUICK, "training.epochs=1", "exp=sw", "-m"]
    assert asr(*words, "encoder.cell=rnn,gru")[0] == 0
    (tmp_path / "sw" / "encoder.cell=lstm" / "checkpoints").mkdir(parents=True)
    (tmp_path / "sw" / "encoder.cell=lstm" / "checkpoints" / "last.pt").mkdir()
    status, _, err = asr(*words, "encoder.cell=lstm,gru")
    assert status == 1 and "1 of the jobs failed" in err
    listed = err[err.index("development WER, greedily") :]
    assert "encoder.cell=rnn" in listed and "encoder.cell=gru" in listed


def test_a_sweep_over_bundles_is_ranked_although_their_paths_have_slashes(asr, tmp_path):
    write_manifest(tmp_path / "mine.jsonl", 30, seed=3)
    assert asr("train", "mine.jsonl", *QUICK, "exp=a")[0] == 0
    shutil.copytree(tmp_path / "a" / "model", tmp_path / "b" / "model")
    status, out, err = asr("run", "mine.jsonl", *QUICK, "training.start_from=a/model,b/model", "-m")
    assert status == 0, err
    assert re.search(r"going on from a/model: [5-9] outputs are taken over, 0 are new", " ".join(err.split()))
    assert "training.start_from=a/model" in out and "training.start_from=b/model" in out  # the ranking


def test_runs_in_a_script_without_spaces_are_ranked_symbol_by_symbol(tmp_path, capsys):
    for name, heard in (("a=1", "你好世"), ("a=2", "你好")):
        model = Recognizer.build(Alphabet(list("世你好界")), encoder=EncoderConfig(layers=1, width=4))
        model.save(tmp_path / name / "model")
        lines = [json.dumps({"id": i, "text": "你好世界", "pred_text": heard}) for i in "xyz"]
        (tmp_path / name / "dev.hypotheses.jsonl").write_text("\n".join(lines))
    stages._rank(tmp_path)
    out = capsys.readouterr().out
    assert "25.00%" in out and "50.00%" in out


def test_runs_on_another_development_set_are_not_ranked(tmp_path, capsys):
    for second, (name, ids) in enumerate({"a=1": "xyz", "a=2": "xy", "a=3": "xy"}.items()):
        file = tmp_path / name / "dev.hypotheses.jsonl"
        file.parent.mkdir()
        lines = [json.dumps({"id": one, "text": "ab c", "pred_text": "ab"}) for one in ids]
        file.write_text("\n".join(lines) + "\n")
        os.utime(file, (second, second))
    Recognizer.build(Alphabet(list(" abc")), encoder=EncoderConfig(layers=1, width=4)).save(
        file.parent / "model"
    )
    stages._rank(tmp_path)
    out, err = capsys.readouterr()
    assert "a=2" in out and "a=3" in out and "a=1" not in out
    assert "1 of 3 runs" in err and "other utterances" in " ".join(err.split())


def test_optuna_searches_and_hands_jobs_to_another_process(tmp_path):
    """Optuna's sweeper chooses the values, submitit's launcher sends each job to a process of its own."""
    for plugin in ("optuna_sweeper", "submitit_launcher"):
        pytest.importorskip(f"hydra_plugins.hydra_{plugin}")
    write_manifest(tmp_path / "mine.jsonl", 30, seed=3)
    words = ["train", "mine.jsonl", *QUICK, "training.epochs=1", "-m"]
    words += [
        "training.learning_rate=interval(1e-3,1e-2)",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
    ]
    words += ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "hydra.sweeper.n_jobs=1"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "asr.cli", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "exp" / "mine").glob("training.learning_rate=*"))
    assert len(runs) == 2
    best = yaml.safe_load((tmp_path / "exp" / "mine" / "optimization_results.yaml").read_text())
    errors = [load(run / "model").trained_on["dev_wer"] for run in runs]
    assert best["best_value"] == min(errors)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "digit"], "did you mean 'digits'?"),
        (["run", "digits", "encoder.layer=3"], "did you mean 'encoder.layers'?"),
        (["run", "digits", "decoder.width=3"], "did you mean 'decoder.beam_width'?"),
        (["run", "digits", "features.mels=3"], "the keys of features are: kind, rate_hz, bands"),
        (["run", "digits", "lm.text=a.txt"], "lm.text=a.txt: expected a list, 'lm.text=[a.txt]'"),
        (["run", "digits", "members=0", "data.dir=none"], "members=0: expected 1 or more"),
        (["train", "digits", "training.start_from=none", "data.dir=none"], "none: no model there"),
        (["run", "digits", "encoder.cell=lstn"], "expected one of rnn, gru, lstm"),
        (["run", "digits", "encoder.layers=many"], "many"),
        (["run", "encoder.layers=3"], "no recipe given"),
        (["run"], "no recipe given; the recipes are:\n  an4"),
        (["run", "digits", "fsdd"], "one recipe is expected"),
        (["run", "digits", "exp=exp/${nope}"], "exp refers to ${nope}, a key that does not exist"),
        (["run", "digits", "encoder.width=${nope}"], "encoder.width refers to ${nope}, a key that"),
        (["run", "digits", "exp=???"], "exp has no value: add exp=…"),
        (["run", "digits", "exp="], "exp= is empty: give the folder of the experiment, exp=FOLDER"),
        (["train", "recipes=folder/default", "data.root=here"], "name has no value: add name=…"),
        (["run", "digits", "encoder=null"], "encoder=null: expected the name of a file in"),
        (["run", "digits", "data.extra.synthetic=5"], "data.extra.synthetic=5: expected options of that"),
        (["run", "digits", "data.extra.folder.root=[a]"], "data.extra.folder.root=['a']: expected one path"),
        (["transcribe", "none.wav", "--model", "nothing"], "no model there"),
        (["evaluate", "none.jsonl", "--model", "nothing"], "no model there"),
        (["train", "none.jsonl"], "no such manifest"),
        (["run", "digits", "decoder.beam_width=0"], "decoder.beam_width=0: expected 1 to 1048576 prefixes"),
        (["run", "digits", "decoder.beam_width=2000000"], "decoder.beam_width=2000000: expected 1 to"),
        (["run", "digits", "decoder.prior_weight=7"], "decoder.prior_weight=7.0: expected 0 to 1"),
        (["run", "digits", "decoder.beam_threshold=-1"], "decoder.beam_threshold=-1.0, decoder.token_thresh"),
        (["run", "digits", "decoder.beta=nan"], "decoder.beta=nan: expected a finite number"),
        (["run", "digits", "decoder.rescore=1"], "decoder.rescore=1: expected 2 or more"),
        (["lm", "train", "none.txt", "-o", "lm.safetensors"], "--recurrent trains an LSTM"),
        (["lm", "train", "none.txt", "-o", "lm.arpa", "--recurrent"], "ends in .safetensors"),
        (["lm", "train", "a", "-o", "b", "--recurrent", "--order", "3"], "--order is not for an LSTM"),
        (["lm", "train", "a", "-o", "b", "--recurrent", "--vocabulary", "c"], "--vocabulary is not for an"),
        (["lm", "train", __file__, "-o", "b", "--vocabulary", "x.txt"], "x.txt does not exist"),
        (["lm", "train", "a", "-o", "b", "--width", "9"], "--width is for an LSTM"),
        (["transcribe", "a.wav", "-m", "b", "-o", "-"], "--output_dir -: expected a folder; without one"),
        (["lm", "perplexity", ".", "a.txt"], ". is a folder; an ARPA file was expected"),
        (["lm", "train", ".", "-o", "b"], ". is a folder; a file with a sentence a line was expected"),
        (["lm", "train", "a", "-o", "b", "--order", "7"], "Invalid value for '--order'"),
        (["lab", "gradients", "-o", "picture.txt"], "expected a name that ends in .png"),
        (["lab", "gradient-flow", "--audio", "a.wav"], "name one with --model"),
        (["train", "digits", "hydra/launcher=slurm"], "launchers and sweepers are for sweeps; add -m"),
        (["train", "digits", "encoder.width=8,16", "hydra.launcher.partitoin=x", "-m"], "of the launcher"),
        (["tune", "none.jsonl", "--model", "nothing", "-o", "picture"], "expected a name that ends in .png"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(asr, words, message):
    status, out, err = asr(*words)
    assert status in (1, 2)
    assert message in err, err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["transcribe", "a.wav", "--decoder", "viterbi"], "'viterbi': expected greedy, beam, pyctcdecode"),
        (["transcribe", "a.wav", "--decoder", "greedy", "--beam_width", "5"], "no use for --beam_width"),
        (["evaluate", "a", "--decoder", "greedy", "--lm", "c"], "no use for --lm"),
        (["transcribe", "a.wav", "--precision", "fp16"], "'fp16': expected float32, bf16, int8"),
        (["transcribe", "a.wav", "--vad", "none"], "'none': expected energy, silero"),
        (["transcribe", "a.wav", "-f", "srt,doc"], "'doc': expected txt, vtt"),
        (["transcribe", "-", "--stream", "-f", "srt"], "a stream is written as txt or jsonl"),
        (["align", "a.wav", "a", "-f", "srt"], "'srt': expected ctm, json, textgrid"),
        (["align", "a.wav", "a", "--longest_s", "9"], "name a folder with --cut"),
        (["align", "a.jsonl", "--per_word", "1"], "name a folder with --cut"),
        (["align", "a.jsonl", "--cut", "f", "--longest_s", "9", "--per_word", "1"], "leave out --per_word"),
        (["export", "-o", "x.onnx", "--format", "tflite"], "'tflite': expected onnx"),
    ],
)
def test_wrong_options_are_told_before_a_model_is_looked_for(asr, words, message):
    status, out, err = asr(*words, "--model", "nothing")
    assert (status, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split()), err


def test_what_a_message_quotes_commands_no_terminal(asr, tmp_path):
    evil = "\x1b]0;owned\x07"
    status, _, err = asr("transcribe", "a.wav", "--model", tmp_path / evil)
    assert status == 1 and "\\x1b]0;owned\\x07" in err and "\x1b" not in err


def test_messages_and_warnings_command_no_terminal(capsys):
    console.warn("\x1b]0;owned")
    console.say("\x1b]0;owned")
    assert capsys.readouterr().err.replace("\n", "|") == "warning: \\x1b]0;owned|\\x1b]0;owned|"


def test_names_with_colons_are_printed_as_they_are(capsys):
    name = "call:b:7"  # rich knows an emoji of that name
    console.say(name)
    console.warn(name)
    table = Table("utterance")
    table.add_row(name)
    console.output.print(table)
    out, err = capsys.readouterr()
    assert (out.count(name), err.count(name)) == (1, 2)


@pytest.mark.parametrize(("given", "shown"), [("1", "error: "), ("", "\x1b[31m\x1b[1merror: \x1b[0m")])
def test_no_color_is_heeded_by_errors(monkeypatch, given, shown):
    monkeypatch.setenv("NO_COLOR", given)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "argv", ["asr", "transcribe", "a.wav", "--model", "nothing"])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert terminal.getvalue().startswith(shown)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["transcribe", "a", "-m", "none", "--decoder"], get_args(DecoderName)),
        (["transcribe", "a", "-m", "none", "--precision"], get_args(Precision)),
        (["transcribe", "a", "-m", "none", "--vad"], get_args(VoiceDetector)),
        (["transcribe", "a", "-m", "none", "-f"], (*FORMATS, "all", ",".join(FORMATS))),
        (["align", "a", "a", "-m", "none", "-f"], align.FORMATS),
        (["export", "-m", "none", "-o", "a", "-f"], export.SUFFIXES),
        (["score", "none", "none", "--style"], get_args(Style)),
        (["score", "none", "none", "--alignment"], get_args(Alignment)),
    ],
)
def test_the_command_knows_every_name_that_its_jobs_know(asr, words, names):
    for name in names:
        assert asr(*words, name)[0] == 1, name


def test_what_is_near_a_model_or_missing_is_named(asr, trained, tmp_path):
    for words, message in [
        (["transcribe", "a.wav", "-m", "exp/mine"], "did you mean exp/mine/model?"),
        (["transcribe", "a.wav", "-m", trained, "--lm", "none.arpa"], "none.arpa does not exist"),
        (["transcribe", "a.wav", "-m", trained, "--device", "gpu"], "'gpu': expected cpu, cuda or cuda:N"),
        (["align", "a.wav", "none.txt", "-m", "nothing"], "none.txt: no such file"),
        (["doctor", "none"], "none: no such folder"),
        (["combine", "h.trn", "h.kaldi", "-o", "both.ctm"], "either transcripts (.ctm, .jsonl, .json) or"),
    ]:
        (tmp_path / "exp" / "mine" / "model").mkdir(parents=True, exist_ok=True)
        status, out, err = asr(*words)
        assert (status, out, message in err) == (1, "", True), err


def test_every_recipe_composes():
    names = recipes.names()
    assert {"digits", "fsdd", "folder"} <= set(names)
    for name in names:
        recipe = recipes.compose([name])
        assert recipe.name == name
        assert recipe.exp == f"exp/{name}"


def test_configuration_files_state_differences_only():
    for path in (recipes.home() / "conf").rglob("*.yaml"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 15, path


def test_a_recipe_of_the_working_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("# @package _global_\nencoder:\n  layers: 2\n")
    assert "mine" in recipes.names()
    (tmp_path / "exp").mkdir()  # a folder of the name of a key is no group of configurations
    recipe = recipes.compose(["mine", "exp=exp/other"])
    assert (recipe.encoder.layers, recipe.exp) == (2, "exp/other")


@pytest.mark.parametrize("file", ["digits/default.yaml", "digits.yaml"])
def test_a_recipe_of_the_working_directory_takes_the_place_of_a_built_in_one_and_that_is_said(
    tmp_path, monkeypatch, capsys, file
):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "recipes" / file
    mine.parent.mkdir(parents=True)
    mine.write_text("encoder:\n  width: 7\n")
    recipe = recipes.compose(["digits"])
    assert (recipe.encoder.width, recipe.name, recipe.lm.order) == (7, "digits", 0)
    built_in = recipes.home() / "recipes" / "digits" / "default.yaml"
    assert f"recipe digits: {mine}, not {built_in}" in capsys.readouterr().err
    mine.write_text("defaults: [/recipes/digits/default]\n")
    if "default" in file:
        with pytest.raises(ConfigError, match="a recipe is among its own defaults"):
            recipes.compose(["digits"])
    else:
        assert recipes.compose(["digits"]).lm.order == 2


def test_options_of_a_source_may_be_given_together():
    splits = {"train": "tr.jsonl", "dev": "dev.jsonl"}
    given = ["data.options={splits:{train:tr.jsonl,dev:dev.jsonl}}", "data.extra={yesno:{root:waves}}"]
    data = recipes.compose(["folder", *given]).data
    assert data.options["splits"] == splits and data.extra == {"yesno": {"root": "waves"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoder: {widht: 8}", "there is no key 'encoder.widht' in a recipe; did you mean 'encoder.width'?"),
        ("enc: {width: 8}", "there is no key 'enc' in a recipe; did you mean 'encoder'?"),
        ("encoder: {width: abc}", "encoder.width: Value 'abc' of type 'str' could not be converted"),
        ("encoder: 8", "int is not a subclass of EncoderConfig"),
        ("- seed: 2", "expected keys and values, such as `seed: 2`, not a list"),
        ("seed: [2", "not a readable recipe"),
    ],
)
def test_a_mistake_in_a_recipe_is_told_with_its_file(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes" / "bad").mkdir(parents=True)
    (file := tmp_path / "recipes" / "bad" / "typo.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"{file}: ") + ".*" + re.escape(message)):
        recipes.compose(["bad/typo"])
    assert recipes.compose(["digits"]).name == "digits"  # others can still be run


def test_a_recipe_may_stand_beside_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes" / "foo").mkdir(parents=True)
    (tmp_path / "recipes" / "foo.yaml").write_text("seed: 3\n")
    (tmp_path / "recipes" / "foo" / "bar.yaml").write_text("seed: 4\n")
    assert [recipes.compose([name]).seed for name in ("foo", "foo/bar")] == [3, 4]


def test_an_exported_model_transcribes_like_the_bundle(asr, trained, tmp_path):
    pytest.importorskip("onnxruntime", reason="exporting needs asr[export]")
    soundfile.write(tmp_path / "a.wav", spoken("abc dab c", seed=3), RATE_HZ)
    status, _, err = asr("export", "--model", trained, "-o", "out/model.onnx")
    assert status == 0 and "out/model.onnx" in err and "of the bundle's" in err
    said = asr("transcribe", "a.wav", "--model", trained)[:2]
    assert asr("transcribe", "a.wav", "--model", "out/model.onnx")[:2] == said and said[1].strip()
    status, _, err = asr("export", "--model", trained, "-o", "small.safetensors")
    assert status == 0 and "of the bundle's" in err
    assert asr("transcribe", "a.wav", "--model", "small.safetensors")[:2] == said
    for words, why in [
        (("--model", trained, "-o", "model.pb"), "ends in .onnx or .safetensors"),
        (("--model", trained, "-o", "model.onnx", "-f", "int8"), "ends in .safetensors"),
        (("--model", trained, "-o", f"{trained}/model.safetensors"), "is the model itself"),
        (("--model", "out/model.onnx", "-o", "x.onnx"), "exported already"),
        (("--model", trained, "-o", "a.wav/x.onnx"), "cannot be written"),
    ]:
        status, _, err = asr("export", *words)
        assert status == 1 and why in err


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_of_torch_do_not_wait_busily_for_long_unless_told_to(asr, monkeypatch, given, found):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert asr("--version")[0] == 0
    assert os.environ.get("GOMP_SPINCOUNT") == found
