"""Journal of what packing has written so far, so that an interrupted run continues instead of starting over.

Samples are appended to `train.pcm.part`, and a line for each utterance to `train.journal`: how many samples
it has and their sha256, or why it was left out. On resuming, however the run ended, the two are read from the
start until they disagree; everything before that is kept.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

READ_ERROR = "read error"
"""The kind of what is due to the system (permissions, a disk, too many open files), not to the recording."""
FLUSH_EVERY = 64
"""Utterances after which buffers are flushed: the most that a killed process loses."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal: an utterance's number of samples and their sha256, or its problem."""

    samples: int = 0
    sha256: str = ""
    kind: str = ""
    detail: str = ""


class Journal:
    """The samples written so far, and an entry for each utterance: an interrupted run's, or a new one.

    Args:
        stem: of the packed corpus.
        key: of its utterances; a journal of others is begun anew.
        is_final: whether the entry of the utterance at an index stays; else all from there on are made anew.
    """

    def __init__(self, stem: Path, key: str, is_final: Callable[[int, Entry], bool]) -> None:
        self.stem, self.key = stem, key
        part, whole, notes = (beside(stem, s) for s in (".pcm.part", ".pcm", ".journal"))
        if notes.is_file() and not part.exists() and whole.exists() and not beside(stem, ".json").exists():
            whole.replace(part)  # interrupted between the last two steps
        self._pcm, self._notes = part.open("a+b"), notes.open("a+b")
        self.entries, pcm_end, notes_end = _agreed(self._pcm, self._notes, key, is_final)
        self._pcm.truncate(pcm_end)
        self._notes.truncate(notes_end)
        if not notes_end:
            self._notes.write(json.dumps({"key": key}).encode() + b"\n")

    def add(self, entry: Entry, pcm: bytes) -> None:
        """Append an utterance."""
        self._pcm.write(pcm)
        self._notes.write(json.dumps(asdict(entry)).encode() + b"\n")
        self.entries.append(entry)
        if len(self.entries) % FLUSH_EVERY == 0:
            self._pcm.flush()
            self._notes.flush()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        with self._notes, self._pcm:
            self._pcm.flush()
            os.fsync(self._pcm.fileno())


def _agreed(
    pcm: IO[bytes], notes: IO[bytes], key: str, is_final: Callable[[int, Entry], bool]
) -> tuple[list[Entry], int, int]:
    """The entries that stay, with intact samples, and the byte offsets where their samples and notes end."""
    pcm.seek(0)
    notes.seek(0)
    entries: list[Entry] = []
    pcm_end = notes_end = 0
    for number, line in enumerate(notes):
        try:
            fields = json.loads(line if line.endswith(b"\n") else b"")
            if number == 0 and fields["key"] != key:
                break
            if number > 0:
                entry = Entry(**fields)
                if entry.sha256 and hashlib.sha256(pcm.read(2 * entry.samples)).hexdigest() != entry.sha256:
                    break
                if not is_final(number - 1, entry):
                    break
                entries.append(entry)
                pcm_end += 2 * entry.samples
        except (ValueError, KeyError, TypeError):
            break
        notes_end += len(line)
    return entries, pcm_end, notes_end


def beside(stem: Path, suffix: str) -> Path:
    """The file of a packed corpus with that suffix; unlike `with_suffix`, it keeps dots in the stem."""
    return stem.with_name(stem.name + suffix)
