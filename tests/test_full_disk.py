"""A full disk: a clear error, what was there is whole, and the same command goes on once there is room."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_cli import QUICK as WORDS
from test_cli import write_manifest
from test_training import corpus, trainer, weights  # noqa: F401 (corpus is a fixture)

from asr.corpus.archive import unpack
from asr.corpus.manifest import read_manifest
from asr.corpus.packed import PackedCorpus, pack
from asr.errors import BundleError, CorpusError, TrainingError
from asr.files import whole_file
from asr.jobs import stages
from asr.training import checkpoint


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within the block no file can grow beyond the size, as on a disk with so much room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_packing_goes_on_where_the_disk_was_full(tone_manifest, tmp_path):
    utterances = read_manifest(tone_manifest("c", 150))
    pack(utterances, tmp_path / "truth" / "a", rate_hz=8000, workers=1)
    stem, whole = tmp_path / "out" / "a", (tmp_path / "truth" / "a.pcm").read_bytes()
    with (
        largest_file(int(0.7 * len(whole))),
        pytest.raises(CorpusError, match="free some space and run again, it goes on where it stopped"),
    ):
        pack(utterances, stem, rate_hz=8000, workers=1)
    with pytest.raises(CorpusError, match="not packed to the end"):
        PackedCorpus(stem)
    assert pack(utterances, stem, rate_hz=8000, workers=1).resumed >= 64
    assert stem.with_suffix(".pcm").read_bytes() == whole


def test_an_archive_is_not_called_damaged_where_the_disk_was_full(tmp_path):
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "small").write_bytes(bytes(3000))  # less than a buffer, written on closing
    archive = shutil.make_archive(str(tmp_path / "a"), "gztar", tmp_path, "recordings")
    with largest_file(1000), pytest.raises(CorpusError, match=r"cannot be written: .* free some space"):
        unpack(Path(archive), tmp_path / "out")


@pytest.mark.parametrize("room", [0, 4096])
def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(corpus, tmp_path, room):  # noqa: F811
    train = corpus()
    trainer(train, tmp_path / "whole").run()
    last = checkpoint.last(tmp_path / "parts")

    class FullError(Exception):
        pass

    def stop(kind: str, facts: dict[str, object]) -> None:
        if kind == "epoch":
            raise FullError

    with pytest.raises(FullError):
        trainer(train, tmp_path / "parts", observer=stop).run()
    before, names = last.read_bytes(), sorted(last.parent.iterdir())
    state = checkpoint.read(last)
    with largest_file(room), pytest.raises(TrainingError, match=r"last\.pt.*cannot be written.*free some"):
        checkpoint.write(last, state)
    assert last.read_bytes() == before
    assert sorted(last.parent.iterdir()) == names
    trainer(train, tmp_path / "parts").run()
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_bundle_that_does_not_fit_leaves_the_last_one(corpus, tmp_path):  # noqa: F811
    model = trainer(corpus(4), tmp_path / "exp").recognizer
    model.save(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with largest_file(2048), pytest.raises(BundleError, match=r"cannot be written: .*; free some space and"):
        model.save(tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 300 kB."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root mounts a file system")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], check=False).returncode:
        pytest.skip("this root may not mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_run_that_fills_the_disk_ends_with_an_error_and_goes_on_when_there_is_room(
    small_disk, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_manifest(tmp_path / "mine.jsonl", 40, seed=3)
    words = ["mine.jsonl", *WORDS, "encoder.width=40", "training.checkpoint_every_s=0"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(  # a process of its own: when it ends nothing may be raised either
        [sys.executable, "-m", "asr.cli", "train", *words, f"exp={small_disk / 'exp'}"],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1, done.stderr
    assert "free some space" in done.stderr and "Traceback" not in done.stderr, done.stderr
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    for exp in (small_disk / "exp", tmp_path / "whole"):
        stages.single("train", [*words, f"exp={exp}"])
    assert weights(small_disk / "exp") == weights(tmp_path / "whole")


def test_a_file_in_place_of_a_folder_is_told_from_one_that_exists(tmp_path):
    (tmp_path / "out").touch()
    why = r"out/b\.txt cannot be written: .*/out is not a folder; choose"
    with pytest.raises(CorpusError, match=why), whole_file(tmp_path / "out" / "b.txt"):
        pass


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with whole_file(tmp_path / "link") as file:
        file.write("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with whole_file(tmp_path / "pipe", "wb") as file:
        file.write(b"through")
    assert os.read(reader, 100) == b"through" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "pipe", "target"]
