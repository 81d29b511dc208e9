"""Several processes train one model: as one process would, and none goes on without the others."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_cli import QUICK as WORDS
from test_cli import write_manifest
from test_training import ENCODER, QUICK, corpus, trainer  # noqa: F401 (corpus is a fixture)

from asr.corpus.packed import PackedCorpus
from asr.errors import TrainingError
from asr.training import checkpoint, history
from asr.training.distributed import Ranks
from asr.training.ledger import Ledger

WORKER = f"""
import sys, pathlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_distributed
test_distributed.work(*sys.argv[1:])
"""
FEW = dataclasses.replace(QUICK, epochs=2, precision="float32", seconds_per_batch=7, average=2)


def work(
    stem: str, folder: str, dropout: str, epochs: str, norm: str = "none", accumulate: str = "1"
) -> None:
    """What each rank does."""
    from asr import cli

    torch.set_num_threads(1)
    sys.argv = ["asr"]
    cli.app = lambda: trainer(
        PackedCorpus(Path(stem)),
        Path(folder),
        config=dataclasses.replace(FEW, epochs=int(epochs), accumulate=int(accumulate)),
        encoder=dataclasses.replace(ENCODER, dropout=float(dropout), norm=norm),
    ).run()
    cli.main()


def start(folder: Path, *words: object) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    folder.mkdir(exist_ok=True)
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, *map(str, words)],
            env={**os.environ, **shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
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


@pytest.mark.parametrize(
    ("dropout", "norm", "accumulate"),
    [(0.0, "none", 1), (0.2, "none", 1), (0.0, "batch", 1), (0.0, "batch", 2)],
)
def test_two_ranks_train_as_one_process_that_accumulates_twice_the_batches(
    corpus,  # noqa: F811
    tmp_path,
    dropout,
    norm,
    accumulate,
):
    train = corpus(28)
    encoder = dataclasses.replace(ENCODER, dropout=dropout, norm=norm)
    ranks = start(tmp_path / "two", tmp_path / "packed0", tmp_path / "two", dropout, 2, norm, accumulate)
    config = dataclasses.replace(FEW, accumulate=2 * accumulate)
    alone = trainer(train, tmp_path / "one", config=config, encoder=encoder)
    assert all(len(alone.feed.plan(epoch)) % 2 == 0 for epoch in range(2))
    begin = {k: v.clone() for k, v in alone.recognizer.encoder.state_dict().items()}
    alone.run()
    assert_both_finish(ranks)
    one, two = moved(tmp_path / "one", begin), moved(tmp_path / "two", begin)
    assert float((one - two).norm() / one.norm()) < 1e-3
    for name in (name for name in begin if "running_" in name):
        one, two = (moved(tmp_path / exp, {name: begin[name]}) for exp in ("one", "two"))
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    records = [history.read(tmp_path / name / history.FILE) for name in ("one", "two")]
    for ours, theirs in zip(*records, strict=True):
        for key in ("loss", "dev_loss", "wer", "cer", "blank_share", "length_ratio", "updates"):
            assert ours.get(key) == pytest.approx(theirs.get(key), rel=1e-3), key


def test_a_lost_rank_stops_the_other_with_a_clear_error_and_the_run_resumes(corpus, tmp_path):  # noqa: F811
    corpus(24)
    words = (tmp_path / "packed0", tmp_path / "parts", 0.1, 8)
    first, second = start(tmp_path / "parts", *words)
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

    assert_both_finish(start(tmp_path / "parts", *words))
    whole = start(tmp_path / "whole", words[0], tmp_path / "whole", *words[2:])
    assert_both_finish(whole)
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("parts", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def asr_train(manifest: Path, exp: Path, *words: str, ranks: int = 1) -> subprocess.Popen[str]:
    """`asr train` as a user starts it, under torchrun if there are several ranks."""
    with_torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *(with_torchrun if ranks > 1 else []), "-m", "asr.cli", "train", str(manifest)]
    command += [
        *WORDS,
        "training.epochs=3",
        "training.precision=float32",
        "training.checkpoint_every_s=0",
        f"exp={exp}",
        *words,
    ]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=manifest.parent,
        env=environment,
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
def test_torchrun_trains_as_one_process_and_goes_on_after_a_rank_was_killed(tmp_path):
    manifest = write_manifest(tmp_path / "mine.jsonl", 30, seed=3)
    assert_both_finish([asr_train(manifest, tmp_path / "one", "training.accumulate=2")])
    assert_both_finish([asr_train(manifest, tmp_path / "two", ranks=2)])
    one, two = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    assert float((one - two).norm() / one.norm()) < 1e-3

    torchrun = asr_train(manifest, tmp_path / "parts", ranks=2)
    last = checkpoint.last(tmp_path / "parts")
    deadline = time.monotonic() + 300
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(children(torchrun.pid)[1], signal.SIGKILL)
    ((status, message),) = finish([torchrun])
    assert status != 0 and "another rank is gone" in message, message
    state = checkpoint.read(last)["progress"]
    assert state["updates"] > 0 and not state["finished"]
    assert_both_finish([asr_train(manifest, tmp_path / "parts", ranks=2)])
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
