"""`asr lm`: text → an n-gram model in ARPA; a model and text → perplexity."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from asr import lm
from asr.errors import ConfigError
from asr.jobs.console import output, say
from asr.text import Style, normalise


def train(texts: Sequence[str], path: Path, *, order: int, cutoffs: str = "0", style: str = "basic") -> None:
    """Train on the files (or `-`) and write ARPA, compressed if the name ends in .gz.

    Raises:
        ConfigError: cut-offs that are no numbers.
        LanguageModelError: no text, or an order or cut-offs that make no sense.
    """
    try:
        limits = tuple(int(c) for c in cutoffs.split(","))
    except ValueError as error:
        raise ConfigError(f"--cutoffs {cutoffs}: expected whole numbers with commas, as 0,0,1") from error
    model = lm.train(_sentences(texts, style), order=order, cutoffs=limits)
    model.save(path)
    say(f"{path}: order {model.order}, {len(model.vocabulary):,} words")


def perplexity(model: Path, text: str, *, style: str = "basic", as_json: bool = False) -> None:
    """Print the perplexity of a text under a model, with and without unknown words."""
    found = dataclasses.asdict(lm.load(model).perplexity(_sentences([text], style)))
    if as_json:
        output.print_json(data=found)
        return
    for name, value in found.items():
        output.print(f"{name:24} {value:,.2f}" if isinstance(value, float) else f"{name:24} {value:,}")


def _sentences(texts: Sequence[str], style: str) -> Iterator[str]:
    return (normalise(line, cast(Style, style)) for line in lm.read_sentences(texts))
