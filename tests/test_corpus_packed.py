"""Packing: the same bytes however it is done, nothing lost unsaid, no half corpus taken for a whole one."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.corpus import journal as journal_module
from asr.corpus.manifest import Utterance, read_manifest, write_manifest
from asr.corpus.packed import PackedCorpus, pack
from asr.errors import CorpusError

RATE_HZ = 8000


def corpus(folder, count=12, *, samples=lambda i: 400 + 37 * i):
    """Recordings of noise, each different, and their utterances."""
    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
    for i in range(count):
        wave = np.random.default_rng(i).integers(-30000, 30000, samples(i)).astype(np.int16)
        soundfile.write(folder / f"{i}.wav", wave, RATE_HZ)
        utterances.append(Utterance(f"u{i}", folder / f"{i}.wav", 0.0, f"text {i}", f"s{i % 3}"))
    return utterances


def content(stem):
    return {p.name: p.read_bytes() for p in stem.parent.iterdir() if not p.name.startswith(".")}


def test_packed_samples_are_those_of_the_recordings(tmp_path):
    us = corpus(tmp_path / "audio")
    report = pack(us, tmp_path / "out" / "train", rate_hz=RATE_HZ)
    packed = PackedCorpus(tmp_path / "out" / "train")
    assert (report.packed, report.left_out, len(packed), packed.rate_hz) == (12, (), 12, RATE_HZ)
    assert packed.pcm.dtype == np.int16 and packed.offsets_samples.dtype == np.int64
    for i, u in enumerate(packed.utterances):
        truth, _ = soundfile.read(us[i].audio_filepath, dtype="int16")
        assert np.array_equal(packed.samples(i), truth)
        assert packed.lengths_samples[i] == len(truth)
        assert u == Utterance(us[i].id, us[i].audio_filepath, len(truth) / RATE_HZ, us[i].text, us[i].speaker)
    assert report.duration_s == pytest.approx(packed.offsets_samples[-1] / RATE_HZ)


def test_parts_of_recordings_are_packed_alone_and_anew_when_they_move(tmp_path):
    (u,) = corpus(tmp_path / "audio", 1, samples=lambda i: 8000)
    truth, _ = soundfile.read(u.audio_filepath, dtype="int16")
    parts = [replace(u, id=f"{start_s}", start_s=start_s, duration_s=0.25) for start_s in (0.0, 0.5, 0.9)]
    stem = tmp_path / "out" / "train"
    report = pack(parts, stem, rate_hz=RATE_HZ)
    assert [problem.kind for problem in report.left_out] == ["unreadable"]
    assert "ends at 1.00 s; 0.90 to 1.15 s were wanted" in report.left_out[0].detail
    packed = PackedCorpus(stem)
    assert packed.utterances == parts[:2]
    assert [packed.samples(i).tolist() for i in (0, 1)] == [truth[:2000].tolist(), truth[4000:6000].tolist()]
    pack([replace(part, start_s=part.start_s / 2) for part in parts[:2]], stem, rate_hz=RATE_HZ)
    assert PackedCorpus(stem).samples(1).tolist() == truth[2000:4000].tolist()


def test_other_rates_are_resampled(tmp_path):
    us = corpus(tmp_path / "audio", 3, samples=lambda i: 800)
    pack(us, tmp_path / "out" / "a", rate_hz=16000)
    assert PackedCorpus(tmp_path / "out" / "a").lengths_samples.tolist() == [1600] * 3


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    us = corpus(tmp_path / "audio", 30)
    for workers in (1, 2):
        pack(us, tmp_path / str(workers) / "train", rate_hz=RATE_HZ, workers=workers)
    assert content(tmp_path / "1" / "train") == content(tmp_path / "2" / "train")


def test_everything_left_out_is_reported_with_its_reason(tmp_path):
    us = corpus(tmp_path / "audio", 6, samples=lambda i: 400)
    us[1].audio_filepath.write_bytes(us[1].audio_filepath.read_bytes()[:300])
    us[2].audio_filepath.unlink()
    us[3] = Utterance("u0", us[3].audio_filepath, 0.0, "again")
    us[4] = Utterance("u4", us[4].audio_filepath, 0.0, " \n")
    us[5].audio_filepath.write_bytes(b"")
    us.append(Utterance("u6", Path("a\0.wav"), 0.0, "zero byte"))
    report = pack(us, tmp_path / "out" / "a.b", rate_hz=RATE_HZ)
    assert [(p.id, p.kind) for p in report.left_out] == [
        ("u1", "unreadable"),
        ("u2", "missing"),
        ("u0", "duplicate id"),
        ("u4", "empty transcript"),
        ("u5", "unreadable"),
        ("u6", "missing"),
    ]
    assert report.counts["unreadable"] == 2 and sum(report.counts.values()) == 6
    assert report.path == tmp_path / "out" / "a.b.report.json"
    saved = json.loads(report.path.read_text())
    assert saved["packed"] == 1 and saved["left_out"][0]["audio_filepath"] == str(us[1].audio_filepath)
    assert "cut short" in saved["left_out"][0]["detail"] and saved["left_out_counts"] == report.counts
    assert [u.id for u in PackedCorpus(tmp_path / "out" / "a.b").utterances] == ["u0"]


def test_nothing_to_pack_is_an_error_that_says_why(tmp_path):
    us = [Utterance("a", tmp_path / "none.wav", 0.0, "x")]
    with pytest.raises(
        CorpusError, match=r"none of 1 utterances .*none\.wav does not exist; see .*report\.json"
    ):
        pack(us, tmp_path / "out" / "a", rate_hz=RATE_HZ)
    with pytest.raises(CorpusError, match="no packed corpus"):
        PackedCorpus(tmp_path / "out" / "a")
    with pytest.raises(CorpusError, match="none of 0"):
        pack([], tmp_path / "out" / "b", rate_hz=RATE_HZ)


def test_packing_again_does_nothing_unless_something_changed(tmp_path):
    us = corpus(tmp_path / "audio")
    stem = tmp_path / "out" / "a"
    first = pack(us, stem, rate_hz=RATE_HZ)
    before, fingerprint = content(stem), PackedCorpus(stem).fingerprint
    again = pack(us, stem, rate_hz=RATE_HZ)
    assert (again.packed, again.left_out, again.resumed) == (first.packed, first.left_out, 12)
    assert content(stem) == before
    us[0] = Utterance("u0", us[0].audio_filepath, 0.0, "another text")
    assert pack(us, stem, rate_hz=RATE_HZ).resumed == 0
    assert PackedCorpus(stem).fingerprint != fingerprint
    soundfile.write(us[1].audio_filepath, np.ones(500, np.int16), RATE_HZ)
    pack(us, stem, rate_hz=RATE_HZ)
    assert PackedCorpus(stem).samples(1).tolist() == [1] * 500


def test_the_fingerprint_knows_sound_and_text_but_not_the_place(tmp_path):
    prints = []
    for name in ("a", "b"):
        us = corpus(tmp_path / name)
        pack(us, tmp_path / name / "out" / "p", rate_hz=RATE_HZ)
        prints.append(PackedCorpus(tmp_path / name / "out" / "p").fingerprint)
    assert prints[0] == prints[1]
    us[3] = Utterance(us[3].id, us[4].audio_filepath, 0.0, us[3].text, us[3].speaker)
    pack(us, tmp_path / "c", rate_hz=RATE_HZ)
    assert PackedCorpus(tmp_path / "c").fingerprint != prints[0]


def test_progress_counts_up_to_the_whole(tmp_path):
    seen = []
    pack(corpus(tmp_path / "audio", 40), tmp_path / "a", rate_hz=RATE_HZ, progress=lambda *x: seen.append(x))
    assert seen == [(16, 40), (32, 40), (40, 40)]


class Interruption(BaseException):
    pass


def interrupted(us, stem, after):
    """Pack, and stop after so many utterances as if the process had ended there."""

    def stop(done, _):
        if done >= after:
            raise Interruption

    with pytest.raises(Interruption):
        pack(us, stem, rate_hz=RATE_HZ, progress=stop)


def cut(path, share):
    os.truncate(path, int(share * path.stat().st_size))


def change(path, share):
    data = bytearray(path.read_bytes())
    data[int(share * (len(data) - 1))] ^= 255
    path.write_bytes(data)


HARMS = {
    "nothing": lambda notes, samples: None,
    "notes gone": lambda notes, samples: notes.unlink(),
    "notes cut early": lambda notes, samples: cut(notes, 0.01),
    "notes cut late": lambda notes, samples: cut(notes, 0.93),
    "notes changed": lambda notes, samples: change(notes, 0.5),
    "notes of another kind": lambda notes, samples: notes.write_bytes(b'{"key": 3}\n[1]\nnull\n\xff'),
    "samples gone": lambda notes, samples: samples.unlink(),
    "samples cut early": lambda notes, samples: cut(samples, 0.01),
    "samples cut late": lambda notes, samples: cut(samples, 0.93),
    "samples changed": lambda notes, samples: change(samples, 0.5),
}


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forty")
    us = corpus(folder / "audio", 40, samples=lambda i: 20 + i)
    us[5] = Utterance("u5", folder / "none.wav", 0.0, "x")
    pack(us, folder / "truth" / "a", rate_hz=RATE_HZ)
    return us, content(folder / "truth" / "a")


@pytest.mark.parametrize("harm", HARMS)
def test_whatever_an_interruption_leaves_the_result_is_the_same(tmp_path, forty, harm):
    us, truth = forty
    stem = tmp_path / "out" / "a"
    interrupted(us, stem, 32)
    with pytest.raises(CorpusError, match="not packed to the end"):
        PackedCorpus(stem)
    HARMS[harm](tmp_path / "out" / "a.journal", tmp_path / "out" / "a.pcm.part")
    report = pack(us, stem, rate_hz=RATE_HZ)
    assert report.resumed == 32 if harm == "nothing" else report.resumed < 32
    assert content(stem) == truth


def test_an_interruption_at_the_last_moment_costs_nothing(tmp_path, monkeypatch):
    us = corpus(tmp_path / "audio", 20)
    stem = tmp_path / "out" / "a"
    with monkeypatch.context() as patched:
        patched.setattr("asr.corpus.packed.sha256_of", lambda path: (_ for _ in ()).throw(Interruption))
        with pytest.raises(Interruption):
            pack(us, stem, rate_hz=RATE_HZ)
    assert (tmp_path / "out" / "a.pcm").exists()
    with pytest.raises(CorpusError, match="not packed to the end"):
        PackedCorpus(stem)
    assert pack(us, stem, rate_hz=RATE_HZ).resumed == 20
    assert len(PackedCorpus(stem)) == 20


SLOW_PACKING = """
import sys, time
from pathlib import Path
from asr.corpus.manifest import read_manifest
from asr.corpus.packed import pack

def progress(done, total):
    print(done, flush=True)
    if done == pause_at:
        time.sleep(pause_s)

if __name__ == "__main__":
    utterances, workers = read_manifest(sys.argv[1]), int(sys.argv[3])
    pause_at, pause_s = int(sys.argv[4]), float(sys.argv[5])
    pack(utterances, Path(sys.argv[2]), rate_hz=8000, workers=workers, progress=progress)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_process_goes_on_where_it_was_and_leaves_no_workers(tmp_path, workers):
    us = corpus(tmp_path / "audio", 200, samples=lambda i: 50)
    write_manifest(tmp_path / "m.jsonl", us)
    (tmp_path / "slow.py").write_text(SLOW_PACKING)
    stem = tmp_path / "out" / "a"
    command = [sys.executable, tmp_path / "slow.py", tmp_path / "m.jsonl", stem, str(workers), "96", "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stdout:
        if int(line) >= 96:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    report = pack(read_manifest(tmp_path / "m.jsonl"), stem, rate_hz=RATE_HZ)
    assert 64 <= report.resumed < 200
    pack(us, tmp_path / "truth" / "a", rate_hz=RATE_HZ)
    assert content(stem)["a.pcm"] == content(tmp_path / "truth" / "a")["a.pcm"]
    deadline = time.monotonic() + 5
    while alive := members(process.pid):
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.05)


def members(session):
    """Processes of the session that are not zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def test_two_processes_that_pack_the_same_do_not_disturb_each_other(tmp_path):
    us = corpus(tmp_path / "audio", 32, samples=lambda i: 50)
    write_manifest(tmp_path / "m.jsonl", us)
    (tmp_path / "slow.py").write_text(SLOW_PACKING)
    stem = tmp_path / "out" / "a"
    command = [sys.executable, tmp_path / "slow.py", tmp_path / "m.jsonl", stem, "1", "16", "0.5"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    outputs = [p.communicate()[0].split() for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert sorted(outputs, key=len) == [[], [b"16", b"32"]]
    assert len(PackedCorpus(stem)) == 32


def die(paths, rate_hz):
    os._exit(1)


def test_a_dead_worker_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    us = corpus(tmp_path / "audio", 4)
    monkeypatch.setattr("asr.corpus.decode._decode_group", die)
    with pytest.raises(CorpusError, match="a process that decodes recordings died"):
        pack(us, tmp_path / "a", rate_hz=RATE_HZ, workers=2)


def test_a_full_disk_is_an_error_that_says_so_and_nothing_is_lost(tmp_path, monkeypatch):
    us = corpus(tmp_path / "audio", 40)
    stem = tmp_path / "out" / "a"
    add = journal_module.Journal.add

    def full(self, entry, pcm):
        if len(self.entries) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, entry, pcm)

    with monkeypatch.context() as patched:
        patched.setattr(journal_module.Journal, "add", full)
        with pytest.raises(CorpusError, match=r"a cannot be written: No space left .* free some space"):
            pack(us, stem, rate_hz=RATE_HZ)
    assert pack(us, stem, rate_hz=RATE_HZ).resumed == 20


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from pathlib import Path
from asr.corpus.manifest import read_manifest
from asr.corpus.packed import pack
pack(read_manifest(sys.argv[1]), Path(sys.argv[2]), rate_hz=8000)
"""


def test_a_file_that_may_not_grow_is_the_same_error(tmp_path):
    us = corpus(tmp_path / "audio", 40)
    write_manifest(tmp_path / "m.jsonl", us)
    command = [sys.executable, "-c", FULL, tmp_path / "m.jsonl", tmp_path / "out" / "a"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert "CorpusError" in result.stderr and "free some space and run again" in result.stderr
    pack(us, tmp_path / "out" / "a", rate_hz=RATE_HZ)
    pack(us, tmp_path / "truth" / "a", rate_hz=RATE_HZ)
    assert content(tmp_path / "out" / "a") == content(tmp_path / "truth" / "a")


def test_a_corpus_that_was_changed_is_refused(tmp_path):
    stem = tmp_path / "a"
    pack(corpus(tmp_path / "audio"), stem, rate_hz=RATE_HZ)
    files = {name: (tmp_path / name).read_bytes() for name in ("a.pcm", "a.jsonl", "a.json")}
    harms = {
        "a.pcm": (lambda b: b[:-2], "bytes, expected"),
        "a.jsonl": (lambda b: b.replace(b"text 3", b"text 4"), "is not the one that was packed"),
        "a.json": (lambda b: b[:100], "damaged"),
    }
    for name, (harm, message) in harms.items():
        (tmp_path / name).write_bytes(harm(files[name]))
        with pytest.raises(CorpusError, match=message):
            PackedCorpus(stem)
        (tmp_path / name).write_bytes(files[name])
    facts = json.loads(files["a.json"])
    (tmp_path / "a.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(CorpusError, match="format 99, expected 1"):
        PackedCorpus(stem)
    (tmp_path / "a.json").write_bytes(files["a.json"])
    (tmp_path / "a.pcm").unlink()
    with pytest.raises(CorpusError, match="has 0 bytes"):
        PackedCorpus(stem)


def test_a_manifest_of_a_packed_corpus_is_a_manifest(tmp_path):
    us = corpus(tmp_path / "audio")
    pack(us, tmp_path / "out" / "a", rate_hz=RATE_HZ)
    assert [u.audio_filepath for u in read_manifest(tmp_path / "out" / "a.jsonl")] == [
        u.audio_filepath for u in us
    ]
