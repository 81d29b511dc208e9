"""The decoder settings that a bundle keeps, checked where they are made."""

import math
from dataclasses import dataclass
from typing import Literal

from asr.errors import check_demands

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
        check_demands(
            [
                (
                    1 <= self.beam_width <= WIDEST,
                    f"decoder.beam_width={self.beam_width}: expected 1 to {WIDEST} prefixes",
                ),
                *(
                    (math.isfinite(value), f"decoder.{name}={value}: expected a finite number")
                    for name in ("alpha", "beta", "hotword_weight")
                    for value in [getattr(self, name)]
                ),
                (
                    self.beam_threshold > 0 and self.token_threshold <= 0,
                    f"decoder.beam_threshold={self.beam_threshold}, decoder.token_threshold="
                    f"{self.token_threshold}: expected more than 0 nats below the best, and a natural "
                    "log-probability",
                ),
                (
                    0 <= self.prior_weight <= 1,
                    f"decoder.prior_weight={self.prior_weight}: expected 0 to 1",
                ),
                (
                    self.rescore == 0 or self.rescore >= 2,
                    f"decoder.rescore={self.rescore}: expected 2 or more hypotheses, or 0 (off)",
                ),
                (
                    0 <= self.rescore_share <= 1,
                    f"decoder.rescore_share={self.rescore_share}: expected 0 to 1",
                ),
                *((0.5 <= w <= 2, f"decoder.warps: {w}, expected factors from 0.5 to 2") for w in self.warps),
            ]
        )
