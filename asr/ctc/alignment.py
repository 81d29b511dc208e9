"""Forced alignment: the Viterbi path through the lattice, as spans of tokens and of words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asr.ctc.lattice import INFINITY, check_labels, required_frames
from asr.ctc.loss import ctc_loss
from asr.errors import CtcError
from asr.normalisation import composed
from asr.text import Alphabet

NEIGHBOURS = 1
"""Words before and after one whose pronunciation is chosen that are heard together with it. In 50 recordings
of LibriSpeech more of them, or choosing again, changed nothing, and none the pronunciations of 7 words."""


@dataclass(frozen=True)
class Span:
    """One token and the frames that emit it on the best path, end exclusive.

    confidence: the occupancy of the token's state in the lattice, averaged over the frames of the span, in
    [0, 1]. One means that all paths that spell the text agree on these frames. It rates the timing, not the
    text: `ctc_loss` says how well the text fits the audio.
    """

    token: int
    start_frame: int
    end_frame: int
    confidence: float


@dataclass(frozen=True)
class WordSpan:
    """One written word and its frames, end exclusive; confidence: the mean over its tokens, in [0, 1]."""

    text: str
    start_frame: int
    end_frame: int
    confidence: float


def align(log_probs_TV: Tensor | np.ndarray, targets_S: Sequence[int] | Tensor | np.ndarray) -> list[Span]:
    """The frames of each target on the most probable path that spells them, in order.

    Args:
        log_probs_TV: natural log-probabilities of one utterance, blank at 0.
        targets_S: labels 1 … V−1; none gives no spans.

    Raises:
        CtcError: wrong shapes or labels, too few frames for the labels, or a text of probability zero.

    >>> probs = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.9, 0.1], [0.2, 0.8]])
    >>> [(span.token, span.start_frame, span.end_frame) for span in align(probs.log(), [1, 1])]
    [(1, 0, 1), (1, 3, 4)]
    """
    from asr.ctc.kernels import path_occupancy

    log_probs, labels = _check(log_probs_TV, targets_S)
    if not len(labels):
        return []
    path_T = _best_path(log_probs, labels)
    gamma_T = path_occupancy(log_probs, labels, path_T)
    return [
        Span(int(labels[u]), start, end, float(gamma_T[start:end].mean())) for u, start, end in _runs(path_T)
    ]


def _best_path(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    from asr.ctc.viterbi import best_path

    best, path_T = best_path(log_probs, labels)
    if not np.isfinite(best):
        raise CtcError(
            f"no path of {len(log_probs)} frames gives the {len(labels)} labels a probability above zero: "
            "the log-probabilities are −∞ where the text needs them"
        )
    return path_T


def _runs(path_T: np.ndarray) -> list[tuple[int, int, int]]:
    """Number, start and end of each label on a path of states."""
    starts = np.flatnonzero(np.diff(path_T, prepend=-1))
    ends = np.append(starts[1:], len(path_T))
    return [
        (int(path_T[start]) >> 1, int(start), int(end))
        for start, end in zip(starts, ends, strict=True)
        if path_T[start] % 2
    ]


def as_said(log_probs_TV: Tensor, text: str, alphabet: Alphabet) -> list[int]:
    """The targets that spell the text; of a word with several pronunciations, the one that was said.

    At first all words are said as usual. Each then takes the pronunciation with which it and its neighbours
    are most probable, summed over all paths, in the frames that an alignment gives them.

    Args:
        log_probs_TV: as for `align`.
        text: normalised.
        alphabet: of characters, subwords or phones; only phones can spell a word in several ways.

    Raises:
        AlphabetError: as for `Alphabet.encode`.
        CtcError: as for `align`, with the usual pronunciations.

    >>> from asr.pronunciation import Lexicon
    >>> phones = Alphabet([" ", "t", "u", "ə"], lexicon=Lexicon({"to": [("t", "u"), ("t", "ə")]}))
    >>> probs_TV = torch.tensor([[0.1, 0.1, 0.6, 0.1, 0.1], [0.1, 0.1, 0.1, 0.2, 0.5]])
    >>> phones.encode("to"), as_said(probs_TV.log(), "to", phones)
    ([2, 3], [2, 4])
    """
    usual = alphabet.encode(text)
    if alphabet.lexicon is None:
        return usual
    index = {symbol: i for i, symbol in enumerate(alphabet.symbols, 1)}
    known = (alphabet.lexicon.words[word] for word in composed(text).split())
    ways = [[[index[phone] for phone in way] for way in pronunciations] for pronunciations in known]
    said = [tokens[0] for tokens in ways]
    if all(len(tokens) == 1 for tokens in ways):
        return usual
    log_probs, labels = _check(log_probs_TV, usual)
    spaces = [run for run in _runs(_best_path(log_probs, labels)) if labels[run[0]] == index[" "]]
    starts = [0, *(end for _, _, end in spaces)]
    ends = [*(start for _, start, _ in spaces), len(log_probs)]
    for i, tokens in enumerate(ways):
        if len(tokens) > 1:
            first, last = max(i - NEIGHBOURS, 0), min(i + NEIGHBOURS, len(ways) - 1)
            part_TV = log_probs_TV[starts[first] : ends[last]]
            tried = [[*said[first:i], way, *said[i + 1 : last + 1]] for way in tokens]
            nlls = [_nll(part_TV, _joined(words, index[" "])) for words in tried]
            said[i] = tokens[nlls.index(min(nlls))]
    return _joined(said, index[" "])


def _joined(words: Sequence[Sequence[int]], space: int) -> list[int]:
    return [token for word in words for token in (space, *word)][1:]


def _nll(log_probs_TV: Tensor, targets: Sequence[int]) -> float:
    lengths = torch.tensor([len(log_probs_TV)]), torch.tensor([len(targets)])
    return float(ctc_loss(log_probs_TV[None], torch.tensor([targets]), *lengths)[0])


def group_words(spans: Sequence[Span], alphabet: Alphabet) -> list[WordSpan]:
    """The words that the spans spell, each from its first token's start to its last token's end.

    Words lie between the alphabet's space symbols; with subwords, a word-opening unit begins one; in a script
    without spaces every symbol is one.

    >>> alphabet = Alphabet([" ", "a", "b"])
    >>> spans = [Span(2, 0, 1, 1.0), Span(3, 2, 4, 0.5), Span(1, 5, 6, 1.0), Span(2, 7, 9, 1.0)]
    >>> [(word.text, word.start_frame, word.end_frame) for word in group_words(spans, alphabet)]
    [('ab', 0, 4), ('a', 7, 9)]
    """
    words = [spans[first:end] for first, end in alphabet.word_slices([span.token for span in spans])]
    texts = [alphabet.decode(span.token for span in word) for word in words]
    return [
        WordSpan(text, word[0].start_frame, word[-1].end_frame, sum(s.confidence for s in word) / len(word))
        for text, word in zip(texts, words, strict=True)
        if text
    ]


def _check(
    log_probs_TV: Tensor | np.ndarray, targets_S: Sequence[int] | Tensor | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both as contiguous arrays, checked for whether they can be aligned."""
    try:
        log_probs, labels = (torch.as_tensor(given).detach().cpu() for given in (log_probs_TV, targets_S))
    except (TypeError, ValueError, RuntimeError) as error:
        raise CtcError(f"expected log-probabilities and targets as tensors or arrays: {error}") from error
    if not labels.numel():
        labels = labels.long()  # torch makes an empty list a float tensor
    is_number = not (labels.is_floating_point() or log_probs.is_complex() or labels.is_complex())
    if log_probs.dim() != 2 or labels.dim() != 1 or not is_number:
        raise CtcError(
            f"log-probabilities of shape {tuple(log_probs.shape)} and {labels.dtype} targets of shape "
            f"{tuple(labels.shape)}; expected one utterance, (frames, outputs), and integers, (labels,)"
        )
    labels = labels.long()
    frames, outputs = log_probs.shape
    check_labels(labels, outputs)
    if not bool((log_probs < INFINITY).all()):
        raise CtcError("log-probabilities hold NaN or +∞; a model that gives these is broken or has diverged")
    needed = required_frames(labels.tolist())
    if needed > frames:
        raise CtcError(
            f"{len(labels)} labels with {needed - len(labels)} repeats need at least {needed} frames, but "
            f"there are only {frames}: the text is too long for this recording"
        )
    dtype = torch.float64 if log_probs.dtype == torch.float64 else torch.float32
    return log_probs.to(dtype).contiguous().numpy(), labels.contiguous().numpy()
