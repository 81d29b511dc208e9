"""AN4: 948 + 130 short recordings of names, addresses and numbers, spelled or said, 16 kHz, CMU 1991.

The layout is the original one: `an4/etc/an4_{train,test}.transcription` and `an4/wav/*/<speaker>/*.sph`, in
any audio format with a header.
Source: A. Acero, "Acoustical and environmental robustness in automatic speech recognition", 1993.
"""

import re
from pathlib import Path

from asr.audio import AUDIO_SUFFIXES
from asr.corpus.download import Archive, Progress, provide
from asr.corpus.manifest import Utterance
from asr.corpus.split import hold_out
from asr.errors import CorpusError

ARCHIVE = Archive(
    (
        "https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz",
        "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz",
    ),
    "an4",
    # As recorded by others; the publisher states no checksum.
    "sha256:a0525579493735d32b60fb6fa5975dd0eaacde087b0a4eeb7f13b7ef33077b12",
)

_LINE = re.compile(r"(?:<s>)?(?P<text>.*?)(?:</s>)?\s*\((?P<name>[^()\s]+)\)")


def prepare(
    root: Path, *, dev_fraction: float = 0.1, seed: int = 0, progress: Progress | None = None
) -> dict[str, list[Utterance]]:
    """The splits train, dev and test; `test` is the published one, `dev` are speakers held out of `train`.

    Args:
        root: the folder `an4`, or its parent; downloaded if there is neither.
        dev_fraction: minimum share of the training utterances for `dev`.
        seed: chooses the held-out speakers.
        progress: of the transfer, in bytes.

    Raises:
        CorpusError: a file of transcripts is missing, or has a line of another form.
    """
    folders = [f for f in (root, root / "an4") if (f / "etc").is_dir()]
    folder = (folders[0] if folders else provide(ARCHIVE, root / "an4", progress=progress)).absolute()
    files = sorted((folder / "wav").rglob("*"))
    recordings = {p.stem: p for p in files if p.suffix.lower() in AUDIO_SUFFIXES}
    if not recordings:
        raise CorpusError(
            f"{folder / 'wav'} has no recordings (those of the raw edition have no header); take "
            "an4_sphere.tar.gz"
        )
    found = hold_out(_read(folder, "train", recordings), {"dev": dev_fraction}, by="speaker", seed=seed)
    return {**found, "test": _read(folder, "test", recordings)}


def _read(folder: Path, part: str, recordings: dict[str, Path]) -> list[Utterance]:
    path = folder / "etc" / f"an4_{part}.transcription"
    if not path.is_file():
        raise CorpusError(f"{path} is missing: the corpus is not whole")
    utterances = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise CorpusError(f"{path}, line {number}: expected `<s> TEXT </s> (NAME)`: {line[:160]}")
        name = match["name"]
        recording = recordings.get(name, folder / "wav" / f"{name}.sph")
        utterances.append(Utterance(name, recording, 0.0, match["text"].strip(), _speaker(name)))
    return utterances


def _speaker(name: str) -> str:
    """`fash` of `an251-fash-b`."""
    return [*name.split("-"), name][1]
