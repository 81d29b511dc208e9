"""`asr transcribe`: recordings → text on standard output, one line a file; bad files are listed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr import audio
from asr.errors import AudioError
from asr.jobs.console import output, warn
from asr.recognizer import Recognizer


def find_audio(places: Sequence[str]) -> list[str]:
    """The recordings named: files as they are, `-` for standard input, folders searched through, in order.

    Raises:
        AudioError: a path that does not exist, or a folder without recordings.
    """
    found: list[str] = []
    for place in places:
        path = Path(place)
        if place != "-" and path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in audio.AUDIO_SUFFIXES)
            if not inside:
                raise AudioError(f"{place}: no recordings in this folder")
            found += map(str, inside)
        else:
            found.append(place)
    return found


def transcribe(model: Recognizer, places: Sequence[str], **settings: Any) -> dict[str, str]:
    """Print one line of text for each recording; what failed, and why, by file.

    Args:
        model: a loaded recogniser.
        places: files, folders or `-`.
        settings: `decoder` and the settings of `Recognizer.decode`.
    """
    failed: dict[str, str] = {}

    def samples() -> Iterator[np.ndarray]:
        for name in find_audio(places):
            try:
                yield audio.read(name, model.rate_hz)
            except AudioError as error:
                failed[name] = str(error)
                warn(str(error))

    for transcript in model.transcribe_many(samples(), **settings):
        output.print(transcript.text, markup=False)
    return failed
