"""From log-probabilities to words: greedy, and beam search with a language model.

Importing this room, or decoding greedily, does not import numba.
"""

from asr.decoding.best_path import greedy
from asr.decoding.hypothesis import Hypothesis, Word

__all__ = ["Hypothesis", "Word", "greedy"]
