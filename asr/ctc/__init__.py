"""The CTC lattice: training loss, alignment, word times and confidences."""

from asr.ctc.alignment import Span, WordSpan, align, as_said, group_words
from asr.ctc.denominator import log_denominator, log_prior
from asr.ctc.lattice import Lattice, fits, forward_backward, required_frames
from asr.ctc.loss import ctc_loss

__all__ = [
    "Lattice",
    "Span",
    "WordSpan",
    "align",
    "as_said",
    "ctc_loss",
    "fits",
    "forward_backward",
    "group_words",
    "log_denominator",
    "log_prior",
    "required_frames",
]
