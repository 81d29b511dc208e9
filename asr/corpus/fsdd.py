"""Free Spoken Digit Dataset: six speakers, ten English digits, 50 recordings of each, 8 kHz, CC BY-SA 4.0.

Files are named `{digit}_{speaker}_{index}.wav`. The published test set is index 0 to 4 of every speaker; to
measure how well a recogniser does on unseen speakers, hold out whole speakers.
Source: https://github.com/Jakobovski/free-spoken-digit-dataset
"""

import re
from pathlib import Path
from typing import Any

from asr.audio import AUDIO_SUFFIXES
from asr.corpus.download import Archive, Progress, provide
from asr.corpus.manifest import Utterance
from asr.corpus.split import as_names, check_known
from asr.errors import CorpusError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

ARCHIVE = Archive(
    ("https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip",),
    "free-spoken-digit-dataset-1.0.10/recordings",
    # Of 16,419,872 bytes, as recorded by others; the publisher states no checksum.
    "sha256:c680098f5d2355ba7cc4bd8b0ca9e0a24c00ebe3b4c552208889a4d28d4fbc2b",
)

_NAME = re.compile(r"(\d)_([^_]+)_(\d+)")


def prepare(
    root: Path,
    *,
    test_speakers: Any = (),
    dev_speakers: Any = (),
    progress: Progress | None = None,
) -> dict[str, list[Utterance]]:
    """The splits train, dev and test.

    Without held-out speakers, `test` is index 0 to 4 and `dev` index 5 to 9 of every speaker. With held-out
    test speakers, `test` is all of their recordings; `dev` is then index 0 to 4 of the others, unless
    speakers are held out for it too.

    Args:
        root: folder with the recordings, or with a folder `recordings`; downloaded if there is neither.
        test_speakers, dev_speakers: names of the speakers to hold out.
        progress: of the transfer, in bytes.

    Raises:
        ConfigError: an unknown speaker.
        CorpusError: nothing is left for training, or the download failed.
    """
    folders = [f for f in (root / "recordings", root) if f.is_dir() and any(map(_match, f.iterdir()))]
    folder = (folders[0] if folders else provide(ARCHIVE, root / "recordings", progress=progress)).absolute()
    utterances = [_utterance(p) for p in sorted(folder.iterdir()) if p.suffix.lower() in AUDIO_SUFFIXES]
    test = as_names(test_speakers, option="test_speakers")
    dev = as_names(dev_speakers, option="dev_speakers")
    present = {u.speaker for u in utterances if u.speaker}
    check_known([*test, *dev], present, what="speaker of fsdd")
    splits: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for u in utterances:
        splits[_split(u, test, dev)].append(u)
    if not splits["train"]:
        raise CorpusError(f"{folder}: all of {', '.join(sorted(present)) or 'nobody'} is held out")
    return splits


def _match(path: Path) -> re.Match[str] | None:
    return _NAME.fullmatch(path.stem)


def _utterance(path: Path) -> Utterance:
    """The utterance of a recording; an unexpected file name gives it no text, so that packing reports it."""
    match = _match(path)
    if not match:
        return Utterance(path.stem, path, 0.0, "")
    return Utterance(path.stem, path, 0.0, WORDS[int(match[1])], match[2])


def _split(u: Utterance, test: list[str], dev: list[str]) -> str:
    if u.speaker in test:
        return "test"
    if u.speaker in dev:
        return "dev"
    block = int(u.id.rpartition("_")[2]) // 5 if u.speaker else -1
    parts = [name for name, held_out in (("test", test), ("dev", dev)) if not held_out]
    return parts[block] if 0 <= block < len(parts) else "train"
