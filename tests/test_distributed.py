"""Several processes train one model: as one process would, and none goes on without the others."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_cli import QUICK as WORDS
from test_cli import write_manifest
from test_training import ENCODER, QUICK, corpus, trainer  # noqa: F401 (corpus is a fixture)
from tones import tone_corpus

from asr.corpus.manifest import read_manifest
from asr.corpus.packed import PackedCorpus, pack
from asr.errors import TrainingError
from asr.jobs import stages
from asr.training import Trainer, checkpoint, history
from asr.training.distributed import Ranks
from asr.training.ledger import Ledger

WORKER = f"""
import sys, pathlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_distributed
test_distributed.work(*sys.argv[1:])
"""
FEW = dataclasses.replace(QUICK, epochs=2, precision="float32", seconds_per_batch=7, average=2)


def run(
    stem: Path, folder: Path, *, dropout: float, norm: str = "none", accumulate: int = 1, epochs: int = 2
) -> Trainer:
    config = dataclasses.replace(FEW, epochs=epochs, accumulate=accumulate)
    encoder = dataclasses.replace(ENCODER, dropout=dropout, norm=norm)
    return trainer(PackedCorpus(stem), folder, config=config, encoder=encoder)


def work(stem: str, *runs: str) -> None:
    """What each rank does: one training after the other, each with a port of its own."""
    from asr import cli

    torch.set_num_threads(1)
    sys.argv = ["asr"]
    for folder, port, settings in map(json.loads, runs):
        os.environ["MASTER_PORT"] = port
        cli.app = run(Path(stem), Path(folder), **settings).run
        cli.main()
    assert "torch._dynamo" not in sys.modules, "takes more than a second to import"


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start(stem: Path, runs: dict[Path, dict[str, object]]) -> list[subprocess.Popen[str]]:
    """Two ranks, which train in each of the folders with the settings of `run`."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    words = [json.dumps([str(folder), free_port(), settings]) for folder, settings in runs.items()]
    for folder in runs:
        folder.mkdir(exist_ok=True)
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, str(stem), *words],
            env={**os.environ, **shared, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    messages = [p.communicate(timeout=300)[1] for p in processes]
    return [(p.returncode, message) for p, message in zip(processes, messages, strict=True)]


def moved(folder: Path, start: dict[str, torch.Tensor]) -> torch.Tensor:
    found = load_file(folder / "model" / "model.safetensors")
    return torch.cat([(found[f"encoder.{k}"] - v).flatten() for k, v in start.items()])


def assert_both_finish(ranks: list[subprocess.Popen[str]]) -> None:
    """No errors; what the doctor says of so short a training is no error."""
    for status, message in finish(ranks):
        assert status == 0, message
        assert "Traceback" not in message


CASES: dict[str, dict[str, Any]] = {
    "plain": {"dropout": 0.0},
    "dropout": {"dropout": 0.2},
    "batch-norm": {"dropout": 0.0, "norm": "batch"},
    "batch-norm-accumulated": {"dropout": 0.0, "norm": "batch", "accumulate": 2},
}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a packed corpus, and in a folder for each case what two ranks have trained."""
    folder = tmp_path_factory.mktemp("two")
    pack(read_manifest(tone_corpus(folder, "corpus0", 28)), folder / "packed", rate_hz=8000, workers=1)
    assert_both_finish(start(folder / "packed", {folder / name: case for name, case in CASES.items()}))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_as_one_process_that_accumulates_twice_the_batches(by_two, tmp_path, case):
    twice = CASES[case] | {"accumulate": 2 * CASES[case].get("accumulate", 1)}
    alone = run(by_two / "packed", tmp_path, **twice)
    assert all(len(alone.feed.plan(epoch)) % 2 == 0 for epoch in range(2))
    begin = {k: v.clone() for k, v in alone.recognizer.encoder.state_dict().items()}
    alone.run()
    folders = (tmp_path, by_two / case)
    one, two = (moved(folder, begin) for folder in folders)
    assert float((one - two).norm() / one.norm()) < 1e-3
    for name in (name for name in begin if "running_" in name):
        one, two = (moved(folder, {name: begin[name]}) for folder in folders)
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    records = [history.read(folder / history.FILE) for folder in folders]
    for ours, theirs in zip(*records, strict=True):
        for key in ("loss", "dev_loss", "wer", "cer", "blank_share", "length_ratio", "updates"):
            assert ours.get(key) == pytest.approx(theirs.get(key), rel=1e-3), key


def test_a_lost_rank_stops_the_other_with_a_clear_error_and_the_run_resumes(corpus, tmp_path):  # noqa: F811
    corpus(24)
    stem, settings = tmp_path / "packed0", {"dropout": 0.1, "epochs": 8}
    first, second = start(stem, {tmp_path / "parts": settings})
    last = checkpoint.last(tmp_path / "parts")
    deadline = time.monotonic() + 300
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second.send_signal(signal.SIGKILL)
    (status, message), (killed, _) = finish([first, second])
    assert (status, killed) == (1, -signal.SIGKILL), message
    assert "rank 0 of 2: another rank is gone" in message
    assert "start all again, training goes on from the last checkpoint" in message
    assert "Traceback" not in message
    done = checkpoint.read(last)["progress"]["updates"]
    assert done > 0

    assert_both_finish(start(stem, {tmp_path / "parts": settings, tmp_path / "whole": settings}))
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("parts", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def torchrun(*words: str) -> subprocess.Popen[str]:
    """`asr train` as a user starts it for two ranks."""
    with_torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *with_torchrun, "-m", "asr.cli", "train", *words],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def tensors(exp: Path) -> torch.Tensor:
    found = load_file(exp / "model" / "model.safetensors")
    return torch.cat([found[name].flatten().double() for name in sorted(found)])


@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="finds the ranks of torchrun in Linux's /proc"
)
def test_torchrun_trains_as_one_process_and_goes_on_after_a_rank_was_killed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "mine.jsonl", 30, seed=3)
    words = ["mine.jsonl", *WORDS, "training.epochs=3", "training.precision=float32"]
    words.append("training.checkpoint_every_s=0")
    stages.single("train", [*words, "exp=one", "training.accumulate=2"])
    assert_both_finish([torchrun(*words, "exp=two")])
    one, two = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert float((one - two).norm() / one.norm()) < 1e-3

    begun = torchrun(*words, "exp=parts")
    last = checkpoint.last(tmp_path / "parts")
    deadline = time.monotonic() + 300
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(children(begun.pid)[1], signal.SIGKILL)
    ((status, message),) = finish([begun])
    assert status != 0 and "another rank is gone" in message, message
    state = checkpoint.read(last)["progress"]
    assert state["updates"] > 0 and not state["finished"]
    assert_both_finish([torchrun(*words, "exp=parts")])
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("parts", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("size", [1, 2])
def test_a_signal_while_results_are_read_stops_one_process_and_several(corpus, tmp_path, monkeypatch, size):  # noqa: F811
    for name in ("__exit__", "sum_", "spread_"):  # plays the first of `size` ranks
        monkeypatch.setattr(Ranks, name, lambda self, *_: None)
    monkeypatch.setattr(Ranks, "__enter__", lambda self: self)
    monkeypatch.setattr(Ranks, "gather", lambda self, value: [value])
    whole, read, reads = trainer(corpus(), tmp_path, config=FEW), Ledger.read, []

    def interrupted(self: Ledger) -> None:
        reads.append(None)
        if len(reads) == 2:
            signal.raise_signal(signal.SIGTERM)
        read(self)

    monkeypatch.setattr(Ledger, "read", interrupted)
    whole.ranks.size = size
    with pytest.raises(KeyboardInterrupt):
        whole.run()
    assert not whole.progress.finished and checkpoint.read(whole.last) is not None


def test_ranks_that_do_not_begin_at_the_same_place_say_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    ranks = Ranks()
    monkeypatch.setattr(ranks, "gather", lambda value: [value, ["other", 0, 0]])
    with pytest.raises(TrainingError, match=r"2 ranks do not begin at the same place: .* same last\.pt"):
        ranks.check_same(["digest", 3, 1], what="last.pt")
    ranks.check_same(["other", 0, 0], what="last.pt")
