"""The CTC lattice: training loss, alignment, word times and confidences."""

from asr.ctc.alignment import Span, WordSpan, align, group_words, spell
from asr.ctc.denominator import log_denominator, log_prior
from asr.ctc.lattice import Lattice, fits, forward_backward, required_frames
from asr.ctc.loss import ctc_loss

__all__ = [
    "Lattice",
    "Span",
    "WordSpan",
    "align",
    "ctc_loss",
    "fits",
    "forward_backward",
    "group_words",
    "log_denominator",
    "log_prior",
    "required_frames",
    "spell",
]
