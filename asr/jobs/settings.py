"""Settings as dataclasses, as plain nested dictionaries, and as the types that Hydra checks."""

import dataclasses
import json
import typing
from collections.abc import Iterator
from dataclasses import field
from typing import Any, Literal

from asr.errors import ConfigError


def build(cls: type, fields: dict[str, Any], *, place: str = "") -> Any:
    """An instance of the dataclass `cls` from plain nested dictionaries; values are checked against Literals.

    Raises:
        ConfigError: an unknown key or choice, with those that exist.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    values = {}
    for key, value in fields.items():
        if key not in known:
            raise ConfigError(
                f"{place}{key} does not exist; {place.rstrip('.') or 'the recipe'} has {sorted(known)}"
            )
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            value = build(typing.cast(type, hint), value, place=f"{place}{key}.")
        elif (choices := _choices(hint)) and value not in choices:
            raise ConfigError(f"{place}{key}={value}: expected one of {', '.join(str(c) for c in choices)}")
        elif isinstance(value, list) and "tuple" in str(hint):
            value = tuple(value)
        values[key] = value
    return cls(**values)


def to_fields(recipe: Any) -> dict[str, Any]:
    """The recipe as plain nested dictionaries, ready for JSON and YAML."""
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return fields


def schema(cls: type) -> type:
    """The dataclass with its Literals widened to their base type, as OmegaConf does not support Literals."""
    hints = typing.get_type_hints(cls)
    fields: list[Any] = []
    for f in dataclasses.fields(cls):
        hint = hints[f.name]
        if dataclasses.is_dataclass(hint):
            inner = schema(typing.cast(type, hint))
            fields.append((f.name, inner, field(default_factory=inner)))
            continue
        if choices := _choices(hint):
            hint = str | None if None in choices else type(choices[0])
        default: Any = {"default": f.default, "default_factory": f.default_factory}  # one of them is missing
        fields.append((f.name, hint, field(**default)))
    return dataclasses.make_dataclass(cls.__name__, fields)


def keys(cls: type, prefix: str = "") -> Iterator[str]:
    """The full keys of all settings of the dataclass `cls`, such as `encoder.width`."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from keys(typing.cast(type, hints[f.name]), f"{prefix}{f.name}.")
        else:
            yield prefix + f.name


def _choices(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    parts = [_choices(part) for part in typing.get_args(hint)]
    if not any(parts) or typing.get_origin(hint) in (list, tuple, dict):
        return ()
    return tuple(c for part in parts for c in part) + ((None,) if type(None) in typing.get_args(hint) else ())
