"""Log-probabilities → words: the best path, a prefix beam search, and pyctcdecode's.

Conventions. Log-probabilities are natural logs with axes (batch, time, outputs) and the blank at output 0; a
hypothesis counts frames from 0, ends exclusive. Language-model scores are natural logs too.

Names are loaded on first use: the best path needs no compiler, and importing it does not import numba.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asr.decoding.best_path import greedy
from asr.decoding.hypothesis import Hypothesis, Word

if TYPE_CHECKING:
    from asr.decoding.beam import BeamDecoder as BeamDecoder
    from asr.decoding.pyctc import PyctcDecoder as PyctcDecoder

_HOMES = {"BeamDecoder": "beam", "PyctcDecoder": "pyctc"}

__all__ = ["BeamDecoder", "Hypothesis", "PyctcDecoder", "Word", "greedy"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"asr.decoding.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'asr.decoding' has no attribute {name!r}")
