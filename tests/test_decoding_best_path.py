"""The best path, hypotheses and their words, and what decoders refuse."""

import subprocess
import sys
from itertools import groupby

import numpy as np
import pytest
import torch
from torch import Tensor

from asr.decoding import Hypothesis, greedy
from asr.errors import DecodingError
from asr.text import Alphabet

LETTERS = Alphabet([" ", "a", "b"])


def random_log_probs(*shape: int, seed: int = 0) -> Tensor:
    logits = 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return logits.log_softmax(-1)


def said(tokens: str, alphabet: Alphabet = LETTERS) -> Hypothesis:
    """A hypothesis with one frame for each token."""
    indices = tuple(alphabet.symbols.index(c) + 1 for c in tokens)
    frames = tuple((i, i + 1) for i in range(len(indices)))
    return Hypothesis(indices, frames, (0.5,) * len(indices), -1.0, -1.0)


def test_greedy_is_the_collapsed_argmax_with_the_runs_as_frames() -> None:
    log_probs_BTV = random_log_probs(5, 40, 4)
    for i, hypothesis in enumerate(greedy(log_probs_BTV, [40, 3, 0, 17, 1])):
        frames = log_probs_BTV[i][: [40, 3, 0, 17, 1][i]]
        expected, at = [], 0
        for token, run in groupby(frames.argmax(-1).tolist()):
            end = at + len(list(run))
            if token:
                expected.append((token, (at, end), frames[at:end, token].max().exp().item()))
            at = end
        assert hypothesis.tokens == tuple(token for token, _, _ in expected)
        assert hypothesis.frames == tuple(span for _, span, _ in expected)
        assert hypothesis.confidences == pytest.approx([c for _, _, c in expected], rel=1e-6)
        assert hypothesis.log_prob == pytest.approx(frames.max(-1).values.sum().item(), rel=1e-5, abs=1e-9)


def test_padding_and_batch_change_nothing() -> None:
    log_probs_BTV, lengths = random_log_probs(3, 20, 4), [20, 11, 5]
    together = greedy(log_probs_BTV, lengths)
    log_probs_BTV[1, 11:] = torch.nan
    log_probs_BTV[2, 5:] = 7.0
    assert greedy(log_probs_BTV, torch.tensor(lengths)) == together
    alone = [greedy(log_probs_BTV[i : i + 1, :n], [n])[0] for i, n in enumerate(lengths)]
    assert alone == together


def test_half_precision_is_taken() -> None:
    log_probs_BTV = random_log_probs(2, 30, 30)
    exact, half = greedy(log_probs_BTV, [30, 30]), greedy(log_probs_BTV.bfloat16(), [30, 30])
    assert [h.tokens for h in half] == [h.tokens for h in exact]


def test_no_utterances_and_no_frames_are_empty_results() -> None:
    assert greedy(torch.zeros(0, 5, 3), []) == []
    assert [h.tokens for h in greedy(torch.zeros(2, 0, 3), [0, 0])] == [(), ()]


def test_words_are_written_without_stray_spaces() -> None:
    assert said("  ab  a ").text(LETTERS) == "ab a"
    words = said("  ab  a ").words(LETTERS)
    assert [(w.text, w.start_frame, w.end_frame) for w in words] == [("ab", 2, 4), ("a", 6, 7)]
    assert said("  ").words(LETTERS) == [] and said("  ").text(LETTERS) == ""


def test_subwords_join_into_words() -> None:
    alphabet = Alphabet(["▁", "▁he", "llo", "w", "▁wo"], tokenizer="{}")
    hypothesis = Hypothesis(
        (2, 3, 1, 4, 5), tuple((i, i + 1) for i in range(5)), (0.9, 0.8, 0.7, 0.6, 1), 0, 0
    )
    assert hypothesis.text(alphabet) == "hello w wo"
    words = hypothesis.words(alphabet)
    assert [(w.text, w.start_frame, w.end_frame, w.confidence) for w in words] == [
        ("hello", 0, 2, 0.8),
        ("w", 2, 4, 0.6),
        ("wo", 4, 5, 1),
    ]


def test_in_scripts_without_spaces_every_symbol_is_a_word() -> None:
    alphabet = Alphabet(["今", "天", "好"])
    hypothesis = said("今天好", alphabet)
    assert hypothesis.text(alphabet) == "今天好"
    assert [w.text for w in hypothesis.words(alphabet)] == ["今", "天", "好"]


@pytest.mark.parametrize(
    ("log_probs", "lengths", "complaint"),
    [
        (random_log_probs(5, 3), [5], "batch axis of 1"),
        (torch.zeros(1, 5, 3, dtype=torch.int64), [5], "floating-point"),
        (random_log_probs(2, 5, 3), [5], "each of the 2 utterances"),
        (random_log_probs(1, 5, 3), [2.0], "integer"),
        (random_log_probs(1, 5, 3), [6], "length 6"),
        (random_log_probs(1, 5, 3), [-1], "length -1"),
        (random_log_probs(1, 5, 3).exp(), [5], "probabilities, not their natural logs"),
        (torch.tensor([[[1.0, -2.0, 0.5]] * 5]), [5], "log_softmax"),
        (random_log_probs(1, 5, 3) / np.log(10), [5], "ln 10"),
        (torch.full((1, 5, 3), torch.nan), [5], "frame 0 of utterance 0 holds NaN"),
    ],
)
def test_what_is_no_log_probabilities_is_refused(
    log_probs: Tensor, lengths: list[int], complaint: str
) -> None:
    with pytest.raises(DecodingError, match=complaint):
        greedy(log_probs, lengths)


def test_greedy_does_without_the_compiler() -> None:
    code = "import sys, asr.decoding; asr.decoding.greedy; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_lengths_may_be_any_integers():
    log_probs_BTV = torch.eye(3)[[0, 1, 2]].clamp(0.01, 0.98).log()[None]
    for lengths in (
        [3],
        torch.tensor([3], dtype=torch.int16),
        [torch.tensor(3)],
        np.array([3]),
        (np.int32(3),),
    ):
        assert greedy(log_probs_BTV, lengths)[0].tokens == (1, 2)
    for wrong in ([3.0], [torch.tensor(3.0)], None, [[3]], 3):
        with pytest.raises(DecodingError, match="expected one integer"):
            greedy(log_probs_BTV, wrong)
