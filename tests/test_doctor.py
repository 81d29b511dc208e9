"""Every diagnosis fires on a run made sick on purpose and not on a healthy one; installations examined."""

import dataclasses
import json
import logging
import math
import re
import subprocess
import sys
import time

import pytest
import torch
from test_training import ENCODER, QUICK, QUIET, corpus, trainer  # noqa: F401 (corpus is a fixture)

from asr import cli
from asr.errors import TrainingError
from asr.jobs import doctor as jobs
from asr.training import history
from asr.training.doctor import Watch, diagnose

EPOCH = {
    "kind": "epoch", "epochs": 30, "skipped": 0, "infeasible": 0, "out_of_memory": 0, "utterances": 100,
    "left_out": {}, "blank_share": 0.7, "length_ratio": 1.0, "padding": 0.05, "waited": 0.01, "seconds": 60.0,
    "is_best": True, "denominator": 0.0,
}  # fmt: skip


def epochs(count: int = 12, **changes) -> list[dict]:
    """A healthy run whose loss and WER fall, but for the changes: values, or functions of the epoch."""
    lines = []
    for n in range(1, count + 1):
        healthy = {"loss": 3 / n, "dev_loss": 3.2 / n, "wer": 1 / n, "cer": 0.5 / n}
        line = {**EPOCH, **healthy, "epoch": n, "updates": 50 * n}
        lines.append(line | {key: v(n) if callable(v) else v for key, v in changes.items()})
    return lines


def names(lines: list[dict]) -> list[str]:
    return [diagnosis.name for diagnosis in diagnose(lines)]


def test_the_best_path_of_what_learns_with_a_denominator_may_be_of_any_length():
    assert diagnose(epochs(length_ratio=1.5)) != []
    assert diagnose(epochs(length_ratio=1.5, denominator=0.9)) == []


def test_a_healthy_run_is_healthy():
    for count in (0, 1, 2, 3, 12, 30):
        assert names(epochs(count)) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("not finite", {"skipped": lambda n: 5 * n}),
        ("divergence", {"loss": lambda n: 1.0 + (n > 10)}),
        ("blank", {"blank_share": 1.0, "length_ratio": 0.0, "wer": 1.0}),
        ("too long", {"length_ratio": 1.5}),
        ("too short", {"length_ratio": 0.5}),
        ("infeasible", {"left_out": {"infeasible": 3}}),
        ("infeasible", {"infeasible": lambda n: 2 * n}),
        (
            "overfitting",
            {
                "dev_loss": lambda n: 1 + abs(n - 5) / 5,
                "wer": lambda n: 0.5 + (n != 5) / 10,
                "is_best": lambda n: n <= 5,
            },
        ),
        ("plateau", {"loss": 2.0, "dev_loss": 2.0, "wer": 0.6}),
        ("starvation", {"waited": 0.5}),
        ("memory", {"out_of_memory": lambda n: 3 * n}),
        ("padding", {"padding": 0.4}),
    ],
)
def test_each_sign_has_its_diagnosis_and_no_other(name, changes):
    assert names(epochs(**changes)) == [name]


def test_a_run_that_diverged_says_so_and_nothing_else():
    lines = epochs(6, skipped=lambda n: 40 * (n > 1), is_best=lambda n: n == 1)
    for line in lines[1:]:
        line |= {"loss": math.nan, "dev_loss": math.inf, "wer": 1.0}
    assert names(lines) == ["not finite", "divergence"]
    assert "rose to inf" in diagnose(lines)[1].problem
    assert names(epochs(6, loss=math.nan, dev_loss=math.nan, skipped=40)) == ["not finite"]


def test_a_layer_without_gradient_is_named():
    norms = {"layers.0": 1e-7, "layers.1": 0.5, "output": 1.0}
    steps = [{"kind": "step", "updates": n, "gradient_norms": norms} for n in range(5)]
    (found,) = diagnose([*steps, *epochs(2)])
    assert found.name == "gradient"
    assert "layers.0" in found.problem and "layers.1" not in found.problem


def test_a_diagnosis_is_told_once_and_not_again_after_a_resume():
    sick = epochs(12, padding=0.4)
    watch = Watch(sick[:0])
    assert [d.name for d in watch.news(sick[:1])] == ["padding"]
    assert watch.news(sick) == []
    assert Watch(sick[:5]).news(sick) == []


def run_sick(corpus, tmp_path, caplog, *, count=12, prepare=lambda run: None, encoder=ENCODER, **settings):  # noqa: F811
    """Train a run with sick settings; the names in its history, and what was said while it ran."""
    config = dataclasses.replace(QUICK, log_every=1, **settings)
    run = trainer(corpus(count), tmp_path / "exp", config=config, encoder=encoder, augmentation=QUIET)
    prepare(run)
    with caplog.at_level(logging.WARNING, "asr.training"):
        try:
            run.run()
        except TrainingError as error:
            caplog.records.clear()
            return [str(error)], ""
    return names(history.read(tmp_path / "exp" / history.FILE)), caplog.text


def test_a_run_that_starts_at_the_blank_and_hardly_moves_is_blank(corpus, tmp_path, caplog):  # noqa: F811
    def only_blank(run) -> None:
        with torch.no_grad():
            run.recognizer.encoder.output.bias[0] = 30.0

    found, said = run_sick(corpus, tmp_path, caplog, prepare=only_blank, learning_rate=1e-6, epochs=4)
    assert "blank" in found
    assert "epoch 3: the model says next to nothing: 100% of the frames are blank" in said
    assert said.count("next to nothing") == 1


def test_a_slow_source_of_batches_is_starvation(corpus, tmp_path, caplog):  # noqa: F811
    def slow(run) -> None:
        batches = run.feed.batches

        def late(epoch, plan):
            for batch in batches(epoch, plan):
                run.feed.waited_s += 5.0
                time.sleep(0.6)
                yield batch

        run.feed.batches = late

    found, said = run_sick(corpus, tmp_path, caplog, prepare=slow, epochs=3, seconds_per_batch=10)
    assert "starvation" in found
    assert "waiting for batches" in said


def test_coarse_frames_are_infeasible(corpus, tmp_path, caplog):  # noqa: F811
    encoder = dataclasses.replace(ENCODER, factor=40)
    found, said = run_sick(corpus, tmp_path, caplog, encoder=encoder, epochs=1, count=24)
    assert "infeasible" in found
    assert "have fewer output frames than their text needs" in said


def test_vanishing_gradients_are_seen(corpus, tmp_path, caplog):  # noqa: F811
    def cut(run) -> None:
        with torch.no_grad():
            run.recognizer.encoder.output.weight.mul_(1e-9)

    found, _ = run_sick(corpus, tmp_path, caplog, prepare=cut, epochs=2, learning_rate=1e-9)
    assert "gradient" in found


@pytest.fixture
def asr(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["asr", *words])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
            raise SystemExit(0)
        return (int(leaving.value.code or 0), *capsys.readouterr())

    return call


def test_the_command_reads_an_experiment(asr, tmp_path):
    (tmp_path / "exp").mkdir()
    lines = epochs(12, padding=0.4)
    (tmp_path / "exp" / history.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, out, _ = asr("doctor", "exp")
    assert status == 0
    assert "12 of 30 epochs" in out and "best epoch 12 with" in out
    assert "40% of what is computed is padding" in out and "try: " in out
    by_loss = epochs(12, is_best=lambda n: n in (1, 4))  # as with training.denominator
    (tmp_path / "exp" / history.FILE).write_text("".join(json.dumps(line) + "\n" for line in by_loss))
    assert "best epoch 4 with" in asr("doctor", "exp")[1]
    for count, said in ((2, "nothing wrong can be seen, but most signs need 3 epochs"), (3, "can be seen\n")):
        few = "".join(json.dumps(line) + "\n" for line in epochs(count))
        (tmp_path / "exp" / history.FILE).write_text(few)
        assert said in asr("doctor", "exp")[1]
    (tmp_path / "nothing").mkdir()
    status, out, err = asr("doctor", "nothing")
    assert status == 1 and "no epoch has ended there yet" in err and "Traceback" not in err
    for line, damage in (
        ('{"kind": "epoch"}', "a line without 'is_best'"),
        ('{"updates": 1}', "a line without 'kind'"),
        ("[1]", ""),
        (json.dumps({**lines[0], "wer": None}), ""),
        (json.dumps({**lines[0], "wer": "low"}), ""),
    ):
        (tmp_path / "exp" / history.FILE).write_text(line + "\n")
        status, _, err = asr("doctor", "exp")
        assert status == 1 and f"is damaged: {damage}" in " ".join(err.split())


def test_the_command_examines_the_installation(asr):
    status, out, _ = asr("doctor")
    assert status == 0
    for name in ("python", "torch and torchaudio", "numba", "audio", "disk", "gpu", "flac", "mp3", "opus"):
        assert name in out
    assert "broken" not in out


def test_a_broken_part_is_named_and_ends_with_status_1(asr, monkeypatch):
    import torchaudio

    monkeypatch.setattr(torchaudio, "__version__", "2.9.0")
    monkeypatch.setattr(jobs, "_numba", lambda: (_ for _ in ()).throw(ImportError("no llvmlite")))
    status, out, _ = asr("doctor")
    assert status == 1
    assert "are no pair: install the same minor version of both" in out
    assert len(re.findall("^broken", out, re.MULTILINE)) == 2 and "no llvmlite" in out


def test_an_installation_without_torch_is_examined_too():
    code = "import sys; sys.modules['torch'] = None; from asr.cli import app; app(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search("broken +torch and torchaudio", done.stdout)
