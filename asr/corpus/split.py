"""Splitting utterances into training and held-out sets: as configured, or by a hash."""

import difflib
import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from asr.corpus.manifest import Utterance, name_by_path
from asr.errors import ConfigError, CorpusError

_log = logging.getLogger(__name__)

By = Literal["auto", "speaker", "utterance"]

FEWEST_SPEAKERS = 5
"""With fewer, `auto` holds out utterances, as a single speaker may be most of the corpus."""


def hold_out(
    utterances: Sequence[Utterance], fractions: Mapping[str, float], *, by: By = "auto", seed: int = 0
) -> dict[str, list[Utterance]]:
    """The utterances as `train` and the held-out splits, each in the given order.

    Which ones are held out depends only on the seed, the names of speakers or utterances, and how many
    utterances each speaker has, not on their order or on the machine. Speakers with far more than others, who
    would make a split more than twice as large as it should be, are passed over. A recording that is listed
    under several ids stays in one split.

    Args:
        utterances: to be split.
        fractions: share of the utterances for each held-out split; whole speakers may exceed it.
        by: hold out whole `speaker`s or single `utterance`s; `auto` takes speakers if all are known and there
            are at least `FEWEST_SPEAKERS`, and enough without those that are passed over. Of parts of longer
            recordings it takes whole recordings, if there are as many.
        seed: selects another choice.

    Raises:
        ConfigError: fractions that are none or leave nothing for training, or an unknown `by`.
        CorpusError: too few speakers or utterances.
    """
    is_mapping = isinstance(fractions, Mapping)
    if not is_mapping or not all(isinstance(share, int | float) for share in fractions.values()):
        raise ConfigError(f"fractions={fractions!r}: expected a share for each split, such as {{dev: 0.1}}")
    wanted = {name: share for name, share in fractions.items() if share}
    if any(not 0 <= share < 1 for share in wanted.values()) or sum(wanted.values()) >= 1:
        raise ConfigError(
            f"fractions {dict(fractions)}: expected shares of 1 that leave something for training"
        )
    if by not in ("auto", "speaker", "utterance"):
        raise ConfigError(f"by={by!r}: expected auto, speaker or utterance")
    groups = _groups(utterances, by)
    if wanted and by == "auto":
        _tell_of_unknown_speakers(utterances, groups)
    split_of = _drawn(groups, wanted, seed)
    if split_of is None:
        groups = _names(utterances) if by == "auto" else groups
        split_of = _drawn(groups, wanted, seed, passes_over=False)
    if split_of is None:
        what = ", ".join(wanted) or "any"
        raise CorpusError(
            f"{len(set(groups))} speakers or utterances are too few to hold out {what}, of which each needs "
            "one, as training does: set 'data.options.fractions={dev: 0.1}' for a development set alone, "
            "data.options.by=utterance, or name the parts with 'data.options.splits={train: …, dev: …}'"
        )
    found: dict[str, list[Utterance]] = {"train": [], **{name: [] for name in wanted}}
    for u, group in zip(utterances, groups, strict=True):
        found[split_of.get(group, "train")].append(u)
    return found


def _drawn(
    groups: Sequence[str], wanted: Mapping[str, float], seed: int, *, passes_over: bool = True
) -> dict[str, str] | None:
    """The split of each group that is held out; None if nothing is left for a split or for training.

    Args:
        groups: that of each utterance.
        wanted: the share of each split.
        seed: of the order in which groups are drawn.
        passes_over: whether groups that are much larger than others, and would make a split more than twice
            as large as its share, are left to training.
    """
    sizes = Counter(groups)
    large = 1.5 * len(groups) / max(1, len(sizes))

    def drawn(group: str) -> bytes:
        return hashlib.sha256(f"{seed}:{group}".encode(errors="surrogatepass")).digest()  # as in `asr.draws`

    left, split_of = sorted(sizes, key=drawn), dict[str, str]()
    for name, share in wanted.items():
        goal, count = max(1, round(share * len(groups))), 0
        for group in list(left):
            is_too_large = passes_over and count + sizes[group] > max(2 * goal, large)
            if count < goal and not is_too_large:
                split_of[group] = name
                count += sizes[group]
                left.remove(group)
        if not count:
            return None
    return split_of if left else None


def _groups(utterances: Sequence[Utterance], by: By) -> list[str]:
    speakers = [u.speaker for u in utterances if u.speaker is not None]
    if by == "speaker" and len(speakers) < len(utterances):
        raise CorpusError(f"{len(utterances) - len(speakers)} utterances have no speaker to hold out")
    known = len(speakers) == len(utterances)
    if by == "speaker" or (by == "auto" and known and len(set(speakers)) >= FEWEST_SPEAKERS):
        return speakers
    names = _names(utterances)
    whole = {u.audio_filepath: replace(u, id="", start_s=None) for u in utterances if u.start_s is not None}
    called = {u.audio_filepath: u.id for u in name_by_path(list(whole.values()))}
    recordings = [
        name if u.start_s is None else called[u.audio_filepath]
        for u, name in zip(utterances, names, strict=True)
    ]
    is_enough = len(set(recordings)) >= FEWEST_SPEAKERS  # the parts of one are said by the same people
    return recordings if by == "auto" and is_enough else names


def _tell_of_unknown_speakers(utterances: Sequence[Utterance], groups: Sequence[str]) -> None:
    """Say that `auto` would have taken speakers, if some of enough of them are not known."""
    unknown = sum(u.speaker is None for u in utterances)
    if unknown and len({u.speaker for u in utterances} - {None}) >= FEWEST_SPEAKERS:
        what = "utterance" if groups == _names(utterances) else "recording"
        have = "has" if unknown == 1 else "have"
        _log.warning("split by %s: %d of %d %s no speaker", what, unknown, len(utterances), have)


def _names(utterances: Sequence[Utterance]) -> list[str]:
    """The id of each utterance, or the first of all ids of the same recording, or part of one."""
    first: dict[tuple[Path, float | None], str] = {}
    for u in utterances:
        first[u.place] = min(u.id, first.get(u.place, u.id))
    return [first[u.place] for u in utterances]


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
            raise ConfigError(f"there is no {what} {name!r}; {nearest(name, known)}")


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for whoever gave an unknown name: the closest known one, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
