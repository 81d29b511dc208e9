"""`asr combine`: several bundles → one ensemble; for transcripts, see `asr.jobs.vote`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from asr.bundle import file_of
from asr.ensemble import Ensemble
from asr.errors import ConfigError
from asr.jobs.console import say
from asr.recognizer import Recognizer, load


def combine(models: Sequence[Recognizer]) -> Recognizer:
    """A recogniser whose log-probabilities are the mean of those of the models.

    Decoder, language model and lexicon are those of the first; the decoder should be tuned again.

    Raises:
        ConfigError: fewer than two models, or models that do not fit together.
    """
    if len(models) < 2:
        raise ConfigError(f"{len(models)} model: combining needs at least two")
    first = models[0]
    for other in models[1:]:
        if why := _difference(first, other):
            raise ConfigError(f"these models cannot be combined: {why}")
    recognizer = Recognizer.build(
        first.alphabet,
        features=first.features.config,
        encoder=[model.encoder.config for model in models],
        decoder=dataclasses.replace(first.decoder),
        style=first.style,
        trained_on=_facts(models),
        lm=first.lm,
        rescorer=first.rescorer,
    )
    recognizer.features.load_state_dict(first.features.state_dict())
    for i, model in enumerate(models):
        recognizer.encoder.get_submodule(f"members.{i}").load_state_dict(model.encoder.state_dict())
    return recognizer.eval()


def _difference(one: Recognizer, other: Recognizer) -> str:
    """Why two models cannot be combined; empty if they can."""
    if one.runtime is not None or other.runtime is not None:
        return "an exported one is among them; give the bundles"
    if any(isinstance(model.encoder, Ensemble) for model in (one, other)):
        return "one is an ensemble already; give the single models"
    same = "train them by the same recipe"
    if one.alphabet.symbols != other.alphabet.symbols or one.style != other.style:
        return f"their outputs differ; {same}"
    if one.features.config != other.features.config:
        return f"their features differ; {same}"
    theirs = other.features.state_dict()
    if not all(torch.allclose(part, theirs[name]) for name, part in one.features.state_dict().items()):
        return f"their features are scaled by other corpora; {same}"
    return ""


def _facts(models: Sequence[Recognizer]) -> dict[str, Any]:
    """What the first was trained on, and the seeds of all."""
    facts = {k: v for k, v in models[0].trained_on.items() if k not in ("dev_wer", "weights", "epochs")}
    return facts | {"members": [model.trained_on for model in models]}


def combine_bundles(bundles: Sequence[str | Path], output: Path) -> None:
    """Write the combined model to `output`.

    Raises:
        ConfigError: the output is one of the bundles.
    """
    if file_of(output, is_written=True).resolve() in {file_of(Path(path)).resolve() for path in bundles}:
        raise ConfigError(f"{output} is one of the models: give the combined one a place of its own")
    model = combine([load(path) for path in bundles])
    file = model.save(output)
    weights = sum(p.numel() for p in model.encoder.parameters())
    say(f"{file}: {len(bundles)} models, {weights / 1e6:.2f} M weights; `asr tune` fits its decoder")
