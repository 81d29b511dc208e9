"""What must be the same for an interrupted run to continue: the settings and the data it was begun with."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

_ABSENT = object()
_SHOWN = 5


@dataclass(frozen=True)
class Identity:
    """Settings and data of a run, as plain values."""

    settings: dict[str, Any]
    train: str
    """Fingerprint of the training split."""
    dev: str
    seed: int

    def differs_in(self, begun: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
        """How the run that was begun differs from this one, in words; "" if it does not.

        A setting that has been added since, and so is missing in `begun`, counts as its default.

        >>> now = Identity({"encoder": {"width": 8, "new": 0}}, "a", "b", 1)
        >>> begun = {"settings": {"encoder": {"width": 4}}, "train": "a", "dev": "c", "seed": 1}
        >>> now.differs_in(begun, {"encoder": {"width": 2, "new": 0}})
        'other settings (encoder.width was 4, is 8) and other data'
        """
        old, new = ({"seed": f["seed"], **dict(_flat(f["settings"]))} for f in (begun, asdict(self)))
        old = {key: value for key, value in _flat(defaults) if key in new} | old
        names = [
            f"{key} was {old.get(key, 'absent')}, is {new.get(key, 'absent')}"
            for key in sorted({*old, *new})
            if old.get(key, _ABSENT) != new.get(key, _ABSENT)
        ]
        more = ", …" if len(names) > _SHOWN else ""
        found = [f"other settings ({'; '.join(names[:_SHOWN])}{more})"] if names else []
        if (begun["train"], begun["dev"]) != (self.train, self.dev):
            found.append("other data")
        return " and ".join(found)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
