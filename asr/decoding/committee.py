"""Ranks the hypotheses of an ensemble by what each of its members gives them.

The mean of the members' outputs, frame by frame, is worth little where they write at different times. What a
member gives a labelling does not depend on that: it is the sum over all paths.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from asr.decoding.hypothesis import Hypothesis
from asr.decoding.occurrence import Heard

CANDIDATES = 16
"""Hypotheses of the search by the mean that are ranked anew."""
NARROWEST = 4 * CANDIDATES
"""Prefixes that this search keeps at least: a narrow beam does not hold so many texts."""


def ranked(hypotheses: Sequence[Hypothesis], members: Sequence[np.ndarray]) -> list[Hypothesis]:
    """The hypotheses, their `log_prob` the mean of the exact ones by each member, best first.

    Their frames stay those by the mean of the outputs.

    Args:
        hypotheses: of one utterance; equal ones keep their order.
        members: for each its probabilities y_TV of the utterance's frames.
    """

    def weighed(hypothesis: Hypothesis) -> Hypothesis:
        if hypothesis.log_prob == -math.inf:  # what no path of the mean spells, none of a member does
            return hypothesis
        tokens = np.array(hypothesis.tokens, np.int64)
        ln = float(np.mean([Heard(y_TV).locate(tokens)[0] for y_TV in members]))
        return replace(hypothesis, log_prob=ln, score=hypothesis.score - hypothesis.log_prob + ln)

    return sorted(map(weighed, hypotheses), key=lambda h: -h.score)
