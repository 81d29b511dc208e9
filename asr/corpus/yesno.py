"""YesNo: 60 recordings of one man, each of eight words, yes or no in Hebrew, 8 kHz, public domain.

A file's name is its text: `0_1_1_0_0_1_0_1.wav`, 1 for yes.
Source: https://www.openslr.org/1
"""

import re
from collections.abc import Mapping
from pathlib import Path

from asr.audio import AUDIO_SUFFIXES
from asr.corpus.download import Archive, Progress, provide
from asr.corpus.librispeech import MIRRORS
from asr.corpus.manifest import Utterance
from asr.corpus.split import hold_out
from asr.errors import CorpusError

ARCHIVE = Archive(
    tuple(f"{mirror}/1/waves_yesno.tar.gz" for mirror in MIRRORS),
    "waves_yesno",
    "sha256:c3f49e0cca421f96b75b41640749167b52118f232498667ca7a5f9416aef8e73",
)
FRACTIONS = {"dev": 0.15, "test": 0.25}
WORDS = {"0": "no", "1": "yes"}


def prepare(
    root: Path,
    *,
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, list[Utterance]]:
    """The splits train, dev and test of the only speaker.

    Args:
        root: the folder `waves_yesno`, or its parent; downloaded if there is neither.
        fractions: share of each held-out split.
        seed: chooses the held-out recordings.
        progress: of the transfer, in bytes.

    Raises:
        CorpusError: there are no such recordings.
    """
    folders = [f for f in (root, root / "waves_yesno") if f.is_dir() and any(map(_text, f.iterdir()))]
    folder = (folders[0] if folders else provide(ARCHIVE, root / "waves_yesno", progress=progress)).absolute()
    recordings = sorted(p for p in folder.iterdir() if p.suffix.lower() in AUDIO_SUFFIXES)
    utterances = [Utterance(p.stem, p, 0.0, _text(p), "speaker") for p in recordings]
    if not utterances:
        raise CorpusError(f"{folder} has no recordings named like 0_1_1_0_0_1_0_1.wav")
    return hold_out(utterances, FRACTIONS if fractions is None else fractions, by="utterance", seed=seed)


def _text(path: Path) -> str:
    """The text that the name encodes; empty for any other name, so that packing reports the file."""
    if not re.fullmatch(r"[01](_[01])+", path.stem):
        return ""
    return " ".join(WORDS[digit] for digit in path.stem.split("_"))
