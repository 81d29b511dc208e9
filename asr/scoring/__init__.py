"""Evaluation: word errors with alignments, confidence intervals, significance tests and an HTML report.

>>> from asr.scoring import score
>>> result = score(["the cat sat"], ["the cat sat down"])
>>> result.wer == 1 / 3, result.insertions
(True, 1)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asr.scoring.alignment import AlignedUtterance, print_alignment
from asr.scoring.significance import Comparison, compare, rank
from asr.scoring.word_errors import Score, score, score_spoken

if TYPE_CHECKING:
    from asr.scoring.report import write_report as write_report
    from asr.scoring.tables import print_comparison as print_comparison
    from asr.scoring.tables import print_score as print_score
    from asr.scoring.tables import ranking_table as ranking_table

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

_HOMES = {
    "print_comparison": "asr.scoring.tables",
    "print_score": "asr.scoring.tables",
    "ranking_table": "asr.scoring.tables",
    "write_report": "asr.scoring.report",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'asr.scoring' has no attribute {name!r}")
