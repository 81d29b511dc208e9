"""What a recipe that goes on from a trained model has from it: all that it does not set itself."""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from asr import bundle
from asr.errors import BundleError
from asr.jobs.console import say
from asr.jobs.recipe import Recipe
from asr.jobs.settings import to_fields
from asr.recognizer import Recognizer
from asr.text import Alphabet
from asr.training.distributed import Ranks
from asr.training.finetuning import member_of

_OWN = {"prior", "confidence_slope", "confidence_bias"}
"""Decoder settings that are measured for each model anew."""
_OPTIMISED = ("consistency", "denominator", "intermediate_weight")
T = TypeVar("T")


def inherited(recipe: Recipe, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe; what is at its default is as in the model that it goes on from, if any, and is printed.

    That is: features, encoder, decoder and normalisation of transcripts, and what `objective` keeps of how it
    was trained; for the outputs see `extended`.

    Args:
        recipe: composed of files and overrides.
        overrides: those, `key=value`, whose keys keep their values, even if these are the defaults.

    Raises:
        BundleError, ConfigError: as for `base_of`.
    """
    if (base := base_of(recipe)) is None:
        return recipe
    theirs = {
        "features": vars(base.features.config),
        "encoder": vars(base.encoder.config),
        "decoder": {k: v for k, v in vars(base.decoder).items() if k not in _OWN},
        "data": {"style": base.style},
        **base.trained_on.get("objective", {}),  # older bundles do not know it
    }
    given, changes = {o.partition("=")[0].lstrip("+~") for o in overrides}, list[str]()
    sections = {}
    for name, settings in theirs.items():
        wanted = {k: v for k, v in settings.items() if not {name, f"{name}.{k}"} & given}
        sections[name] = _filled(name, getattr(recipe, name), wanted, changes)
    if changes and Ranks().is_first:
        say(f"as in {recipe.training.start_from}: {' '.join(changes)}")
    return dataclasses.replace(recipe, **sections)


def objective(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What a model's bundle tells about its training, as plain values, to whom goes on from it.

    That is what was optimised on which variations of the recordings. The denominator has its full weight from
    the beginning, then, as the model is trained against it already.
    """
    augmentation, training = to_fields(recipe)["augmentation"], to_fields(recipe)["training"]
    usual = to_fields(Recipe())["augmentation"]
    optimised = {key: training[key] for key in _OPTIMISED if training[key]}
    begun = {"denominator_epochs": 0.0} if "denominator" in optimised else {}
    changed = {key: value for key, value in augmentation.items() if value != usual[key]}
    return {"augmentation": changed, "training": optimised | begun}


def base_of(recipe: Recipe) -> Recognizer | None:
    """The model that the recipe goes on from, of an ensemble that member; None if it begins anew.

    If its bundle is gone, and the experiment has one of its own already, that stands in for it.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
        ConfigError: it has no such member.
    """
    start, own, member = recipe.training.start_from, Path(recipe.exp) / "model", recipe.training.start_member
    if not start:
        return None
    try:
        return _loaded(start, member, _stamp(start))
    except BundleError:
        if not own.exists():
            raise
        return _loaded(str(own), member, _stamp(str(own)))


@lru_cache(maxsize=1)  # it is asked for at every stage, and a large lexicon takes a second
def _loaded(path: str, member: int, stamp: int) -> Recognizer:
    base, encoder, facts = member_of(path, member)
    return dataclasses.replace(base, encoder=encoder, trained_on=facts)


def _stamp(path: str) -> int:
    """When the bundle was written; 0 if it is not there."""
    file = bundle.file_of(bundle.located(Path(path)))
    return file.stat().st_mtime_ns if file.is_file() else 0


def keeps_language_model(recipe: Recipe) -> bool:
    """Whether the recipe has the language models of what it goes on from, if that has any."""
    return bool(recipe.training.start_from) and not recipe.lm.order and recipe.lm.arpa is None


def extended(alphabet: Alphabet, words: Iterable[str]) -> Alphabet:
    """The alphabet of a model that training goes on from, so that it can spell these normalised words, too.

    Subwords stay as they are, whatever the words, and so do the pronunciations of a lexicon file.
    """
    if alphabet.is_subword or alphabet.lexicon is not None:
        return alphabet.with_words(words)
    new = {c for word in words for c in word} - set(alphabet.symbols)
    return Alphabet([*alphabet.symbols, *sorted(new)])


def _filled(name: str, ours: T, theirs: Mapping[str, Any], changes: list[str]) -> T:
    """Our section, with theirs where ours is at its default; lists these settings as overrides."""
    usual = vars(type(ours)())
    given = {k: tuple(v) if isinstance(usual[k], tuple) else v for k, v in theirs.items() if k in usual}
    new = {k: v for k, v in given.items() if getattr(ours, k) == usual[k] and v != usual[k]}
    changes += [f"{name}.{key}={value}" for key, value in new.items()]
    return dataclasses.replace(ours, **new)  # type: ignore[type-var]
