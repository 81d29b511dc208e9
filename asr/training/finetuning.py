"""Fine-tuning: training that starts from a bundle, and frozen weights."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor

from asr.encoder import Encoder
from asr.ensemble import Ensemble
from asr.errors import ConfigError
from asr.recognizer import Recognizer, load

_FREE = ("dropout", "forget_bias", "orthogonal", "intermediate_layer", "edge_s", "trim_db")
"""Settings that may differ, as they change neither the shape of the weights taken over nor their inputs."""


def member_of(bundle: str, member: int) -> tuple[Recognizer, Encoder, dict[str, Any]]:
    """The model of a bundle; its encoder, of an ensemble one of them; and what that was trained on.

    Args:
        member: which of an ensemble, counted from 1; ignored if there is only one encoder.

    Raises:
        BundleError: there is no such bundle.
        ConfigError: no such member.
    """
    base = load(bundle)
    if not isinstance(base.encoder, Ensemble):
        return base, base.encoder, base.trained_on
    members = base.encoder.members
    if not 1 <= member <= len(members):
        raise ConfigError(
            f"training.start_from={bundle} has {len(members)} members, but no member {member}; "
            f"give members={len(members)}, or a bundle of one model, from which any number can start"
        )
    return base, cast(Encoder, members[member - 1]), base.trained_on["members"][member - 1]


def start_from(recognizer: Recognizer, bundle: str, member: int = 1) -> tuple[int, dict[str, Tensor]]:
    """How many outputs, with the blank, the new recogniser takes over from a bundle; and all such weights.

    It also takes over the feature statistics, and what the bundle was trained on. Only output-layer rows of
    symbols that the bundle lacks, and layers that it lacks, keep their new weights; those are NaN in what is
    returned.

    Raises:
        BundleError: there is no such bundle.
        ConfigError: other settings of features or encoder, with those to give; no such member; or it has
            diverged.
    """
    base, encoder, trained_on = member_of(bundle, member)
    _check_same("features", recognizer.features.config, base.features.config)
    _check_same("encoder", recognizer.encoder.config, encoder.config)
    recognizer.features.load_state_dict(base.features.state_dict())
    recognizer.trained_on["start_from"] = trained_on
    theirs = encoder.state_dict()
    if not all(weights.isfinite().all() for weights in theirs.values()):
        raise ConfigError(f"training.start_from={bundle} has weights that are not finite: it has diverged")
    rows = {symbol: i for i, symbol in enumerate(base.alphabet.symbols, 1)}
    known = [(0, 0)] + [(i, rows[s]) for i, s in enumerate(recognizer.alphabet.symbols, 1) if s in rows]
    into, out_of = (torch.tensor(column) for column in zip(*known, strict=True))
    taken = {}
    with torch.no_grad():
        for name, ours in recognizer.encoder.state_dict().items():
            if name not in theirs:
                continue
            taken[name] = theirs[name].to(ours.device)
            if name.split(".")[0] in ("output", "intermediate"):
                taken[name] = torch.full_like(ours, math.nan)
                taken[name][into.to(ours.device)] = theirs[name][out_of].to(ours.device)
            ours.copy_(torch.where(taken[name].isnan(), ours, taken[name]))
    return len(known), taken


def moved_back(tuned: Mapping[str, Tensor], taken: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The weights, this share of the way back to those that were taken over; others (NaN) as they are.

    Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models".
    """
    back = dict(tuned)
    for name, begun in taken.items():
        if begun.is_floating_point():
            mean = torch.lerp(tuned[name], begun.to(tuned[name].device), share)
            back[name] = torch.where(mean.isnan(), tuned[name], mean)
    return back


def freeze(encoder: Encoder, patterns: Sequence[str]) -> None:
    """Freeze the parameters whose names match a pattern such as `layers.0.*`.

    Raises:
        ConfigError: a pattern that matches nothing, or nothing is left to train.
    """
    named = dict(encoder.named_parameters())
    for pattern in patterns:
        matching = [p for name, p in named.items() if fnmatchcase(name, pattern)]
        if not matching:
            raise ConfigError(
                f"training.freeze: {pattern!r} matches no parameter; there are {', '.join(named)}"
            )
        for p in matching:
            p.requires_grad_(False)
    if not any(p.requires_grad for p in named.values()):
        raise ConfigError(f"training.freeze={list(patterns)} leaves nothing to be trained")


def _check_same(name: str, ours: object, theirs: object) -> None:
    mine, wanted = dataclasses.asdict(ours), dataclasses.asdict(theirs)  # type: ignore[call-overload]
    wrong = [f"{name}.{k}={v}" for k, v in wanted.items() if k not in _FREE and mine[k] != v]
    if wrong:
        raise ConfigError(
            f"training.start_from: the bundle has other {name}; add {' '.join(wrong)}, or begin anew by "
            "training.start_from=null"
        )
