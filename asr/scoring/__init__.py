"""How good a recogniser is: word errors with their alignment, intervals, tests and a page to read them on.

>>> from asr.scoring import score
>>> result = score(["the cat sat"], ["the cat sat down"])
>>> result.wer == 1 / 3, result.insertions
(True, 1)
"""

from asr.scoring.alignment import AlignedUtterance, print_alignment
from asr.scoring.significance import Comparison, compare, rank
from asr.scoring.word_errors import Score, score

__all__ = ["AlignedUtterance", "Comparison", "Score", "compare", "print_alignment", "rank", "score"]
