"""The decoder settings that a bundle keeps, checked where they are made."""

import math
from dataclasses import dataclass
from typing import Literal

from asr.errors import ConfigError, demands_of

DecoderName = Literal["greedy", "beam", "pyctcdecode"]
WIDEST = 1 << 20  # of all beams; it takes half a gigabyte


@dataclass
class DecoderConfig:
    """Decoder settings of a bundle; those of a call take precedence."""

    name: DecoderName = "greedy"
    beam_width: int = 64
    beam_threshold: float = 10.0
    """The beam search drops prefixes so many nats below the best."""
    token_threshold: float = -6.5
    """Outputs below this natural log-probability extend no prefix. What is averaged over very different
    members or warps needs less of it, say -15 with a `beam_threshold` of 30."""
    alpha: float = 0.5
    """Weight of the language model's natural log-probability."""
    beta: float = 1.0
    """Bonus for every word."""
    hotword_weight: float = 4.0
    """Natural-log bonus of a recognised hotword."""
    prior: tuple[float, ...] = ()
    """Average probability of each output, measured when the decoder is tuned; () if unknown."""
    prior_weight: float = 0.0
    """The beam search divides the output probabilities by `prior` to this power, 0 to 1."""
    lexicon: bool = False
    """The beam search writes only words that the language model knows."""
    rescore: int = 0
    """Hypotheses of the beam that a recurrent language model judges anew (at least 2), if the bundle has one;
    0 is off. A recipe with an n-gram model then trains one, see `lm.recurrent`. Streams are not rescored."""
    rescore_share: float = 0.5
    """Its share of each word's probability, 0 to 1; the n-gram model has the rest."""
    by_member: bool = False
    """An ensemble ranks the best hypotheses of the beam by what each member gives them, not by the mean of
    their outputs: for members that write at different times. Not in streams, nor in exported models."""
    warps: tuple[float, ...] = ()
    """Vocal-tract-length factors, such as 0.9, 1 and 1.1: a recording is heard with each, as if by so many
    members; () hears it once, as it is. Not in streams, nor in exported models."""
    confidence_slope: float = 1.0
    confidence_bias: float = 0.0
    """Calibration of confidences, fitted on the development set; see `asr.scoring.calibration`."""

    def __post_init__(self) -> None:
        """Raises ConfigError at settings that cannot work, which would be noticed only after training."""
        demand = demands_of("decoder", self)
        demand(1 <= self.beam_width <= WIDEST, "beam_width", f"1 to {WIDEST} prefixes")
        for name in ("alpha", "beta", "hotword_weight"):
            demand(math.isfinite(getattr(self, name)), name, "a finite number")
        demand(
            self.beam_threshold > 0 and self.token_threshold <= 0,
            "beam_threshold token_threshold",
            "more than 0 nats below the best, and a natural log-probability",
        )
        demand(0 <= self.prior_weight <= 1, "prior_weight", "0 to 1")
        demand(self.rescore == 0 or self.rescore >= 2, "rescore", "2 or more hypotheses, or 0 (off)")
        demand(0 <= self.rescore_share <= 1, "rescore_share", "0 to 1")
        if wrong := [warp for warp in self.warps if not 0.5 <= warp <= 2]:
            raise ConfigError(f"decoder.warps: {wrong[0]}, expected factors from 0.5 to 2")
