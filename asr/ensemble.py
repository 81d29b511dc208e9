"""Several encoders as one: the mean of their log-probabilities, mostly more accurate than each alone."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from asr.encoder import Encoder, EncoderConfig
from asr.errors import ConfigError
from asr.subsampling import State


class Ensemble(Encoder):
    """Encoders with the same outputs and frame rate, for recognition; each is trained on its own.

    A frame's probabilities are the geometric mean of the members', normalised to sum to one.

    Args:
        configs: the shape of each member.
        inputs, outputs: as for `Encoder`.

    Raises:
        ConfigError: members that differ in `factor` or `bidirectional`.
    """

    def __init__(self, configs: Sequence[EncoderConfig], inputs: int, outputs: int) -> None:
        nn.Module.__init__(self)
        shapes = {(config.factor, config.bidirectional) for config in configs}
        if len(shapes) != 1:
            found = ", ".join(f"factor={f} bidirectional={b}" for f, b in sorted(shapes)) or "none"
            raise ConfigError(f"members of an ensemble: expected one factor and direction, found {found}")
        self.config = configs[0]
        self.members = nn.ModuleList(Encoder(config, inputs, outputs) for config in configs)

    @property
    def state_parts(self) -> int:
        """Number of tensors in a stream's state: those of all members, concatenated."""
        return sum(member.state_parts for member in self._each())

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Encoder`."""
        log_probs_BTMV, lengths_B = self.each(features_BTF, lengths_B)
        return mean(log_probs_BTMV), lengths_B

    def each(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, but the log-probabilities of every member: (batch, time, members, outputs)."""
        heard = [member(features_BTF, lengths_B) for member in self.members]
        return torch.stack([log_probs_BTV for log_probs_BTV, _ in heard], 2), heard[0][1]

    def step(self, features_BTF: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As of `Encoder`."""
        heard, after, begin = [], list[Tensor](), 0
        for member in self._each():
            end = begin + member.state_parts
            log_probs_BTV, own = member.step(features_BTF, None if state is None else state[begin:end])
            heard.append(log_probs_BTV)
            after.extend(own)
            begin = end
        return mean(torch.stack(heard, 2)), tuple(after)

    def hidden(self, features_BTF: Tensor, lengths_B: Tensor) -> Iterator[Tensor]:
        """Not available: every member has its own hidden states.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("this model is several heard as one: look into one of its members instead")

    def _each(self) -> Iterator[Encoder]:
        return (cast(Encoder, member) for member in self.members)


def mean(log_probs_XMV: Tensor) -> Tensor:
    """The geometric mean of the distributions of M members, in natural logs, (…, outputs).

    >>> mean(torch.tensor([[0.5, 0.5], [0.8, 0.2]]).log()).exp()  # the odds are √(1 · 4)
    tensor([0.6667, 0.3333])
    """
    return torch.log_softmax(log_probs_XMV.mean(-2), -1)


def as_one(log_probs: Tensor, axes: int) -> Tensor:
    """The mean of the members if there is an axis of them beside these; else what is given."""
    return mean(log_probs) if log_probs.dim() > axes else log_probs


def together(heard: Sequence[Tensor], *, is_apart: bool) -> Tensor:
    """What was heard several times, each (B, T, V), by members (B, T, M, V): apart, or the mean of all."""
    if len(heard) == 1:
        return heard[0]
    log_probs_BTMV = torch.cat([one if one.dim() == 4 else one[:, :, None] for one in heard], 2)
    return log_probs_BTMV if is_apart else mean(log_probs_BTMV)


def each(encoder: Encoder) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`Ensemble.each` of an ensemble, and any other encoder as it is."""
    return encoder.each if isinstance(encoder, Ensemble) else encoder


def build(configs: EncoderConfig | Sequence[EncoderConfig], inputs: int, outputs: int) -> Encoder:
    """An encoder of one shape, or an ensemble of several.

    Raises:
        ConfigError: a setting that cannot work.
    """
    if isinstance(configs, EncoderConfig):
        return Encoder(configs, inputs, outputs)
    return Ensemble(configs, inputs, outputs)


def describe(encoder: Encoder) -> Any:
    """The settings from which `build` makes such an encoder: a mapping, or a list of them for an ensemble."""
    if isinstance(encoder, Ensemble):
        return [dataclasses.asdict(cast(Encoder, member).config) for member in encoder.members]
    return dataclasses.asdict(encoder.config)
