"""What a recipe that goes on from a trained model has from it: all that it does not set itself."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from asr.errors import BundleError
from asr.jobs.console import say
from asr.jobs.recipe import Recipe, located
from asr.recognizer import Recognizer
from asr.text import Alphabet
from asr.training.distributed import Ranks
from asr.training.finetuning import member_of

_OWN = {"prior", "confidence_slope", "confidence_bias"}
"""Decoder settings that are measured for each model anew."""
T = TypeVar("T")


def inherited(recipe: Recipe) -> Recipe:
    """The recipe; what is at its default is as in the model that it goes on from, if any, and is printed.

    That is: features, encoder, decoder, normalisation of transcripts, and whether outputs are characters,
    subwords or phones.

    Raises:
        BundleError, ConfigError: as for `base_of`.
    """
    if (base := base_of(recipe)) is None:
        return recipe
    theirs = {
        "features": vars(base.features.config),
        "encoder": vars(base.encoder.config),
        "decoder": {k: v for k, v in vars(base.decoder).items() if k not in _OWN},
        "data": {"style": base.style, **_outputs(base.alphabet)},
    }
    if _asked_outputs(recipe) != _outputs(Alphabet(["a"])):  # not the default
        theirs["data"] = {"style": base.style}
    changes: list[str] = []
    sections = {name: _filled(name, getattr(recipe, name), theirs[name], changes) for name in theirs}
    if changes and Ranks().is_first:
        say(f"as in {recipe.training.start_from}: {' '.join(changes)}")
    return dataclasses.replace(recipe, **sections)


def base_of(recipe: Recipe) -> Recognizer | None:
    """The model that the recipe goes on from, of an ensemble that member; None if it begins anew.

    If its bundle is gone, and the experiment has one of its own already, that stands in for it.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
        ConfigError: it has no such member.
    """
    start, own = recipe.training.start_from, Path(recipe.exp) / "model"
    if not start:
        return None
    try:
        base, encoder, _ = member_of(located(start), recipe.training.start_member)
    except BundleError:
        if not own.exists():
            raise
        base, encoder, _ = member_of(str(own), recipe.training.start_member)
    return dataclasses.replace(base, encoder=encoder)


def keeps_language_model(recipe: Recipe) -> bool:
    """Whether the recipe has the language models of what it goes on from, if that has any."""
    return bool(recipe.training.start_from) and not recipe.lm.order and recipe.lm.arpa is None


def extended(base: Recognizer, recipe: Recipe, words: Iterable[str]) -> Alphabet | None:
    """The model's alphabet, so that it can spell the words too; None if the recipe wants other outputs.

    Subwords stay as they are, whatever the words, and so do the pronunciations of a lexicon file.

    Args:
        base: what the recipe goes on from.
        recipe: says whether outputs are characters, subwords or phones.
        words: those of the transcripts, normalised, and perhaps further ones to be pronounced.
    """
    alphabet = base.alphabet
    if _asked_outputs(recipe) != _outputs(alphabet):
        return None
    if alphabet.is_subword or alphabet.lexicon is not None:
        return alphabet.with_words(words)
    new = {c for word in words for c in word} - set(alphabet.symbols)
    return Alphabet([*alphabet.symbols, *sorted(new)])


def _outputs(alphabet: Alphabet) -> dict[str, int | str | None]:
    """The settings of `data` that give an alphabet of this kind."""
    return {
        "subwords": len(alphabet) if alphabet.is_subword else None,
        "phones": alphabet.lexicon.language if alphabet.lexicon is not None else None,
    }


def _asked_outputs(recipe: Recipe) -> dict[str, int | str | None]:
    return {"subwords": recipe.data.subwords, "phones": recipe.data.phones}


def _filled(name: str, ours: T, theirs: Mapping[str, Any], changes: list[str]) -> T:
    """Our section, with theirs where ours is at its default; lists these settings as overrides."""
    default = type(ours)()
    new = {
        key: value
        for key, value in theirs.items()
        if getattr(ours, key) == getattr(default, key) and value != getattr(default, key)
    }
    changes += [f"{name}.{key}={value}" for key, value in new.items()]
    return dataclasses.replace(ours, **new)  # type: ignore[type-var]
