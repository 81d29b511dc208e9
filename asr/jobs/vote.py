"""`asr combine` of transcripts: those of several recognisers for the same recordings → a vote on each word.

A file is a CTM, JSON lines as `asr run` (`test.hypotheses.jsonl`) and `asr transcribe --word_timestamps`
write them, or the JSON of one recording, theirs or whisper's: words with times and confidences.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asr.errors import ScoringError
from asr.files import whole_file
from asr.jobs.console import say
from asr.jobs.formats import to_ctm
from asr.scoring import transcripts
from asr.scoring.voting import vote
from asr.scoring.word_errors import some
from asr.transcript import Transcript, Word

SUFFIXES = (".ctm", ".jsonl", ".json")
_WRITTEN = (".ctm", ".jsonl")
_Recordings = dict[str, tuple[list[Word], dict[str, Any]]]
"""By name, the words of each, and its other fields in JSON."""


def vote_files(files: Sequence[Path], output: Path) -> None:
    """Write the vote of the transcripts to `output`, a `.ctm` or `.jsonl` file.

    A recording that is missing in a CTM has no words there; other files must have all recordings.

    Raises:
        ScoringError: a file or line that is wrong, words without confidences, or missing recordings.
    """
    if output.suffix.lower() not in _WRITTEN:
        raise ScoringError(f"{output}: a vote on transcripts is written as {' or '.join(_WRITTEN)}")
    if len(files) < 2:
        raise ScoringError(f"{files[0]} alone: a vote needs the transcripts of at least two systems")
    heard = [_read(path) for path in files]
    names = list(dict.fromkeys(name for recordings in heard for name in recordings))
    for path, recordings in zip(files, heard, strict=True):
        if path.suffix.lower() != ".ctm" and (absent := [name for name in names if name not in recordings]):
            raise ScoringError(f"{path} lacks recordings that others have: {some(absent)}")
    changed, joint = 0, _joint(heard)
    with whole_file(output) as file:
        for name in names:
            texts = [recordings.get(name, ([], {}))[0] for recordings in heard]
            words = vote(texts)
            changed += [w.text for w in words] != [w.text for w in texts[0]]
            facts = heard[0].get(name, ([], {}))[1]
            file.write(
                _ctm(name, words) if output.suffix.lower() == ".ctm" else _json(name, words, facts, joint)
            )
    say(f"{output}: {len(names):,} recordings; {changed:,} texts differ from those of {files[0]}")


def _read(path: Path) -> _Recordings:
    suffix, lines = path.suffix.lower(), transcripts.read_lines(path)
    found: _Recordings = {}
    if suffix == ".ctm":
        words = transcripts.parse(path, lines, "ctm", is_hypothesis=True)
        for (name, channel), spoken in transcripts.group_words(words):
            if name in found:
                raise ScoringError(
                    f"{spoken[0].place}: channel {channel} is another one of {name}; a vote is on one channel"
                )
            found[name] = [_of_ctm(e) for e in spoken], {}
        return found
    if suffix not in SUFFIXES:
        raise ScoringError(f"{path}: expected transcripts as {', '.join(SUFFIXES)}")
    if suffix == ".json":
        lines = [" ".join(lines)]
    for entry, line in zip(
        transcripts.parse(path, lines, "jsonl", is_hypothesis=True), filter(str.strip, lines), strict=True
    ):
        facts = json.loads(line)
        id_ = entry.id or facts.get("audio") or (path.stem if suffix == ".json" else None)
        if id_ is None or id_ in found:
            raise ScoringError(f"{entry.place}: expected an id, or the audio, of a recording of its own")
        found[str(id_)] = list(_of_json(facts, entry)), facts
    return found


def _of_ctm(entry: transcripts.Entry) -> Word:
    if entry.confidences is None:
        raise ScoringError(f"{entry.place}: a word without a confidence; no vote can be weighed without one")
    if not 0 <= entry.confidences[0] <= 1:
        raise ScoringError(f"{entry.place}: confidence {entry.confidences[0]:g}; expected one from 0 to 1")
    return Word(entry.text, entry.start_s, entry.start_s + (entry.duration_s or 0.0), *entry.confidences)


def _of_json(facts: dict[str, Any], entry: transcripts.Entry) -> Iterator[Word]:
    """The words of a line, which must be those of its text."""
    try:
        found = [
            Word(w["word"].strip(), w["start"], w["end"], w["probability"])
            if isinstance(w, dict)
            else Word(*w)
            for w in transcripts.words_of(facts)
        ]
        is_good = all(math.isfinite(w.start_s + w.end_s) and 0 <= w.confidence <= 1 for w in found)
        spelled = "".join(w.text for w in found)
    except (KeyError, TypeError, AttributeError) as error:
        raise ScoringError(f"{entry.place}: expected words with start, end and probability") from error
    if not is_good:
        raise ScoringError(f"{entry.place}: expected times in seconds and probabilities from 0 to 1")
    if spelled != "".join(entry.text.split()):
        raise ScoringError(
            f"{entry.place}: {len(found)} words for the text {entry.text[:60]!r}; expected its words with "
            "times and confidences, as --word_timestamps writes them"
        )
    yield from found


def _ctm(name: str, words: Sequence[Word]) -> str:
    return to_ctm(Transcript("", tuple(words)), name=name)


def _joint(heard: Sequence[_Recordings]) -> str:
    """What joins words: a space, but nothing if texts of several words are there and none has a space."""
    texts = [
        str(facts.get("pred_text", facts.get("text"))).split()
        for recordings in heard
        for words, facts in recordings.values()
        if facts and len(words) > 1
    ]
    return "" if texts and all(len(parts) == 1 for parts in texts) else " "


def _json(name: str, words: Sequence[Word], facts: dict[str, Any], joint: str) -> str:
    """A line in the format of `asr run`, with the reference if the first file has one."""
    kept = ("audio_filepath", "duration", "speaker", *(["text"] if "pred_text" in facts else []))
    line = {"id": name} | {key: facts[key] for key in kept if key in facts}
    line["pred_text"] = joint.join(w.text for w in words)
    line["words"] = [[w.text, round(w.start_s, 3), round(w.end_s, 3), round(w.confidence, 4)] for w in words]
    return json.dumps(line, ensure_ascii=False) + "\n"
