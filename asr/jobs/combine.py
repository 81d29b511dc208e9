"""`asr combine`: several bundles → one that hears with all of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.committee import Committee
from asr.errors import ConfigError
from asr.jobs.console import say, warn
from asr.recognizer import Recognizer, load
from asr.text import Alphabet


def combine(models: Sequence[Recognizer]) -> Recognizer:
    """A recogniser whose log-probabilities are the mean of those of the models.

    What one of them cannot write, all together cannot: outputs that others lack are taken out of a model,
    as if it had to choose among the rest. Decoder, language model and lexicon are those of the first; the
    decoder wants to be tuned anew.

    Raises:
        ConfigError: less than two models, or some that do not fit together.
    """
    if len(models) < 2:
        raise ConfigError(f"{len(models)} model: combining needs at least two")
    first = models[0]
    for other in models[1:]:
        if why := _difference(first, other):
            raise ConfigError(f"these models cannot be combined: {why}; train them by the same recipe")
    shared = {
        symbol for symbol in first.alphabet.symbols if all(symbol in m.alphabet.symbols for m in models)
    }
    alphabet = first.alphabet if len(shared) == len(first.alphabet) else first.alphabet.only(shared)
    recognizer = Recognizer.build(
        alphabet,
        features=first.features.config,
        encoder=[model.encoder.config for model in models],
        decoder=dataclasses.replace(first.decoder, prior=_prior(first, alphabet)),
        style=first.style,
        trained_on=_facts(models),
        lm=first.lm,
    )
    recognizer.features.load_state_dict(first.features.state_dict())
    for i, model in enumerate(models):
        recognizer.encoder.get_submodule(f"members.{i}").load_state_dict(_weights(model, alphabet))
    _tell_what_is_lost(models, alphabet)
    return recognizer.eval()


def _weights(model: Recognizer, alphabet: Alphabet) -> dict[str, Tensor]:
    """Those of the model's encoder, in the layers of outputs of the blank and the alphabet alone."""
    places, weights = _places(model, alphabet), model.encoder.state_dict()
    for name in weights:
        if name.split(".")[0] in ("output", "intermediate"):
            weights[name] = weights[name][places]
    return weights


def _prior(model: Recognizer, alphabet: Alphabet) -> tuple[float, ...]:
    """The shares of the blank and the alphabet in what the model gives on average, if it has been tuned."""
    shares = [model.decoder.prior[i] for i in _places(model, alphabet)] if model.decoder.prior else []
    return tuple(share / sum(shares) for share in shares)


def _places(model: Recognizer, alphabet: Alphabet) -> list[int]:
    """Outputs of the model that are the blank and the symbols of the alphabet."""
    return [0, *(model.alphabet.symbols.index(symbol) + 1 for symbol in alphabet.symbols)]


def _tell_what_is_lost(models: Sequence[Recognizer], alphabet: Alphabet) -> None:
    lost = {symbol for model in models for symbol in model.alphabet.symbols} - set(alphabet.symbols)
    if lost:
        warn(f"{len(lost)} outputs that not all of the models have are left out: {' '.join(sorted(lost))}")
    before, after = models[0].alphabet.lexicon, alphabet.lexicon
    if before is not None and after is not None and len(after) < len(before):
        warn(f"of {len(before):,} words {len(after):,} can be said in the outputs that are left")


def _difference(one: Recognizer, other: Recognizer) -> str:
    """Why two models cannot be heard as one, or nothing."""
    if one.runtime is not None or other.runtime is not None:
        return "an exported one is among them, give the bundles"
    if any(isinstance(model.encoder, Committee) for model in (one, other)):
        return "a combined one is among them, give its members"
    if one.style != other.style:
        return "their texts are normalised in different ways"
    if _unit(one) != _unit(other):
        return "their outputs are not of one kind"
    if not set(one.alphabet.symbols) & set(other.alphabet.symbols):
        return "they have no outputs in common"
    if one.features.config != other.features.config:
        return "their features differ"
    theirs = other.features.state_dict()
    if not all(torch.allclose(part, theirs[name]) for name, part in one.features.state_dict().items()):
        return "their features are scaled by other corpora"
    return ""


def _unit(model: Recognizer) -> Any:
    """What its outputs are: characters, phones, or subwords, which go together only if they are the same."""
    return model.alphabet.symbols if model.alphabet.is_subword else model.alphabet.lexicon is None


def _facts(models: Sequence[Recognizer]) -> dict[str, Any]:
    """What the first was trained on, and the seeds of all."""
    facts = {k: v for k, v in models[0].trained_on.items() if k not in ("dev_wer", "weights", "epochs")}
    return facts | {"members": [model.trained_on for model in models]}


def combine_bundles(bundles: Sequence[str | Path], output: Path) -> None:
    """Write the combined model to `output`."""
    model = combine([load(path) for path in bundles])
    file = model.save(output)
    weights = sum(p.numel() for p in model.encoder.parameters())
    say(f"{file}: {len(bundles)} models, {weights / 1e6:.2f} M weights; `asr tune` fits its decoder")
