"""`asr prepare`: any corpus → a packed corpus, made once, and a report of everything left out."""

import hashlib
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from asr import corpus, draws, encoder
from asr.corpus.journal import READ_ERROR
from asr.corpus.manifest import Utterance, join_named
from asr.corpus.packed import PackedCorpus, PackReport, pack
from asr.errors import ConfigError, CorpusError
from asr.features import Features
from asr.files import locked, whole_file
from asr.jobs.console import counted, counting, say, warn
from asr.jobs.inheritance import base_of
from asr.jobs.recipe import DataConfig, Recipe
from asr.text import normalise

DONE = "prepared.json"


@dataclass(frozen=True)
class Prepared:
    """A prepared corpus: its folder and its splits by name."""

    folder: Path
    splits: tuple[str, ...]
    own: int
    """The first so many training utterances are of `data.source`, the rest of `data.extra`."""

    def open(self, split: str) -> PackedCorpus:
        """The packed corpus of a split.

        Raises:
            CorpusError: the corpus has no such split.
        """
        if split not in self.splits:
            raise CorpusError(f"{self.folder}: no split {split!r}; there are {', '.join(self.splits)}")
        return PackedCorpus(self.folder / split)

    def transcripts(self) -> list[str]:
        """The training transcripts of `data.source`; further sources are for the sound, not the language.

        Raises:
            CorpusError: there is no training split.
        """
        return [u.text for u in self.open("train").utterances[: self.own]]


def development_split(prepared: Prepared) -> str:
    """The split on which the best epochs and the decoder's weights are selected.

    Raises:
        CorpusError: there is none.
    """
    for split in ("dev", "test"):
        if split in prepared.splits:
            if split == "test":
                warn("there is no development split: epochs are chosen on `test`, so its WER will flatter")
            return split
    raise CorpusError(
        f"{prepared.folder}: no split `dev` to measure the epochs on; give "
        "'data.options.fractions={dev: 0.1}', or 'data.options.splits={train: …, dev: …}'"
    )


def prepare(recipe: Recipe) -> Prepared:
    """The packed corpus of the recipe; made if it does not exist, or is incomplete or damaged.

    Raises:
        ConfigError: settings of what comes later that cannot work, before anything is done.
        CorpusError: the original corpus is missing or damaged, or nothing in it can be used.
    """
    _check_settings(recipe)
    folder = packed_folder(recipe.data, rate_hz=recipe.features.rate_hz)
    with locked(folder / ".lock"):  # ranks of a run, or jobs of a sweep, share a corpus
        may_change = "folder" in (recipe.data.source, *recipe.data.extra)  # the user's own recordings
        if (folder / DONE).is_file() and not may_change:
            facts = json.loads((folder / DONE).read_text(encoding="utf-8"))
            prepared = Prepared(folder, tuple(facts["splits"]), facts.get("own", -1))
            try:
                for split in prepared.splits:
                    prepared.open(split)
                is_whole = not any(READ_ERROR in made["left_out"] for made in facts["splits"].values())
                if is_whole and prepared.own >= 0:  # −1: prepared before this was written down
                    return prepared
            except CorpusError as error:
                warn(f"{error}; this is being done now")
        return _prepare(recipe, folder)


def _check_settings(recipe: Recipe) -> None:
    """Raises ConfigError or CorpusError at the first thing that cannot work, before anything is written.

    Features and encoder are checked here, not as soon as their settings are made, as some that belong
    together may still come from another model, see `inherited`.
    """
    encoder.check(recipe.encoder, inputs=Features(recipe.features).outputs, outputs=2)
    draws.check(recipe.augmentation)
    if abs(recipe.seed) >= 1 << 62:
        raise ConfigError(f"seed={recipe.seed}: expected a whole number of at most 18 digits")
    own_root = (recipe.data.extra.get("folder") or {}).get("root")
    if own_root and not Path(own_root).exists():
        raise CorpusError(f"data.extra.folder.root={own_root}: there is no such file or folder")
    is_given = recipe.data.root or recipe.data.options.get("splits")
    if recipe.data.source == "folder" and not is_given and not _root(recipe).exists():
        raise ConfigError("data.root is not given: add data.root=FOLDER (or MANIFEST), your recordings")


def _root(recipe: Recipe) -> Path:
    return Path(recipe.data.root or Path(recipe.data.dir) / recipe.data.source)


def _prepare(recipe: Recipe, folder: Path) -> Prepared:
    root = _root(recipe)
    found = _find(recipe.data.source, root, recipe.data.options)
    own = {u.id for u in found.get("train", ())}
    for source, options in recipe.data.extra.items():
        _add(found, source, options or {}, recipe)
    _warn_of_shared_recordings(found)
    summary: dict[str, Any] = {}
    for split, utterances in found.items():
        if not utterances:
            warn(f"{split}: no utterances")
            continue
        with counting(f"packing {split}", "utterances") as progress:
            report = pack(
                utterances,
                folder / split,
                rate_hz=recipe.features.rate_hz,
                workers=recipe.data.workers,
                progress=progress,
            )
        summary[split] = _summarise(folder / split, report)
    _warn_of_strange_characters(folder, list(summary), recipe)
    count = sum(u.id in own for u in PackedCorpus(folder / "train").utterances) if "train" in summary else 0
    facts = {"source": recipe.data.source, "root": str(root), "own": count, "splits": summary}
    with whole_file(folder / DONE) as file:
        json.dump(facts, file, indent=2)
    return Prepared(folder, tuple(summary), count)


def _add(found: dict[str, list[Utterance]], source: str, options: dict[str, Any], recipe: Recipe) -> None:
    """Add the training utterances of a further source to `found`; its other splits are not used."""
    # Nothing is measured on a further folder, so no part of it is held out.
    wanted = ({"fractions": {}} if source == "folder" else {}) | options
    place = Path(wanted.pop("root", None) or Path(recipe.data.dir) / source)
    added = _find(source, place, wanted)
    for splits, whose in ((found, "data.source"), (added, f"data.extra.{source}")):
        if "train" not in splits:
            raise ConfigError(f"{whose} has the splits {', '.join(splits)}: expected train among them")
    found["train"] = join_named([("", found["train"]), (source, added.pop("train"))])
    if unused := ", ".join(f"{len(us):,} of {split}" for split, us in added.items() if us):
        say(f"data.extra.{source}: only train is added; not used are {unused}")


def _warn_of_shared_recordings(found: dict[str, list[Utterance]]) -> None:
    """Warn of splits that measure on what is trained on."""
    trained = {u.place for u in found.get("train", ()) if u.flaw is None}
    for split, utterances in found.items():
        measured = {u.place for u in utterances if u.flaw is None}
        if split != "train" and (shared := len(measured & trained)):
            warn(f"{shared} of {len(measured)} {split} recordings are in train too")


def _find(source: str, root: Path, options: dict[str, Any]) -> dict[str, list[Utterance]]:
    with counting(f"finding {source}", unit=None) as progress:
        found: dict[str, list[Utterance]] = corpus.prepare(source, root, progress=progress, **options)
    if not any(found.values()):
        raise CorpusError(f"{root}: no utterances of {source} in it")
    return found


def packed_folder(data: DataConfig, *, rate_hz: int) -> Path:
    """The folder of the packed corpus of these settings; recipes with the same corpus share it."""
    root = str(Path(data.root).resolve()) if data.root else None
    sources = [corpus.SOURCES[s] for s in (data.source, *data.extra) if s in corpus.SOURCES]
    editions = [getattr(import_module(source), "EDITION", 1) for source in sources]
    facts = json.dumps([data.source, root, data.options, data.extra, rate_hz, editions], sort_keys=True)
    return Path(data.dir) / f"{data.source}-{hashlib.sha256(facts.encode()).hexdigest()[:10]}"


def _summarise(stem: Path, report: PackReport) -> dict[str, Any]:
    packed = PackedCorpus(stem)
    hours = float(packed.lengths_samples.sum()) / packed.rate_hz / 3600
    speakers = {u.speaker for u in packed.utterances if u.speaker}
    duration = f"{hours:,.2f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    sizes = counted(len(packed), "utterance"), duration, counted(len(speakers), "speaker")
    say(f"  {stem.name}: {', '.join(sizes)}")
    if report.left_out:
        why = ", ".join(f"{count} {kind}" for kind, count in report.counts.items())
        lost = counted(len(report.left_out), "utterance")
        warn(f"{stem.name}: {lost} left out ({why}), listed in {report.path}")
    facts = {"utterances": len(packed), "hours": hours, "speakers": len(speakers)}
    return {**facts, "left_out": report.counts}


def _warn_of_strange_characters(folder: Path, splits: list[str], recipe: Recipe) -> None:
    """Warn of characters that no training transcript has and that therefore cannot be recognised."""
    data, base = recipe.data, base_of(recipe)
    if "train" not in splits or data.phones is not None or (base and base.alphabet.lexicon is not None):
        return
    known = {c for u in PackedCorpus(folder / "train").utterances for c in normalise(u.text, data.style)}
    known |= {c for symbol in base.alphabet.symbols for c in symbol} if base else set()
    for split in (s for s in splits if s != "train"):
        places, strange = [], dict[str, None]()  # in the order in which they are met
        utterances = PackedCorpus(folder / split).utterances
        for line, u in enumerate(utterances, 1):
            if new := set(normalise(u.text, data.style)) - known - {" "}:
                places.append(f"line {line}: {u.id}")
                strange |= dict.fromkeys(sorted(new))
        if strange:
            shown = ", ".join(map(repr, list(strange)[:5])) + (", …" if len(strange) > 5 else "")
            what = f"{shown} is" if len(strange) == 1 else f"{len(strange)} characters ({shown}) are"
            warn(
                f"{folder / split}.jsonl, {places[0]}: {what} in no training transcript; {split} has "
                f"such in {len(places)} of {len(utterances)} utterances"
            )
