"""Hydra's errors in words of ours: what is wrong where, and what was probably meant."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path


def explain(error: Exception, *, known: Sequence[str], folders: Sequence[Path]) -> str:
    """What Hydra's message means, in one or two lines, with the closest key that exists.

    Args:
        error: of Hydra or OmegaConf.
        known: the keys of a recipe, with their sections, such as `encoder.width`.
        folders: where recipes are.
    """
    text = f"{error}" + (f"\n{error.__cause__}" if error.__cause__ else "")
    key = found[1] if (found := re.search(r"full_key: *(\S+)", text)) else ""
    place = _place(text, folders)
    if "Missing mandatory value" in text:
        return f"{key} has no value: add {key}=…"
    if interpolated := re.search(r"Interpolation key '([^']+)' not found", text):
        return (
            f"{key} refers to ${{{interpolated[1]}}}, a key that does not exist: "
            "expected one with its section, such as ${name} or ${encoder.width}"
        )
    match = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' not in", text)
    if match:
        wrong = key or match[1]
        if wrong not in known:
            is_plugin = wrong.startswith("hydra")
            hint = "see the plugin of the launcher or sweeper" if is_plugin else _hint(wrong, known)
            return f"{place}{': ' if place else ''}there is no key {wrong!r} in a recipe; {hint}"
    if listed := re.search(r"Error merging override (lm\.text)=([^;]*)", text.splitlines()[0]):
        return f"{listed[1]}={listed[2]}: expected a list, '{listed[1]}=[{listed[2]}]'"
    if place and "raised while composing" in (lines := text.splitlines())[0]:
        return ": ".join([place, *([key] if key else []), lines[1].strip()])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if re.search(r"Lexer|mismatched input|no viable alternative|extraneous input", text):
        lines.append("put a value with such characters in quotes: 'key=\"value\"'")
    kept = [
        line for line in lines if not line.startswith(("full_key", "object_type", "reference_type", "See "))
    ]
    return "; ".join(dict.fromkeys(kept))


def _hint(wrong: str, known: Sequence[str]) -> str:
    """What was probably meant by a key that does not exist, or what there is.

    >>> known = ["seed", "encoder.width", "decoder.beam_width", "decoder.beta"]
    >>> for wrong in ("decoder.width", "encoder.seed", "widht", "decodr.beta", "decoder.xyz", "xyz"):
    ...     print(_hint(wrong, known))
    did you mean 'decoder.beam_width'?
    did you mean 'seed'?
    did you mean 'encoder.width'?
    did you mean 'decoder.beta'?
    the keys of decoder are: beam_width, beta
    the keys are: seed, encoder.width, decoder.beam_width, decoder.beta
    """
    sections = dict.fromkeys(key.rpartition(".")[0] for key in known if "." in key)
    section, _, name = wrong.rpartition(".")
    inside: dict[str, str] = {}  # the keys and sections of that section, without one all
    for key in (*sections, *known):
        if section in ("", key.rpartition(".")[0]):
            inside.setdefault(key.rpartition(".")[2], key)
    near = [] if section else difflib.get_close_matches(wrong, sections, n=1)
    near += [inside[found] for found in difflib.get_close_matches(name, inside, n=1)]
    near += [key for key in known if key.rpartition(".")[2] == name]
    if section not in sections:
        near += difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    if section in sections:
        return f"the keys of {section} are: {', '.join(inside)}"
    return f"the keys are: {', '.join(known)}"


def _place(text: str, folders: Sequence[Path]) -> str:
    """The recipe's file in which, as Hydra's message begins, something is wrong; empty if it names none."""
    name = found[1] if (found := re.match(r"In '(recipes/[^']+)'", text)) else ""
    files = (folder.parent / f"{name}.yaml" for folder in folders)
    return next((str(file) for file in files if name and file.is_file()), "")
