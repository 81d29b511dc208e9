"""Splitting utterances into training and held-out sets: as configured, or by a hash."""

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from asr.corpus.manifest import Utterance
from asr.errors import ConfigError, CorpusError

By = Literal["auto", "speaker", "utterance"]

FEWEST_SPEAKERS = 5
"""With fewer, `auto` holds out utterances, as a single speaker may be most of the corpus."""


def hold_out(
    utterances: Sequence[Utterance], fractions: Mapping[str, float], *, by: By = "auto", seed: int = 0
) -> dict[str, list[Utterance]]:
    """The utterances as `train` and the held-out splits, each in the given order.

    Which ones are held out depends only on the seed and the names of speakers or utterances, not on their
    order or on the machine.

    Args:
        utterances: to be split.
        fractions: share of the utterances for each held-out split; whole speakers may exceed it.
        by: hold out whole `speaker`s or single `utterance`s; `auto` takes speakers if all are known and there
            are at least `FEWEST_SPEAKERS`.
        seed: selects another choice.

    Raises:
        ConfigError: fractions that leave nothing for training, or an unknown `by`.
        CorpusError: too few speakers or utterances.
    """
    wanted = {name: share for name, share in fractions.items() if share}
    if any(not 0 <= share < 1 for share in wanted.values()) or sum(wanted.values()) >= 1:
        raise ConfigError(
            f"fractions {dict(fractions)}: expected shares of 1 that leave something for training"
        )
    if by not in ("auto", "speaker", "utterance"):
        raise ConfigError(f"by={by!r}: expected auto, speaker or utterance")
    groups = _groups(utterances, by)
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1

    def drawn(group: str) -> bytes:
        return hashlib.sha256(f"{seed}:{group}".encode(errors="surrogatepass")).digest()  # as in `asr.draws`

    order = sorted(sizes, key=drawn)
    split_of: dict[str, str] = {}
    for name, share in wanted.items():
        count = 0
        while order and count < max(1, round(share * len(utterances))):
            split_of[order[0]] = name
            count += sizes[order.pop(0)]
    if not order:
        raise CorpusError(
            f"{len(sizes)} speakers or utterances are too few to hold out {', '.join(wanted) or 'any'}; give "
            "smaller fractions, or name the splits"
        )
    found: dict[str, list[Utterance]] = {"train": [], **{name: [] for name in wanted}}
    for u, group in zip(utterances, groups, strict=True):
        found[split_of.get(group, "train")].append(u)
    return found


def _groups(utterances: Sequence[Utterance], by: By) -> list[str]:
    speakers = [u.speaker for u in utterances if u.speaker is not None]
    if by == "speaker" and len(speakers) < len(utterances):
        raise CorpusError(f"{len(utterances) - len(speakers)} utterances have no speaker to hold out")
    known = len(speakers) == len(utterances)
    if by == "speaker" or (by == "auto" and known and len(set(speakers)) >= FEWEST_SPEAKERS):
        return speakers
    return [u.id for u in utterances]


def as_names(value: Any, *, option: str) -> list[str]:
    """The names that an option gives as a list or as a single one.

    Raises:
        ConfigError: anything else.
    """
    names = [value] if isinstance(value, str | int) else value
    if not isinstance(names, list | tuple) or not all(isinstance(n, str | int) for n in names):
        raise ConfigError(f"{option}={value!r}: expected a name or a list of names")
    return [str(n) for n in names]


def as_splits(value: Any, default: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Split → names of its parts, from an option such as `{train: [a, b], dev: c}`.

    Raises:
        ConfigError: anything else.
    """
    if value is None:
        return {split: list(names) for split, names in default.items()}
    if not isinstance(value, Mapping):
        raise ConfigError(f"splits={value!r}: expected, for example, {{train: [a, b], dev: [c]}}")
    return {str(split): as_names(names, option=f"splits.{split}") for split, names in value.items()}


def check_known(names: Iterable[str], known: Iterable[str], *, what: str) -> None:
    """Check that all names are known.

    Raises:
        ConfigError: an unknown name, with the closest known one.
    """
    known = sorted(set(known))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
            raise ConfigError(f"there is no {what} {name!r}; {hint}")
