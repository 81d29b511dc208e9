"""`asr train`: a recipe and its packed corpus → experiment folder with bundle, history and curves."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asr.corpus.packed import PackedCorpus
from asr.errors import ConfigError
from asr.files import whole_file
from asr.jobs.console import TrainingBar, say, warn
from asr.jobs.inheritance import base_of, extended, objective
from asr.jobs.prepare import Prepared, development_split
from asr.jobs.recipe import Recipe
from asr.jobs.settings import to_fields
from asr.lm import read_sentences
from asr.pronunciation import Lexicon, pronounce
from asr.recognizer import Recognizer
from asr.text import Alphabet, normalise
from asr.training import Trainer, checkpoint
from asr.training.history import FILE as HISTORY
from asr.training.history import plot, read
from asr.training.samples import in_batches

CURVES = "curves.png"
TUNED = "tuning.json"
"""Written once the bundle's decoder is tuned; deleted by training."""
_FREE = {"device", "checkpoint_every_s", "log_every", "give_up_after"}
"""Training settings that do not change the result and may differ when a run continues."""


def train(recipe: Recipe, prepared: Prepared, must_stop: Callable[[], bool] = bool) -> Path:
    """The folder of the bundle; an interrupted run is resumed, a finished one returns at once.

    Args:
        recipe: what to train.
        prepared: its packed corpus.
        must_stop: called at each step; returns True if another process wants this one to stop.

    Raises:
        CorpusError: no training or development split, or nothing in them to learn from.
        TrainingError: the folder holds a run of other settings.
    """
    folder = Path(recipe.exp)
    train_split, dev_split = prepared.open("train"), prepared.open(development_split(prepared))
    recognizer = _recognizer(recipe, train_split)
    trainer = Trainer(
        recognizer,
        train_split,
        dev_split,
        config=recipe.training,
        augmentation=recipe.augmentation,
        seed=recipe.seed,
        folder=folder,
        identity=_identity(recipe) | _spelling(recipe, recognizer.alphabet, train_split),
        defaults=_identity(Recipe()),
        min_s=recipe.data.min_s,
        max_s=recipe.data.max_s,
        resident=recipe.data.resident,
        must_stop=must_stop,
    )
    if trainer.progress.finished:
        say(f"training is done already: {folder / 'model'}")
        if trainer.ranks.is_first and not (folder / CURVES).is_file():  # stopped before they were drawn
            plot(read(folder / HISTORY), folder / CURVES, title=recipe.name)
        return folder / "model"
    if not trainer.ranks.is_first:
        trainer.run()
        return folder / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TUNED).unlink(missing_ok=True)
    write_recipe(recipe)
    _announce(trainer)
    with TrainingBar(recipe.training.epochs) as trainer.observe:
        trainer.run()
    plot(read(folder / HISTORY), folder / CURVES, title=recipe.name)
    facts = recognizer.trained_on
    say(f"development WER {facts['dev_wer']:.2%} ({facts['weights']}); bundle in {folder / 'model'}")
    return folder / "model"


def write_recipe(recipe: Recipe) -> None:
    """Write the recipe to `recipe.json` in the folder of the experiment."""
    with whole_file(Path(recipe.exp) / "recipe.json") as file:
        file.write(json.dumps(to_fields(recipe), indent=2) + "\n")


def _recognizer(recipe: Recipe, corpus: PackedCorpus) -> Recognizer:
    recognizer = Recognizer.build(
        _alphabet(recipe, [normalise(u.text, recipe.data.style) for u in corpus.utterances]),
        features=recipe.features,
        encoder=recipe.encoder,
        seed=recipe.seed,
        decoder=dataclasses.replace(recipe.decoder),
        style=recipe.data.style,
        trained_on={
            "recipe": recipe.name,
            "seed": recipe.seed,
            "corpus": corpus.fingerprint,
            "objective": objective(recipe),
        },
    )
    is_begun = checkpoint.last(Path(recipe.exp)).is_file()
    if recognizer.features.has_statistics and not (is_begun or recipe.training.start_from):  # which have them
        recognizer.features.fit(in_batches(corpus, range(len(corpus))))
    return recognizer


def _alphabet(recipe: Recipe, texts: list[str]) -> Alphabet:
    data, counts = recipe.data, Counter(word for text in texts for word in text.split())
    if data.phones is None:
        if data.subwords is None and (base := base_of(recipe)) is not None:
            return extended(base.alphabet, counts)
        alphabet = Alphabet.from_texts(texts, subwords=data.subwords)
        if data.subwords is not None and len(alphabet) < data.subwords:
            warn(f"data.subwords={data.subwords}: these texts have only {len(alphabet)}")
        return alphabet
    if data.subwords is not None:
        raise ConfigError(f"data.phones={data.phones} and data.subwords={data.subwords}: choose one")
    if Path(data.phones).suffix or Path(data.phones).is_file():
        return Alphabet.from_texts(texts, lexicon=Lexicon.read(data.phones, lower=data.style == "basic"))
    counts.update(
        word for line in read_sentences(recipe.lm.text) for word in normalise(line, data.style).split()
    )
    return Alphabet.from_texts(
        texts, lexicon=pronounce([word for word, _ in counts.most_common()], data.phones)
    )


def _identity(recipe: Recipe) -> dict[str, Any]:
    fields = to_fields(recipe)
    training = {k: v for k, v in fields["training"].items() if k not in _FREE}
    kept = {k: fields[k] for k in ("seed", "features", "augmentation", "encoder")}
    data = {k: fields["data"][k] for k in ("style", "subwords", "phones", "min_s", "max_s")}
    return {**kept, "training": training, "data": data}


def _spelling(recipe: Recipe, alphabet: Alphabet, corpus: PackedCorpus) -> dict[str, Any]:
    """What a lexicon that the user may edit makes of the training texts; nothing for other alphabets."""
    lexicon = alphabet.lexicon
    if lexicon is None or lexicon.language is not None:
        return {}
    words = {word for u in corpus.utterances for word in normalise(u.text, recipe.data.style).split()}
    said = {word: lexicon.first(word) for word in sorted(words) if word in lexicon}
    return {"symbols": alphabet.symbols, "said": said}


def _announce(trainer: Trainer) -> None:
    if counts := ", ".join(f"{len(ids)} {reason}" for reason, ids in trainer.train.left_out.items() if ids):
        warn(f"train: left out of training: {counts}")
    if too_long := len(trainer.dev.texts) - len(trainer.dev.measured):
        warn(f"{trainer.dev.corpus.stem.name}: left out when epochs are measured: {too_long} too long")
    outputs = trainer.recognizer.alphabet.size
    if kept := trainer.taken_over:
        new = outputs - kept
        say(f"going on from {trainer.config.start_from}: {kept} outputs are taken over, {new} are new")
    weights = sum(p.numel() for p in trainer.recognizer.encoder.parameters())
    state = trainer.progress
    resumed = f", going on at epoch {state.epoch + 1}, step {state.step}" if state.updates else ""
    say(
        f"training {weights / 1e6:.2f} M weights on {trainer.device}, "
        f"{len(trainer.train.kept):,} utterances, {outputs} outputs{resumed}"
    )
