"""Common Voice: sentences read by volunteers in more than a hundred languages, mp3, CC0.

The publisher requires accepting terms before a download, so the archive must be downloaded by hand. The
layout is the original one: `<language>/{train,dev,test,validated}.tsv` and `<language>/clips/*.mp3`.
Source: R. Ardila et al., "Common Voice: a massively-multilingual speech corpus", LREC 2020.
"""

from pathlib import Path
from typing import Any

from asr.corpus.archive import unpack
from asr.corpus.download import Progress
from asr.corpus.manifest import Utterance
from asr.corpus.split import as_splits
from asr.corpus.tables import read_table
from asr.errors import ConfigError, CorpusError

DEFAULT_SPLITS = {"train": ["train"], "dev": ["dev"], "test": ["test"]}


def prepare(
    root: Path, *, language: str = "", splits: Any = None, progress: Progress | None = None
) -> dict[str, list[Utterance]]:
    """The utterances of each split; clips that are also in another split are removed from `train`.

    Args:
        root: folder of the language, of a release with several, or with an archive `*-<language>.tar.gz`.
        language: code such as `de`; not needed if there is only one.
        splits: tables that make up each split, such as `{train: [validated], dev: [dev], test: [test]}`.
        progress: of unpacking, in bytes.

    Raises:
        ConfigError: several languages and none chosen.
        CorpusError: no such language, or a table is missing.
    """
    folder = _find(root, language) or _unpacked(root, language, progress)
    tables = as_splits(splits, DEFAULT_SPLITS)
    found = {
        split: [u for name in names for u in read_table(folder / f"{name}.tsv")]
        for split, names in tables.items()
    }
    held_out = {u.audio_filepath for split, us in found.items() if split != "train" for u in us}
    if "train" in found:
        found["train"] = [u for u in found["train"] if u.audio_filepath not in held_out]
    return found


def _find(root: Path, language: str) -> Path | None:
    """The folder of the language: `root`, or one or two levels below."""
    folders = sorted(
        p.parent for pattern in ("clips", "*/clips", "*/*/clips") for p in root.glob(pattern) if p.is_dir()
    )
    if language and folders != [root]:
        folders = [folder for folder in folders if folder.name == language]
    if len(folders) > 1:
        shown = ", ".join(str(folder.relative_to(root)) for folder in folders)
        raise ConfigError(f"{root} has {shown}; choose with data.options.language, or a deeper data.root")
    return folders[0] if folders else None


def _unpacked(root: Path, language: str, progress: Progress | None) -> Path:
    archives = sorted(root.glob(f"*-{language}.tar.gz" if language else "*.tar.gz"))
    if len(archives) != 1:
        what = f"Common Voice in {language!r}" if language else "Common Voice"
        raise CorpusError(
            f"{root} has no {what} ({len(archives)} archives). Accept the terms and download it at "
            "https://commonvoice.mozilla.org/datasets, put the archive there, or give data.root=FOLDER"
        )
    target = archives[0].with_name(archives[0].name.removesuffix(".tar.gz"))
    if not target.is_dir():
        unpack(archives[0], target, progress=progress)
    folder = _find(target, language)
    if folder is None:
        raise CorpusError(f"{archives[0]} holds no folder with clips: it is another archive than expected")
    return folder
