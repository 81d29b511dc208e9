"""A packed corpus: recordings decoded once into one flat file that training maps into memory.

Three files share a stem. `train.pcm` holds all samples back to back: int16, mono, little-endian.
`train.jsonl` is the manifest of exactly these utterances in this order. `train.json` holds rate, offsets and
fingerprint; it is written last, and without it the corpus is incomplete. Beside them, `train.report.json`
lists every utterance that was left out and why. What the system could not read is tried again by a later run.

Recordings are decoded by several processes but written in order, so the bytes do not depend on their number.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from asr.corpus.decode import available_cores, decode, decode_all
from asr.corpus.journal import READ_ERROR, Entry, Journal, beside
from asr.corpus.manifest import Problem, Utterance, find_problem, read_manifest, write_manifest
from asr.errors import CorpusError
from asr.files import explained, locked, sha256_of, whole_file

FORMAT = 1
SMALL = 256
"""Up to this many utterances are decoded without worker processes by default: starting them takes longer."""
_NO_BOUNDS = (0.0, float("inf"))  # packing had bounds of durations: another key would pack all corpora anew


@dataclass(frozen=True)
class PackReport:
    """The outcome of `pack`."""

    stem: Path
    packed: int
    duration_s: float
    left_out: tuple[Problem, ...]
    resumed: int = 0
    """Utterances that an earlier run had already processed."""

    @property
    def path(self) -> Path:
        """The JSON file with this report."""
        return beside(self.stem, ".report.json")

    @property
    def counts(self) -> dict[str, int]:
        """Utterances left out by kind of problem, the most frequent first."""
        return dict(Counter(problem.kind for problem in self.left_out).most_common())


def pack(
    utterances: Sequence[Utterance],
    stem: Path,
    *,
    rate_hz: int,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Decode the utterances into the packed corpus `stem`; the report says what was left out and why.

    A corpus that is already packed from the same recordings and texts is left as it is; an interrupted one
    is continued. A second process that packs the same stem waits for the first.

    Args:
        utterances: with unique ids.
        stem: path of the corpus without suffix, such as `data/digits/train`.
        rate_hz: sample rate of the packed corpus.
        workers: processes; None takes one per core, or decodes a small corpus in this process.
        progress: called with (utterances processed, all utterances).

    Raises:
        CorpusError: nothing can be used, the disk is full, or a worker died.
    """
    stem = Path(stem)
    with locked(stem.with_name(f".{stem.name}.lock")):
        key = _key(utterances, rate_hz)
        if (done := _read_report(stem, key)) is not None and _is_final(done, utterances, rate_hz):
            return done

        def is_final(index: int, entry: Entry) -> bool:
            return entry.kind != READ_ERROR or _is_read_error(utterances[index], rate_hz)

        with explained(stem), Journal(stem, key, is_final) as journal:
            resumed = len(journal.entries)
            if workers is None:
                workers = 1 if len(utterances) - resumed <= SMALL else available_cores()
            with closing(_entries(utterances, resumed, rate_hz=rate_hz, workers=workers)) as entries:
                for done_count, (entry, pcm) in enumerate(entries, resumed + 1):
                    journal.add(entry, pcm)
                    if progress and (done_count % 16 == 0 or done_count == len(utterances)):
                        progress(done_count, len(utterances))
        return _finish(utterances, journal, rate_hz=rate_hz, resumed=resumed)


class PackedCorpus:
    """An opened packed corpus: utterances and the memory map of their samples.

    Args:
        stem: path of the corpus without suffix.

    Raises:
        CorpusError: the corpus is missing, incomplete, or was changed after it was packed.
    """

    def __init__(self, stem: str | Path) -> None:
        self.stem = Path(stem)
        facts = _read_facts(self.stem)
        self.rate_hz = int(facts["rate_hz"])
        self.fingerprint = str(facts["fingerprint"])
        """sha256 over samples, texts, speakers and ids of all utterances."""
        self.offsets_samples = np.asarray(facts["offsets_samples"], np.int64)
        """(N + 1,): utterance i is samples offsets[i] to offsets[i + 1]."""
        self.lengths_samples = np.diff(self.offsets_samples)
        path, expected = beside(self.stem, ".pcm"), 2 * int(self.offsets_samples[-1])
        if (size := path.stat().st_size if path.is_file() else 0) != expected:
            raise CorpusError(f"{path} has {size} bytes, expected {expected}: damaged, prepare it again")
        self.pcm: np.ndarray = np.memmap(path, "<i2", "r")
        manifest = beside(self.stem, ".jsonl")
        if not manifest.is_file() or sha256_of(manifest) != facts["manifest_sha256"]:
            raise CorpusError(
                f"{manifest} is not the one that was packed; change the original transcripts instead, "
                f"delete {beside(self.stem, '.json')} and prepare again"
            )

    @cached_property
    def utterances(self) -> list[Utterance]:
        """The utterances in the order of their samples, with measured durations."""
        return read_manifest(beside(self.stem, ".jsonl"))

    def samples(self, index: int) -> np.ndarray:
        """The int16 samples (n,) of an utterance, as a view of the memory map."""
        view: np.ndarray = self.pcm[self.offsets_samples[index] : self.offsets_samples[index + 1]]
        return view

    def __len__(self) -> int:
        return len(self.lengths_samples)

    def __repr__(self) -> str:
        return f"PackedCorpus({str(self.stem)!r}: {len(self)} utterances at {self.rate_hz} Hz)"


def _entries(
    utterances: Sequence[Utterance], first: int, *, rate_hz: int, workers: int
) -> Generator[tuple[Entry, bytes]]:
    """The journal entry and the samples of each utterance from `first` on."""
    seen: set[str] = set()
    problems = [find_problem(u, seen) for u in utterances]
    wanted = (u for u, problem in zip(utterances[first:], problems[first:], strict=True) if problem is None)
    decoded = decode_all(wanted, rate_hz=rate_hz, workers=workers)
    for problem in problems[first:]:
        if problem is not None:
            yield Entry(kind=problem.kind, detail=problem.detail), b""
        else:
            yield next(decoded)


def _finish(utterances: Sequence[Utterance], journal: Journal, *, rate_hz: int, resumed: int) -> PackReport:
    """Write the report, then the files of the corpus under their final names, `.json` last."""
    stem, kept, left_out = journal.stem, [], []
    digest, offsets = hashlib.sha256(), [0]
    for u, entry in zip(utterances, journal.entries, strict=True):
        if entry.kind:
            left_out.append(Problem.of(u, entry.kind, entry.detail))
            continue
        kept.append(replace(u, duration_s=entry.samples / rate_hz))
        offsets.append(offsets[-1] + entry.samples)
        digest.update(json.dumps([u.id, u.text, u.speaker, rate_hz, entry.sha256]).encode())
    report = PackReport(stem, len(kept), offsets[-1] / rate_hz, tuple(left_out), resumed)
    _write_json(report.path, _report_fields(report))
    if not kept:
        first = f": {left_out[0].detail}" if left_out else ""
        raise CorpusError(
            f"none of {len(utterances)} utterances can be packed into {stem}{first}; see {report.path}"
        )
    beside(stem, ".json").unlink(missing_ok=True)
    manifest = beside(stem, ".jsonl")
    write_manifest(manifest, kept)
    beside(stem, ".pcm.part").replace(beside(stem, ".pcm"))
    facts = {
        "format": FORMAT,
        "rate_hz": rate_hz,
        "utterances": len(kept),
        "duration_s": report.duration_s,
        "fingerprint": digest.hexdigest(),
        "manifest_sha256": sha256_of(manifest),
        "source_key": journal.key,
        "offsets_samples": offsets,
    }
    _write_json(beside(stem, ".json"), facts)
    beside(stem, ".journal").unlink()
    return report


def _key(utterances: Sequence[Utterance], rate_hz: int) -> str:
    """sha256 of all that the packed bytes depend on; of a recording, its path, size and modification time."""
    digest = hashlib.sha256(json.dumps([FORMAT, rate_hz, *_NO_BOUNDS]).encode())
    for u in utterances:
        path = os.fspath(u.audio_filepath)
        try:
            status = os.stat(path)  # noqa: PTH116 (a Path costs more than the call)
            state = [status.st_size, status.st_mtime_ns]
        except (OSError, ValueError):  # ValueError: a zero byte in its name
            state = []
        part = [] if u.start_s is None else [u.start_s, u.duration_s]
        digest.update(json.dumps([u.id, path, u.text, u.speaker, *state, *part, *(u.flaw or ())]).encode())
    return digest.hexdigest()


def _report_fields(report: PackReport) -> dict[str, Any]:
    return {
        "packed": report.packed,
        "duration_s": report.duration_s,
        "left_out_counts": report.counts,
        "left_out": [asdict(problem) for problem in report.left_out],
    }


def _read_report(stem: Path, key: str) -> PackReport | None:
    """The report of a complete corpus that was packed with the same key; None if there is none."""
    try:
        if _read_facts(stem)["source_key"] != key:
            return None
        fields = json.loads(beside(stem, ".report.json").read_text(encoding="utf-8"))
        if len(PackedCorpus(stem)) != fields["packed"]:  # interrupted when both were to be replaced
            return None
        left_out = tuple(Problem(**problem) for problem in fields["left_out"])
    except (CorpusError, OSError, ValueError, KeyError, TypeError):
        return None
    return PackReport(
        stem, fields["packed"], fields["duration_s"], left_out, fields["packed"] + len(left_out)
    )


def _is_final(report: PackReport, utterances: Sequence[Utterance], rate_hz: int) -> bool:
    """Whether what the system could not read still cannot be read."""
    failed = {(p.id, p.audio_filepath) for p in report.left_out if p.kind == READ_ERROR}
    again = (u for u in utterances if (u.id, os.fspath(u.audio_filepath)) in failed)
    return all(_is_read_error(u, rate_hz) for u in again)


def _is_read_error(utterance: Utterance, rate_hz: int) -> bool:
    return decode(utterance, rate_hz)[0].kind == READ_ERROR


def _read_facts(stem: Path) -> dict[str, Any]:
    path = beside(stem, ".json")
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise CorpusError(f"{path} has format {facts['format']}, expected {FORMAT}: prepare it again")
        len(facts["offsets_samples"]), facts["rate_hz"], facts["fingerprint"], facts["manifest_sha256"]
    except FileNotFoundError as error:
        half = " (it was not packed to the end)" if beside(stem, ".journal").exists() else ""
        raise CorpusError(f"there is no packed corpus {stem}{half}; run `asr prepare`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{path} is damaged ({error!r}); delete it and prepare again") from error
    return facts


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    with whole_file(path) as file:
        json.dump(fields, file, ensure_ascii=False)
        file.write("\n")
