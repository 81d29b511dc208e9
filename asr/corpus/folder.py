"""Your own recordings: a manifest, a table, or a folder of recordings with their texts.

Accepted forms, for the whole corpus or for each split:

* a JSONL manifest (see `asr.corpus.manifest`), or a CSV or TSV table (see `asr.corpus.tables`);
* a folder with a `.txt` or `.lab` of the same name beside each recording, or with times and texts of its
  parts: subtitles, a TextGrid, a label track (see `asr.captions`);
* a data folder of Kaldi (see `asr.corpus.kaldi`);
* a folder with lists of texts: any `.txt` whose lines are `NAME text`, NAME being a recording's file name
  with or without suffix, followed by a tab, `|` or a space. A text beside a recording comes before lists.

What cannot be used (formats that cannot be read, a second copy of a recording, wrong lines, texts that are
not UTF-8, that differ or whose recording is not clear) comes with its flaw, so that packing reports it.
Hidden files, and those that an open Office document (`~$…`) or a Mac's archive (`__MACOSX`) leaves, are not
looked at.

Splits are taken from the configuration; else from files or folders named train, dev and test; else made.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr import audio
from asr.audio import AUDIO_SUFFIXES, FOREIGN_SUFFIXES
from asr.captions import is_captions
from asr.corpus.download import Progress
from asr.corpus.kaldi import is_kaldi, read_kaldi
from asr.corpus.manifest import (
    Utterance,
    is_manifest,
    join_named,
    name_by_path,
    read_manifest,
    refuse_if_all_flawed,
)
from asr.corpus.split import By, as_splits, hold_out
from asr.corpus.tables import read_table
from asr.corpus.timed import choose_captions, read_parts, stem_of
from asr.errors import AudioError, ConfigError, CorpusError, ManifestError
from asr.normalisation import composed

_log = logging.getLogger(__name__)

Flaw = tuple[str, str]

FRACTIONS = {"dev": 0.1, "test": 0.1}
SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "valid", "validation", "val"),
    "test": ("test", "eval"),
}
MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")
TEXT_SUFFIXES = (".txt", ".lab")
_NO_TEXT = ("no text", "no text was found for it")
_LOSSY = (".mp3", ".ogg", ".oga", ".opus")


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
        CorpusError: there are no recordings or no texts, or none that can be used.
    """
    fractions = FRACTIONS if fractions is None else fractions
    named = as_splits(splits, {}) or _named_splits(root)
    if not named:
        return _hold_out(root, _read(root, speaker_folders), fractions, by=by, seed=seed)
    found = {
        split: join_named([(name, _read(root / name, speaker_folders)) for name in names])
        for split, names in named.items()
    }
    if "train" in found and "dev" not in found and fractions.get("dev"):
        found |= _hold_out(root, found["train"], {"dev": fractions["dev"]}, by=by, seed=seed)
    return found


def read_all(place: Path) -> list[Utterance]:
    """The utterances of a manifest, a table or a folder, whatever splits it may have; not an empty list.

    Those with a flaw are among them, unless it is a manifest: reading their samples says what is wrong.

    Raises:
        CorpusError: there are no recordings or no texts, or none that can be used.
    """
    if place.suffix.lower() in (".jsonl", ".json") and not place.is_dir():
        found = read_manifest(place)
    else:
        found = [_measured(u) for u in _read(place, speaker_folders=False)]
    if not found:
        raise CorpusError(f"{place} has no utterances: expected recordings and their texts")
    return found


def _measured(utterance: Utterance) -> Utterance:
    """The utterance with its duration, if it is not known yet and its recording can be read."""
    try:
        length_s = utterance.duration_s or audio.info(utterance.audio_filepath).duration_s
    except AudioError:
        length_s = 0.0
    return replace(utterance, duration_s=length_s)


def _hold_out(
    root: Path, utterances: Sequence[Utterance], fractions: Mapping[str, float], **settings: Any
) -> dict[str, list[Utterance]]:
    """The splits of the utterances without flaw; those with one stay in `train`, to be reported there.

    Those without text are split too, so that splits stay as they are when a text is added.
    """
    sound = [u for u in utterances if u.flaw in (None, _NO_TEXT)]
    if not sound:
        raise CorpusError(f"{root} has no utterances: expected recordings and their texts")
    found = hold_out(sound, fractions, **settings)
    found["train"] += [u for u in utterances if u.flaw not in (None, _NO_TEXT)]
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
            both = " and ".join(names)
            raise ConfigError(f"{root}: {both} could both be {split}; say which with data.options.splits")
    return {split: names for split, names in found.items() if names} if found["train"] else {}


def _read(path: Path, speaker_folders: bool) -> list[Utterance]:
    suffix = path.suffix.lower()
    if is_kaldi(path):
        return read_kaldi(path)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in MANIFESTS and not _is_hidden(p.name))
        tables = [p for p in found if _is_table(p)]
        if len(tables) > 1:
            shown = ", ".join(p.name for p in tables)
            raise ConfigError(
                f"{path} holds several manifests ({shown}); name one of them, or say which is what "
                "with data.options.splits"
            )
        if tables:
            return _read(tables[0], speaker_folders)
        try:
            return _read_folder(path.absolute(), speaker_folders)
        except CorpusError as error:
            if not found or isinstance(error, ManifestError):
                raise
            return _read(found[0], speaker_folders)  # a .json that was meant to be one: what is wrong with it
    if not path.exists():
        raise CorpusError(f"{path} does not exist; a manifest or a folder of recordings was expected")
    if suffix in (".csv", ".tsv"):
        return read_table(path)
    if suffix in MANIFESTS:
        return read_manifest(path, keep_flawed=True)
    raise ConfigError(f"{path}: expected a folder or a file that ends in {', '.join(MANIFESTS)}")


def _is_table(path: Path) -> bool:
    """Whether a file that ends like one is: whisper's words of a recording, as JSON or TSV, are none."""
    return is_manifest(path) if path.suffix.lower() == ".json" else not is_captions(path)


def _read_folder(folder: Path, speaker_folders: bool) -> list[Utterance]:
    files = sorted(_files(folder))
    recordings = [p for p in files if p.suffix.lower() in AUDIO_SUFFIXES]
    foreign = [p for p in files if p.suffix.lower() in FOREIGN_SUFFIXES]
    if not recordings:
        hint = ""
        if foreign:
            hint = f"; its {len(foreign)} m4a, mp4 or similar files must be converted to flac or wav"
        elif any((folder / name).is_file() for name in ("wav.scp", "feats.scp")):
            hint = "; a data folder of Kaldi is read if it has both wav.scp and text"
        raise CorpusError(f"{folder} has no recordings ({', '.join(sorted(AUDIO_SUFFIXES))}){hint}")
    chosen = _choose_copies(recordings)
    timed, flaws = choose_captions(files, chosen)
    of_timed = {file for several in timed.values() for file in several}
    texts_at = [p for p in files if p.suffix.lower() in TEXT_SUFFIXES and p.is_file() and p not in of_timed]
    texts, wrong = _texts(recordings, chosen, texts_at)
    flaws |= {recording: flaw for recording, flaw in wrong.items() if recording not in timed}
    flaws |= {p: ("missing", f"{p} is a link to nothing") for p in chosen.values() if not p.is_file()}
    if not texts and not timed and not flaws:
        raise CorpusError(
            f"{folder} has {len(recordings)} recordings but no texts: expected NAME.txt or NAME.srt "
            f"beside NAME{recordings[0].suffix}, or a text file with lines `NAME text`"
        )
    used = []
    for p in chosen.values():
        speaker = _speaker(p, folder) if speaker_folders else None
        flaw = flaws.get(p)
        if p in timed and flaw is None:
            used += read_parts(p, timed[p][0], speaker=speaker)
        else:
            flaw = flaw or (None if p in texts else _NO_TEXT)
            used.append(Utterance("", p, 0.0, texts.get(p, ""), speaker, flaw))
    refuse_if_all_flawed([u for u in used if u.flaw != _NO_TEXT])
    unused = [p for p in [*recordings, *foreign] if chosen.get(stem_of(p)) != p]
    return name_by_path([*used, *(_unused(p, chosen.get(stem_of(p)), folder) for p in unused)])


def _files(folder: Path) -> Iterator[Path]:
    """The files below the folder that are not hidden, and links to nothing."""
    for path in folder.rglob("*"):
        is_seen = not any(_is_hidden(name) for name in path.relative_to(folder).parts)
        if is_seen and (path.is_file() or (path.is_symlink() and not path.exists())):
            yield path


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "~$")) or name == "__MACOSX"


def _choose_copies(recordings: Sequence[Path]) -> dict[Path, Path]:
    """`stem_of` → the recording; of several copies one that is there, and has lost nothing."""
    best_last = sorted(recordings, key=lambda p: (p.is_file(), p.suffix.lower() not in _LOSSY))
    return {stem_of(p): p for p in best_last}


def _unused(path: Path, copy: Path | None, folder: Path) -> Utterance:
    name = path.relative_to(folder).as_posix()
    if copy is not None:
        return Utterance(name, path, 0.0, "", flaw=("duplicate", f"{copy.name} beside it is used"))
    why = f"{path.suffix} cannot be read; convert it first: ffmpeg -i IN{path.suffix} OUT.flac"
    return Utterance(name, path, 0.0, "", flaw=("foreign format", why))


def _speaker(recording: Path, folder: Path) -> str | None:
    inside = recording.relative_to(folder).parts
    return inside[0] if len(inside) > 1 else None


def _texts(
    recordings: Sequence[Path], chosen: Mapping[Path, Path], files: Sequence[Path]
) -> tuple[dict[Path, str], dict[Path, Flaw]]:
    """The text of each recording that has one, and what is wrong with the texts of others."""
    texts: dict[Path, str] = {}
    flaws: dict[Path, Flaw] = {}
    beside = {chosen[stem_of(file)]: file for file in files if stem_of(file) in chosen}
    lists = [file for file in files if stem_of(file) not in chosen]
    lines, unclear = _listed(lists, recordings, chosen)
    for recording, found in lines.items():
        place, text = found[0]
        other = next((place for place, another in found if another != text), None)
        try:
            texts[recording] = text.decode().strip()
        except UnicodeDecodeError as error:
            flaws[recording] = ("invalid text", f"{place} is not text in UTF-8: {error}")
        if other is not None:
            flaws[recording] = ("ambiguous", f"{recording.name} has two texts: {place}, and {other}")
    flaws |= {recording: flaw for recording, flaw in unclear.items() if recording not in lines}
    for recording, file in beside.items():
        flaws.pop(recording, None)
        try:
            texts[recording] = " ".join(_content(file).decode().split())
        except UnicodeDecodeError as error:
            flaws[recording] = ("invalid text", f"{file} is not text in UTF-8: {error}")
    return texts, flaws


def _listed(
    lists: Sequence[Path], recordings: Sequence[Path], chosen: Mapping[Path, Path]
) -> tuple[dict[Path, list[tuple[str, bytes]]], dict[Path, Flaw]]:
    """What lists say of each recording, with file and line, and of those that a name leaves open.

    A name without a text says nothing if there is a text elsewhere.
    """
    lines: dict[Path, list[tuple[str, bytes]]] = {}
    unclear: dict[Path, Flaw] = {}
    foreign = []
    below: dict[Path, list[Path]] = defaultdict(list)
    folders = {file.parent for file in lists}
    for p in recordings:
        for folder in folders.intersection(p.parents):
            below[folder].append(p)
    names_in = {folder: _names(folder, below[folder], chosen) for folder in folders}
    for file in lists:
        names, is_foreign = names_in[file.parent], True
        for number, line in enumerate(_content(file).split(b"\n"), 1):
            name, text = _name_and_text(line, names)
            place, called = f"{file}, line {number}", names.get(name, ())
            is_foreign = is_foreign and not called
            if len(called) == 1:
                lines.setdefault(called[0], []).append((place, text))
            why = f"{place}: {len(called)} recordings are called {name!r}; give its path in the list"
            unclear |= {recording: ("ambiguous", why) for recording in called if len(called) > 1}
        if is_foreign:
            foreign.append(file.name)
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        _log.warning("text files that belong to no recording: %s%s", ", ".join(foreign[:5]), more)
    said = {recording: [(place, text) for place, text in found if text] for recording, found in lines.items()}
    return {recording: said[recording] or found[:1] for recording, found in lines.items()}, unclear


def _names(folder: Path, below: Sequence[Path], chosen: Mapping[Path, Path]) -> dict[str, tuple[Path, ...]]:
    """What a list in `folder` may call the recordings below it; their paths come before their bare names."""
    near = [(p.relative_to(folder), chosen[stem_of(p)]) for p in below]
    called: dict[str, dict[Path, None]] = {}
    for q, p in near:
        for name in (q.name, q.stem):
            called.setdefault(composed(name), {})[p] = None
    names = {name: tuple(found) for name, found in called.items()}
    for q, p in near:
        for path in (q.as_posix(), q.with_suffix("").as_posix()):
            names[composed(path)] = (p,)
    return names


def _name_and_text(line: bytes, names: Collection[str]) -> tuple[str, bytes]:
    """The line's recording and text: a tab or `|` separates them, else the first blank."""
    for separator in (rb"\t", rb"\|", rb"\s+"):
        name, *rest = re.split(separator, line.strip(), maxsplit=1)
        if (found := composed(name.decode(errors="replace").strip())) in names:
            return found, b"".join(rest).strip()
    return "", b""


def _content(file: Path) -> bytes:
    return file.read_bytes().removeprefix(b"\xef\xbb\xbf")
