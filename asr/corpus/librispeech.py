"""LibriSpeech and its subset mini LibriSpeech: English audio books, 16 kHz, CC BY 4.0.

The layout is the original one, `LibriSpeech/<part>/<speaker>/<chapter>/*.trans.txt` with the recordings
beside each list, in any audio format. A part can be any folder of that layout.
Source: V. Panayotov et al., "LibriSpeech: an ASR corpus based on public domain audio books", ICASSP 2015.
"""

from pathlib import Path
from typing import Any

from asr.audio import AUDIO_SUFFIXES
from asr.corpus.download import Archive, Progress, provide
from asr.corpus.download import download as fetch
from asr.corpus.manifest import Utterance
from asr.corpus.split import as_splits
from asr.errors import CorpusError
from asr.files import locked

MIRRORS = (
    "https://www.openslr.org/resources",
    "https://openslr.trmal.net/resources",
    "https://openslr.elda.org/resources",
    "https://openslr.magicdatatech.com/resources",
)

PARTS = {
    "train-clean-5": (31, "md5:5df7d4e78065366204ca6845bb08f490"),
    "dev-clean-2": (31, "md5:6d7ab67ac6a1d2c993d050e16d61080d"),
    "dev-clean": (12, "sha256:76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"),
    "dev-other": (12, "sha256:12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"),
    "test-clean": (12, "sha256:39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"),
    "test-other": (12, "sha256:d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"),
    "train-clean-100": (12, "sha256:d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2"),
    "train-clean-360": (12, "sha256:146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf"),
    "train-other-500": (12, "sha256:ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2"),
}
"""Published parts: number of the resource at openslr.org, and checksum of the archive."""

LANGUAGE_MODELS = {
    "librispeech-3gram-small": ("3-gram.pruned.3e-7.arpa.gz", "md5:8f67ec741827742eee05799ab7605b50"),
    "librispeech-3gram": ("3-gram.pruned.1e-7.arpa.gz", "md5:9a0f1325bcaf3a0f7b7be4be10823c2a"),
    "librispeech-4gram": ("4-gram.arpa.gz", "md5:6abdcd5b055bd482e4f9defe91d40408"),
}
"""Published models of 14,500 books (resource 11): name → file and checksum; 14, 34 and 1,356 MB."""

DEFAULT_SPLITS = {"train": ["train-clean-5"], "dev": ["dev-clean-2"]}


def prepare(
    root: Path, *, splits: Any = None, download: bool = True, progress: Progress | None = None
) -> dict[str, list[Utterance]]:
    """The utterances of each split.

    Args:
        root: the folder `LibriSpeech`, or its parent.
        splits: parts that make up each split, such as `{train: [train-clean-100, train-clean-360], dev:
            [dev-clean]}`; mini LibriSpeech if None.
        download: whether to download published parts that are missing.
        progress: of the transfer, in bytes.

    Raises:
        CorpusError: a part is missing and cannot be fetched, or has no transcripts.
    """
    parts = as_splits(splits, DEFAULT_SPLITS)
    has_parts = any((root / part).is_dir() for names in parts.values() for part in names)
    is_base = has_parts or (root.name == "LibriSpeech" and not (root / "LibriSpeech").is_dir())
    base = (root if is_base else root / "LibriSpeech").absolute()
    return {
        split: [u for part in names for u in _read_part(_provide_part(base, part, download, progress))]
        for split, names in parts.items()
    }


def _provide_part(base: Path, part: str, download: bool, progress: Progress | None) -> Path:
    if (base / part).is_dir():
        return base / part
    if part not in PARTS or not download:
        there = sorted(p.name for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
        raise CorpusError(
            f"{base} has no folder {part!r}; it has {', '.join(there) or 'none'}, "
            f"and {', '.join(PARTS)} can be fetched"
        )
    resource, checksum = PARTS[part]
    urls = tuple(f"{mirror}/{resource}/{part}.tar.gz" for mirror in MIRRORS)
    return provide(Archive(urls, f"LibriSpeech/{part}", checksum), base / part, progress=progress)


def language_model(name: str, folder: Path, *, progress: Progress | None = None) -> Path:
    """The ARPA file of one of `LANGUAGE_MODELS` in the folder, downloaded if it is missing.

    Raises:
        DownloadError: it cannot be downloaded.
    """
    file, checksum = LANGUAGE_MODELS[name]
    urls = [f"{mirror}/11/{file}" for mirror in MIRRORS]
    with locked(folder / f".{file}.lock"):
        return fetch(urls, folder / file, checksum=checksum, progress=progress)


def _read_part(folder: Path) -> list[Utterance]:
    lists = sorted(folder.rglob("*.trans.txt"))
    if not lists:
        raise CorpusError(f"{folder} has no transcripts: <speaker>/<chapter>/*.trans.txt was expected")
    return [u for path in lists for u in _read_chapter(path)]


def _read_chapter(path: Path) -> list[Utterance]:
    """The utterances of a chapter, including lines without a recording and recordings without a line, so
    that packing reports both."""
    recordings = {p.stem: p for p in sorted(path.parent.iterdir()) if p.suffix.lower() in AUDIO_SUFFIXES}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not text in UTF-8: {error}") from error
    texts = [(*line.split(maxsplit=1), "")[:2] for line in lines if line.strip()]
    listed = {name for name, _ in texts}
    texts += [(name, "") for name in recordings if name not in listed]
    speaker = path.parent.parent.name
    return [
        Utterance(name, recordings.get(name, path.parent / f"{name}.flac"), 0.0, text.strip(), speaker)
        for name, text in texts
    ]
