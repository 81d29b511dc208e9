"""Your own recordings: a manifest, a table, or a folder of recordings with their texts.

Accepted forms, for the whole corpus or for each split:

* a JSONL manifest (see `asr.corpus.manifest`), or a CSV or TSV table (see `asr.corpus.tables`);
* a folder with a `.txt` or `.lab` of the same name beside each recording;
* a folder with lists of texts: any `.txt` whose lines are `NAME text`, NAME being a recording's file name
  with or without suffix, followed by a space, a tab or `|`.

Splits are taken from the configuration; else from files or folders named train, dev and test; else made.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr.audio import AUDIO_SUFFIXES, FOREIGN_SUFFIXES
from asr.corpus.download import Progress
from asr.corpus.manifest import Utterance, name_by_path, read_manifest
from asr.corpus.split import By, as_splits, hold_out
from asr.corpus.tables import read_table
from asr.errors import ConfigError, CorpusError

FRACTIONS = {"dev": 0.1, "test": 0.1}
SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "valid", "validation", "val"),
    "test": ("test", "eval"),
}
MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")
TEXT_SUFFIXES = (".txt", ".lab")


def prepare(
    root: Path,
    *,
    splits: Any = None,
    fractions: Mapping[str, float] | None = None,
    by: By = "auto",
    seed: int = 0,
    speaker_folders: bool = False,
    progress: Progress | None = None,
) -> dict[str, list[Utterance]]:
    """The utterances of each split; a split `dev` is made from `train` if there is none.

    Args:
        root: a manifest, a table or a folder.
        splits: what makes up each split, relative to `root`, such as `{train: a.jsonl, test: [b.csv, c]}`.
        fractions: share of the utterances to hold out for each split that has to be made.
        by, seed: how splits are made, see `asr.corpus.split.hold_out`.
        speaker_folders: the first folder below a folder of recordings names the speaker.
        progress: not used; nothing takes long here.

    Raises:
        ConfigError: splits or fractions that are impossible or ambiguous.
        CorpusError: there are no recordings or no texts.
    """
    fractions = FRACTIONS if fractions is None else fractions
    named = as_splits(splits, {}) or _named_splits(root)
    if not named:
        return hold_out(_read(root, speaker_folders), fractions, by=by, seed=seed)
    found = {
        split: [u for name in names for u in _read(root / name, speaker_folders)]
        for split, names in named.items()
    }
    if "train" in found and "dev" not in found and fractions.get("dev"):
        found |= hold_out(found["train"], {"dev": fractions["dev"]}, by=by, seed=seed)
    return found


def _named_splits(root: Path) -> dict[str, list[str]]:
    """Files or folders directly in `root` that are named like splits, if there is one for training."""
    if not root.is_dir():
        return {}
    entries = sorted(p for p in root.iterdir() if p.is_dir() or p.suffix.lower() in MANIFESTS)
    found = {
        split: [p.name for p in entries if p.stem.lower() in names] for split, names in SPLIT_NAMES.items()
    }
    for split, names in found.items():
        if len(names) > 1:
            raise ConfigError(f"{root}: {' and '.join(names)} could both be {split}; say which with splits")
    return {split: names for split, names in found.items() if names} if found["train"] else {}


def _read(path: Path, speaker_folders: bool) -> list[Utterance]:
    suffix = path.suffix.lower()
    if path.is_dir():
        tables = sorted(p for p in path.iterdir() if p.suffix.lower() in MANIFESTS)
        if len(tables) > 1:
            shown = ", ".join(p.name for p in tables)
            raise ConfigError(f"{path} holds several manifests ({shown}); say which is what with splits")
        return _read(tables[0], speaker_folders) if tables else _read_folder(path.absolute(), speaker_folders)
    if not path.exists():
        raise CorpusError(f"{path} does not exist; a manifest or a folder of recordings was expected")
    if suffix in (".csv", ".tsv"):
        return read_table(path)
    if suffix in MANIFESTS:
        return read_manifest(path)
    raise ConfigError(f"{path}: expected a folder or a file that ends in {', '.join(MANIFESTS)}")


def _read_folder(folder: Path, speaker_folders: bool) -> list[Utterance]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    recordings = [p for p in files if p.suffix.lower() in AUDIO_SUFFIXES]
    if not recordings:
        foreign = sum(p.suffix.lower() in FOREIGN_SUFFIXES for p in files)
        hint = (
            f"; its {foreign} m4a, mp4 or similar files must be converted to flac or wav" if foreign else ""
        )
        raise CorpusError(f"{folder} has no recordings ({', '.join(sorted(AUDIO_SUFFIXES))}){hint}")
    texts = _texts(recordings, [p for p in files if p.suffix.lower() in TEXT_SUFFIXES])
    if not texts:
        raise CorpusError(
            f"{folder} has {len(recordings)} recordings but no texts: expected NAME.txt beside each NAME"
            f"{recordings[0].suffix}, or a text file with lines `NAME text`"
        )
    return name_by_path(
        [
            Utterance("", p, 0.0, texts.get(p, ""), _speaker(p, folder) if speaker_folders else None)
            for p in recordings
        ]
    )


def _speaker(recording: Path, folder: Path) -> str | None:
    inside = recording.relative_to(folder).parts
    return inside[0] if len(inside) > 1 else None


def _texts(recordings: Sequence[Path], files: Sequence[Path]) -> dict[Path, str]:
    """The text of each recording that has one."""
    texts: dict[Path, str] = {}
    beside = {p.with_suffix(""): p for p in recordings}
    lists = []
    for file in files:
        if (recording := beside.get(file.with_suffix(""))) is not None:
            texts[recording] = " ".join(_content(file).split())
        else:
            lists.append(file)
    for file in lists:
        near = {p: p.relative_to(file.parent) for p in recordings if file.parent in p.parents}
        names = {name: p for p, q in near.items() for name in (q.as_posix(), q.with_suffix("").as_posix())}
        names = {q.name: p for p, q in near.items()} | {q.stem: p for p, q in near.items()} | names
        for line in _content(file).split("\n"):
            name, *rest = re.split(r"\t|\||\s+", line.strip(), maxsplit=1)
            if name in names:
                texts.setdefault(names[name], " ".join(rest).strip())
    return texts


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file} is not text in UTF-8: {error}") from error
