"""Evaluation: word errors with alignments, confidence intervals, significance tests and an HTML report.

`asr.scoring.tables` prints scores and comparisons; `asr.scoring.report` writes the page.

>>> from asr.scoring import score
>>> result = score(["the cat sat"], ["the cat sat down"])
>>> result.wer == 1 / 3, result.insertions
(True, 1)
"""

from asr.scoring.alignment import AlignedUtterance, print_alignment
from asr.scoring.significance import Comparison, compare, rank
from asr.scoring.word_errors import Score, score, score_spoken

__all__ = [
    "AlignedUtterance",
    "Comparison",
    "Score",
    "compare",
    "print_alignment",
    "rank",
    "score",
    "score_spoken",
]
