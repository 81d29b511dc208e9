"""Recordings with subtitles, a TextGrid or a label track beside them → parts of them as utterances."""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from asr import audio
from asr.audio import AUDIO_SUFFIXES
from asr.captions import PLAIN, SUFFIXES, is_captions, read_captions
from asr.corpus.manifest import Utterance
from asr.errors import AudioError, ManifestError
from asr.normalisation import composed

_log = logging.getLogger(__name__)

_NUMBERED = re.compile(r"speaker[ _-]*\d+", re.IGNORECASE)
"""A speaker as programs call those of a recording: in the next one it is somebody else."""
_LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}(-[A-Za-z0-9]+)*")


def stem_of(file: Path) -> Path:
    """What a recording and its texts have in common: the path without suffix, in one Unicode form."""
    return file.parent / composed(file.stem)


def read_parts(recording: Path, captions: Path, *, speaker: str | None = None) -> list[Utterance]:
    """What is said in the recording as parts of it, without ids; what cannot be used has its flaw.

    Args:
        recording: the audio file.
        captions: a file with texts and their times in it.
        speaker: of cues that name none.
    """
    try:
        length_s = audio.info(recording).duration_s
        cues = read_captions(captions)
        if not cues:
            raise ManifestError(f"{captions} has no text")
    except (AudioError, ManifestError) as error:
        kind = "unreadable" if isinstance(error, AudioError) else "invalid captions"
        return [Utterance("", recording, 0.0, "", speaker, flaw=(kind, str(error)))]
    parts = []
    for cue in cues:
        end_s = min(cue.end_s, length_s)  # the last lines of subtitles often stay longer than the recording
        at = f"{captions}: {cue.start_s:g} to {cue.end_s:g} s of {length_s:.2f} s"
        flaw = None if 0 <= cue.start_s < end_s else ("impossible times", f"{at}: {cue.text:.80}")
        duration_s = round(max(end_s - cue.start_s, 0.0), 3)
        who = cue.speaker or speaker
        if cue.speaker and _NUMBERED.fullmatch(cue.speaker):
            who = f"{recording.stem} {cue.speaker}"
        parts.append(Utterance("", recording, duration_s, cue.text, who, flaw, start_s=cue.start_s))
    return parts


def choose_captions(
    files: Iterable[Path], recordings: Mapping[Path, Path]
) -> tuple[dict[Path, list[Path]], dict[Path, tuple[str, str]]]:
    """The files with texts and times of each recording, best first, and the flaws of those that differ.

    Subtitles may have a language before their suffix, `talk.en.srt`, but not be of several; or the suffix of
    the recording, as whisper.cpp's. What belongs to no recording is told.

    Args:
        files: all that is there.
        recordings: by `stem_of`.
    """
    timed: dict[Path, list[Path]] = defaultdict(list)
    alone = []
    for file in filter(is_captions, files):
        bare = file.with_suffix("")
        is_more = _LANGUAGE.fullmatch(bare.suffix) or bare.suffix.lower() in AUDIO_SUFFIXES
        names = [stem_of(file), *([stem_of(bare)] if is_more else [])]
        recording = next((recordings[name] for name in names if name in recordings), None)
        if recording is not None:
            timed[recording].append(file)
        elif file.suffix.lower() in PLAIN:
            alone.append(file.name)
    if alone:
        more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
        _log.warning("subtitles that belong to no recording: %s%s", ", ".join(alone[:5]), more)
    flaws = {}
    for recording, several in timed.items():
        several.sort(key=lambda p: SUFFIXES.index(p.suffix.lower()))
        if [p.suffix.lower() for p in several[:2]].count(several[0].suffix.lower()) > 1:
            flaws[recording] = (
                "ambiguous",
                f"{several[0]} and {several[1].name} are both of {recording.name}",
            )
    return dict(timed), flaws
