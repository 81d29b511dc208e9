"""Ctrl-C as it comes from a terminal: a signal to a process that is at work."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import soundfile
from tone_model import spoken, tone_model
from tones import RATE_HZ

from asr.jobs import stages

TEXT = " ".join(["abc dab c"] * 12)


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, ended whatever happens."""
    command = [sys.executable, "-m", "asr.cli", *map(str, arguments)]
    # What a shell starts in the background ignores the signal, and hands that down.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(command, **how, preexec_fn=heed)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(
    happened: Callable[[], bool], process: subprocess.Popen[str], *, at_most_s: float = 120
) -> None:
    began = time.monotonic()
    while not happened():
        assert process.poll() is None and time.monotonic() - began < at_most_s, process.communicate()
        time.sleep(0.02)


def test_a_folder_that_is_interrupted_is_finished_by_the_same_command(tmp_path: Path) -> None:
    calls, out, recordings = tmp_path / "calls", tmp_path / "out", 0
    calls.mkdir()
    samples = spoken(TEXT, seed=1)
    soundfile.write(tmp_path / "call.wav", samples, RATE_HZ)
    tone_model().save(tmp_path / "model")
    command = ("transcribe", calls, "--model", tmp_path / "model", "-o", out)

    def written() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in out.glob("*.txt")}

    code, said = 0, ""
    while code == 0 and recordings < 3_000:  # where all is done before the signal arrives: more, once again
        shutil.rmtree(out, ignore_errors=True)
        for i in range(recordings, recordings + 100):
            os.link(tmp_path / "call.wav", calls / f"{i}.wav")
        recordings += 100
        with started(*command) as process:
            wait_until(lambda: len(written()) > 1, process)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        code = process.returncode
    before = written()
    assert code == 130
    assert "the same command goes on" in said and "Traceback" not in said
    assert 1 < len(before) < recordings
    assert not list(out.glob(".*")), "no half-written file is left"
    whole = tone_model().transcribe(samples).text + "\n"
    assert all((out / name).read_text() == whole for name in before)
    with started(*command) as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and f"{len(before)} of {recordings} recordings done already" in said
    after = written()
    assert len(after) == recordings
    assert {name: after[name] for name in before} == before, "what was done is not done again"


def test_a_service_ends_cleanly_in_the_middle_of_an_upload_and_of_a_stream(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the service needs asr[serve]")
    client_of = pytest.importorskip("websockets.sync.client", reason="the service needs asr[serve]")
    tone_model(bidirectional=False).save(tmp_path / "model")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

    def answers() -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        return False

    with started("serve", "--model", tmp_path / "model", "--port", port) as process:
        wait_until(answers, process)
        with (
            socket.create_connection(("127.0.0.1", port)) as upload,
            client_of.connect(f"ws://127.0.0.1:{port}/v1/audio/stream", proxy=None) as stream,
        ):
            upload.sendall(
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            stream.send(b"\0" * 1600)
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in said and "the same command" not in said, said


def members_of(tmp_path: Path, tone_manifest: Callable[..., Path], *, epochs: int) -> list[str]:
    """The words of a recipe that trains two small members side by side."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a single core trains one member after the other")
    splits = ",".join(f"{name}:{tone_manifest(name, n, seed=n)}" for name, n in (("train", 12), ("dev", 2)))
    settings = ["features.rate_hz=8000", "features.bands=24", "encoder.layers=1", "encoder.width=24"]
    settings += [f"training.epochs={epochs}", "training.seconds_per_batch=8", "training.log_every=1"]
    settings += [f"data.options.splits={{{splits}}}", f"data.dir={tmp_path / 'data'}", "members=2"]
    return [*settings, "data.workers=1", "training.checkpoint_every_s=0.01", "training.device=cpu"]


def test_members_trained_side_by_side_go_on_to_the_same_bits(
    tmp_path: Path, tone_manifest: Callable[..., Path]
) -> None:
    settings = members_of(tmp_path, tone_manifest, epochs=16)
    begun, whole = tmp_path / "begun", tmp_path / "whole"
    histories = [begun / f"member-{k}" / "history.jsonl" for k in (1, 2)]

    def reached(epoch: int) -> bool:
        return all(h.is_file() and f'"epoch": {epoch},' in h.read_text() for h in histories)

    for how, epoch, code in ((signal.SIGTERM, 2, 130), (signal.SIGKILL, 5, -signal.SIGKILL)):
        with started("train", "folder", *settings, f"exp={begun}") as process:
            wait_until(partial(reached, epoch), process)
            process.send_signal(how)
            _, said = process.communicate(timeout=60)
        assert process.returncode == code, said
        assert "Traceback" not in said and not (begun / "model").exists()
        time.sleep(0.5)
        written = [h.read_text() for h in histories]
        time.sleep(0.5)
        assert [h.read_text() for h in histories] == written, "no process trains on"
        assert not reached(16)
    for exp in (begun, whole):
        stages.single("train", ["folder", *settings, f"exp={exp}"])
    weights = [(exp / "model" / "model.safetensors").read_bytes() for exp in (begun, whole)]
    assert weights[0] == weights[1]


def test_a_member_that_fails_stops_the_others_which_go_on_later(
    tmp_path: Path, tone_manifest: Callable[..., Path]
) -> None:
    settings = members_of(tmp_path, tone_manifest, epochs=100_000)
    damaged = tmp_path / "exp" / "member-2" / "checkpoints" / "last.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"not a checkpoint")
    with started("train", "folder", *settings, f"exp={tmp_path / 'exp'}") as process:
        _, said = process.communicate(timeout=100)
    assert process.returncode == 1, said
    assert f"{damaged}: not a readable checkpoint" in said and "Traceback" not in said
    assert (tmp_path / "exp" / "member-1" / "checkpoints" / "last.pt").is_file()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_members_that_are_only_just_starting_stop_too(
    how: int, tmp_path: Path, tone_manifest: Callable[..., Path]
) -> None:
    settings = members_of(tmp_path, tone_manifest, epochs=100_000)
    with started("train", "folder", *settings, f"exp={tmp_path / 'exp'}") as process:
        said = ""
        while "member 1, 2 of 2" not in said:
            assert process.stderr is not None and process.poll() is None, said
            said += process.stderr.readline()
        os.killpg(process.pid, how)  # as a terminal or a scheduler does
        _, said = process.communicate(timeout=100)
    assert process.returncode in (130, -signal.SIGTERM), said  # the latter before the handler is in place
    assert "Traceback" not in said, said
