"""Pairs references and hypotheses from files: by id where there are ids, otherwise by line.

Conventions. Ids must be the same on both sides, or those of the hypothesis the names of the reference's
recordings, without suffix; else the error lists those that only one side has. A hypothesis in CTM is cut at
the segments of an STM reference as NIST's sclite does: a word belongs to the first segment of its recording
and channel that ends after the word's middle, or else to the last. Otherwise an utterance without a word in a
CTM is an empty one, which the notes count, as long as others have words. Words in segments that are marked
`ignore_time_segment_in_scoring` are left out and counted in the notes.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from asr.captions import is_captions
from asr.errors import ScoringError
from asr.scoring import transcripts
from asr.scoring.transcripts import IGNORED, Entry, Format
from asr.scoring.word_errors import Score, score, some

_ENOUGH_LINES = 20
"""With at least this many lines, first words that are unique and the same in both files are ids."""

_NUMBERED = re.compile(r"(?!\d{1,2}$)\S*\d\S*")
"""A word with a digit; not `7`, which is as likely said as it is an id."""
_CODE = re.compile(r"(?=\S*\d)(?=\S*[^\W\d]|\S*[-_])\S+")


@dataclass
class Paired:
    """A reference and one or more hypotheses of the same utterances, in the order of the reference."""

    references: list[str]
    hypotheses: list[list[str]]
    """For each hypothesis file, one text per utterance."""
    ids: list[str] | None
    """None if utterances are paired by line."""
    speakers: list[str | None] | None
    durations_s: list[float | None] | None
    confidences: list[list[tuple[float, ...] | None]]
    """For each hypothesis file, those of each utterance, if known."""
    audio: dict[str, Path] = field(default_factory=dict)
    """Recordings that are known, by id."""
    formats: list[Format] = field(default_factory=list)
    """Of the reference and of each hypothesis."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""

    def score(self, number: int = 0, **how: Any) -> Score:
        """The score of one of the hypothesis files; `how`: other arguments of `asr.scoring.score`."""
        facts: dict[str, Any] = {"ids": self.ids, "speakers": self.speakers, "durations_s": self.durations_s}
        return score(self.references, self.hypotheses[number], **facts, **how)


def read(
    reference: Path,
    *hypotheses: Path,
    utt2spk: Path | None = None,
    plain: bool = False,
) -> Paired:
    """The utterances of a reference file with those of the hypothesis files.

    Args:
        reference, hypotheses: files in any of the formats of `asr.scoring.transcripts`, which are guessed.
        utt2spk: lines of id and speaker, if the files do not name speakers.
        plain: lines that look like texts have no ids, whatever they begin or end with, unless the
            suffix is trn.

    Raises:
        ScoringError: an invalid file or line, ids that do not match, or different numbers of lines.
        ManifestError: subtitles that are damaged.
    """
    paths = (reference, *hypotheses)
    # Captions are read by themselves: Praat, for one, writes UTF-16.
    lines = [[] if is_captions(path) else transcripts.read_lines(path) for path in paths]
    guessed = [
        transcripts.guess_format(path, text, plain=plain) for path, text in zip(paths, lines, strict=True)
    ]
    files = [
        transcripts.parse(paths[n], lines[n], kind, is_hypothesis=n > 0) if kind else []
        for n, kind in enumerate(guessed)
    ]
    kinds = [kind or "plain" for kind in guessed] if plain else _formats(paths, lines, guessed, files)
    for n, kind in enumerate(kinds):
        if guessed[n] is None:
            files[n] = transcripts.parse(paths[n], lines[n], kind)
    notes: list[str] = []
    said = _utterances(files[0]) if kinds[0] == "ctm" else files[0]
    heard = [
        _cut(said, words, path, notes)
        if (kinds[0], kind) == ("stm", "ctm")
        else _with_silent(said, _utterances(words), path, notes)
        if kind == "ctm"
        else words
        for path, words, kind in zip(hypotheses, files[1:], kinds[1:], strict=True)
    ]
    counted = [n for n, entry in enumerate(said) if not entry.is_ignored]
    if len(counted) < len(said):
        notes.append(f"left out, as {IGNORED}: segments of {reference}: {len(said) - len(counted)}")
    heard = [_match(said, entries, reference, path) for path, entries in zip(hypotheses, heard, strict=True)]
    said = [said[n] for n in counted]
    heard = [[entries[n] for n in counted] for entries in heard]
    paired = _collect(said, heard, kinds, notes)
    if utt2spk is not None:
        paired.speakers = _speakers(utt2spk, paired.ids)
    return paired


def _collect(said: list[Entry], heard: list[list[Entry]], kinds: list[Format], notes: list[str]) -> Paired:
    sides = list(zip(said, *heard, strict=True))
    speakers = [next((e.speaker for e in side if e.speaker is not None), None) for side in sides]
    durations_s = [next((e.duration_s for e in side if e.duration_s is not None), None) for side in sides]
    recordings = [next((e.audio for e in side if e.audio is not None), None) for side in sides]
    ids = [entry.id for entry in said if entry.id is not None]
    return Paired(
        references=[entry.text for entry in said],
        hypotheses=[[entry.text for entry in entries] for entries in heard],
        ids=ids or None,
        speakers=speakers if any(speakers) else None,
        durations_s=durations_s if any(durations_s) else None,
        confidences=[[entry.confidences for entry in entries] for entries in heard],
        audio={name: path for name, path in zip(ids, recordings, strict=False) if path is not None},
        formats=kinds,
        notes=notes,
    )


def _formats(
    paths: Sequence[Path],
    lines: Sequence[Sequence[str]],
    guessed: Sequence[Format | None],
    files: Sequence[list[Entry]],
) -> list[Format]:
    """The formats of all files: those that look like plain text are all Kaldi's, or none is.

    Args:
        paths, lines: the files.
        guessed: None for a file that looks like plain text.
        files: the entries of those whose format is known.
    """
    open_files = [n for n, kind in enumerate(guessed) if kind is None]
    if not open_files:
        return [kind for kind in guessed if kind is not None]
    firsts = [[line.split()[0] for line in lines[n] if line.strip()] for n in open_files]
    named = [
        sorted(e.id or "" for e in (_utterances(entries) if kind == "ctm" else entries))
        for kind, entries in zip(guessed, files, strict=True)
        if entries
    ]
    is_named = any(sorted(words) == ids for words in firsts for ids in named)
    has_text = any(len(line.split()) > 1 for line in lines[open_files[0]])
    kind: Format = "kaldi" if is_named or _are_ids(firsts, has_text=has_text) else "plain"
    codes = [len(words) > 1 and all(map(_CODE.fullmatch, words)) for words in firsts]
    if kind == "plain" and any(codes) and not all(codes):
        path = paths[open_files[codes.index(True)]]
        raise ScoringError(
            f"the lines of {path} seem to begin with ids, those of the other file do not; "
            "give both ids, or neither"
        )
    return [kind if guess is None else guess for guess in guessed]


def _are_ids(firsts: Sequence[Sequence[str]], *, has_text: bool) -> bool:
    """Whether the first words of each file's lines are ids rather than spoken words.

    Single words and numbers (`has_text` is false) are what was said, not ids of utterances without a word.
    """
    if not all(words and len(set(words)) == len(words) for words in firsts):
        return False
    if all(_CODE.fullmatch(word) for words in firsts for word in words):
        return True
    if not has_text:
        return False
    shared = set(firsts[0]).intersection(*firsts[1:])
    if len(firsts) > 1 and shared and all(_NUMBERED.fullmatch(w) for words in firsts for w in words):
        return True
    return len(firsts) > 1 and len(shared) >= _ENOUGH_LINES and all(set(words) == shared for words in firsts)


def _match(said: list[Entry], heard: list[Entry], reference: Path, hypothesis: Path) -> list[Entry]:
    """The hypothesis' entries in the order of the reference's."""
    named = [{e.id: e for e in side if e.id is not None} for side in (said, heard)]
    if not named[0] and not named[1]:
        if len(said) != len(heard):
            raise ScoringError(
                f"{reference} has {len(said)} lines, {hypothesis} has {len(heard)}: without ids they are "
                "paired line by line; give both as many lines, or ids (Kaldi's `id text`, trn or JSONL)"
            )
        return heard
    for side, path, entries in ((said, reference, named[0]), (heard, hypothesis, named[1])):
        if len(entries) < len(side):
            nameless = next(entry for entry in side if entry.id is None)
            raise ScoringError(
                f"{nameless.place}: no id, but the other file has ids; "
                f"give {path} ids too: pairing by line could pair the wrong utterances"
            )
    recordings = {entry.audio.stem: entry for entry in said if entry.audio}
    if len(recordings) == len(said) and set(recordings) == set(named[1]) != set(named[0]):
        return [named[1][name] for name in recordings]
    only = [[name for name in one if name not in other] for one, other in (named, named[::-1])]
    if only[0] or only[1]:
        raise ScoringError(
            f"ids do not match. Only in {reference}: {some(only[0]) or 'none'}. "
            f"Only in {hypothesis}: {some(only[1]) or 'none'}. "
            "If lines begin with their text and not with ids, say --plain"
        )
    return [named[1][name] for name in named[0]]


def _utterances(words: list[Entry]) -> list[Entry]:
    """The words of a CTM as one utterance per recording (and channel, where one has several)."""
    grouped = dict(transcripts.group_words(words))
    channels = Counter(file for file, _ in grouped)
    return [
        transcripts.join_words(
            spoken, place=spoken[0].place, id=file if channels[file] == 1 else f"{file}:{channel}"
        )
        for (file, channel), spoken in grouped.items()
    ]


def _with_silent(said: list[Entry], heard: list[Entry], path: Path, notes: list[str]) -> list[Entry]:
    """The utterances of a CTM, and an empty one for each of the reference's in which it has no word.

    CTM cannot say of a recording that nothing was heard in it.
    """
    found = {entry.id for entry in heard}
    ids, stems = ([e.id for e in said], [e.audio.stem if e.audio else None for e in said])
    names = ids if found <= set(ids) else stems
    silent = [name for name in names if name is not None and name not in found]
    if not silent or not found or not found <= set(names):
        return heard
    notes.append(f"taken as empty, as {path} has no word of theirs: utterances: {len(silent)}")
    return [*heard, *(Entry(str(path), "", id=name) for name in silent)]


def _cut(segments: list[Entry], words: list[Entry], path: Path, notes: list[str]) -> list[Entry]:
    """The words of a CTM as one utterance per segment of the STM."""
    recordings: dict[tuple[str, str] | None, list[int]] = {}
    for n in sorted(range(len(segments)), key=lambda n: segments[n].start_s):
        recordings.setdefault(segments[n].recording, []).append(n)
    found: list[list[Entry]] = [[] for _ in segments]
    for recording, spoken in transcripts.group_words(words):
        if recording not in recordings:
            raise ScoringError(
                f"{spoken[0].place}: recording {recording[0]!r}, channel {recording[1]!r} is not in the "
                f"reference, which has {some(sorted(' '.join(r) for r in recordings if r))}"
            )
        places = recordings[recording]
        latest_s = list(
            accumulate((segments[n].start_s + (segments[n].duration_s or 0) for n in places), max)
        )
        for word in spoken:
            first = bisect_right(latest_s, word.start_s + (word.duration_s or 0) / 2)
            found[places[min(first, len(places) - 1)]].append(word)
    if ignored := sum(len(spoken) for spoken, s in zip(found, segments, strict=True) if s.is_ignored):
        notes.append(f"left out, in such segments: words of {path}: {ignored}")
    return [
        transcripts.join_words(spoken, place=spoken[0].place if spoken else str(path), id=segment.id)
        for spoken, segment in zip(found, segments, strict=True)
    ]


def _speakers(path: Path, ids: Sequence[str] | None) -> list[str | None]:
    """The speaker of each utterance, from a file of `id speaker` lines."""
    if ids is None:
        raise ScoringError(f"{path} names speakers by id, but the transcripts have no ids")
    known: Mapping[str | None, str] = {
        entry.id: entry.text.strip()
        for entry in transcripts.parse(path, transcripts.read_lines(path), "kaldi")
    }
    if missing := [name for name in ids if not known.get(name)]:
        raise ScoringError(f"{path} names no speaker for {some(missing)}")
    return [known[name] for name in ids]
