"""Alignment, against all paths one by one and against torchaudio's."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from asr.ctc import Span, WordSpan, align, as_said, ctc_loss, forward_backward, group_words, viterbi
from asr.errors import CtcError
from asr.pronunciation import Lexicon
from asr.text import Alphabet


def random_log_probs(frames: int, outputs: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, outputs, generator=generator, dtype=torch.float64).mul(2).log_softmax(-1)


def spans_of(path: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Runs of equal outputs other than the blank: output, start, end."""
    runs, at = [], 0
    for output, run in itertools.groupby(path):
        length = len(list(run))
        if output:
            runs.append((output, at, at + length))
        at += length
    return runs


def times(spans: list[Span]) -> list[tuple[int, int, int]]:
    return [(span.token, span.start_frame, span.end_frame) for span in spans]


@pytest.mark.parametrize(("frames", "outputs"), [(1, 3), (3, 4), (5, 4), (6, 3)])
def test_the_best_of_all_paths_is_found_for_every_target(frames: int, outputs: int) -> None:
    log_probs_TV = random_log_probs(frames, outputs)
    best: dict[tuple[int, ...], tuple[float, tuple[int, ...]]] = {}
    for path in itertools.product(range(outputs), repeat=frames):
        score = sum(log_probs_TV[t, k].item() for t, k in enumerate(path))
        target = tuple(k for k, _ in itertools.groupby(path) if k)
        best[target] = max(best.get(target, (-math.inf, path)), (score, path))
    for target, (_, path) in best.items():
        assert times(align(log_probs_TV, target)) == spans_of(path)


def test_torchaudio_finds_the_same_paths() -> None:
    """Independent implementation: torchaudio.functional.forced_align 2.11."""
    from torchaudio.functional import forced_align

    generator = torch.Generator().manual_seed(1)
    for seed in range(30):
        frames, labels, outputs = (int(torch.randint(3, n, (), generator=generator)) for n in (300, 80, 20))
        targets_S = torch.randint(1, outputs, (min(labels, frames // 2),), generator=generator)
        log_probs_TV = random_log_probs(frames, outputs, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchaudio 2.11 announces that this function will move
            path_BT, _ = forced_align(log_probs_TV[None], targets_S[None])
        assert times(align(log_probs_TV, targets_S)) == spans_of(tuple(path_BT[0].tolist()))


def test_confidence_is_the_mean_occupancy_of_the_frames() -> None:
    """With labels that differ, each state is the only one that emits its label."""
    log_probs_TV, targets = random_log_probs(40, 9), [3, 1, 4, 8, 5]
    gamma_TV = forward_backward(
        log_probs_TV[None], torch.tensor([targets]), torch.tensor([40]), torch.tensor([5])
    ).occupancy_BTV[0]
    for span in align(log_probs_TV, targets):
        truth = gamma_TV[span.start_frame : span.end_frame, span.token].mean().item()
        assert span.confidence == pytest.approx(truth, abs=1e-9)


def test_confidence_is_one_where_only_one_path_is_left_and_low_where_all_are_equal() -> None:
    assert [span.confidence for span in align(torch.zeros(3, 2), [1, 1])] == pytest.approx([1.0, 1.0])
    assert align(torch.zeros(50, 2), [1])[0].confidence < 0.6


def test_equal_neighbours_are_kept_apart() -> None:
    spans = align(random_log_probs(200, 3), [1] * 40 + [2] * 40)
    assert [span.token for span in spans] == [1] * 40 + [2] * 40
    for left, right in itertools.pairwise(spans):
        assert left.end_frame + (left.token == right.token) <= right.start_frame


def test_arrays_tensors_and_lists_align_alike() -> None:
    log_probs_TV = random_log_probs(12, 5).float()
    expected = align(log_probs_TV, [1, 2, 2])
    assert align(log_probs_TV.numpy(), np.array([1, 2, 2])) == expected
    assert align(log_probs_TV.t().contiguous().t(), torch.tensor([1, 2, 2], dtype=torch.int32)) == expected
    assert align(log_probs_TV, []) == []


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_the_path_does_not_depend_on_how_many_scores_are_kept(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are few whole numbers, so that many paths are equally probable; some outputs are impossible."""
    monkeypatch.setattr(viterbi, "BLOCK", block)
    generator = np.random.default_rng(block)
    for _ in range(200):
        frames, outputs = generator.integers(1, 40), generator.integers(2, 6)
        log_probs_TV = -generator.integers(0, 4, (frames, outputs)).astype(np.float32)
        log_probs_TV[generator.random((frames, outputs)) < 0.1] = -np.inf
        labels_S = generator.integers(1, outputs, generator.integers(0, frames + 1))
        best, path_T = viterbi.best_path(log_probs_TV, labels_S)
        best_in_blocks, path_in_blocks_T = viterbi.best_path.py_func(log_probs_TV, labels_S)
        assert best_in_blocks == best
        assert np.isneginf(best) or path_in_blocks_T.tolist() == path_T.tolist()


def test_a_text_that_cannot_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(CtcError, match=r"4 labels with 2 repeats need at least 6 frames.*only 5"):
        align(torch.zeros(5, 3), [1, 1, 1, 2])


@pytest.mark.parametrize(
    ("log_probs", "targets", "message"),
    [
        (torch.zeros(1, 5, 3), [1], r"\(1, 5, 3\).*\(frames, outputs\)"),
        (torch.zeros(5, 3), [[1]], r"\(1, 1\).*\(labels,\)"),
        (torch.zeros(5, 3), [0.5], "float32 targets"),
        (torch.zeros(5, 3), [1, 3], "from 1 to 3; with 3 outputs labels are 1 to 2"),
        (torch.zeros(5, 3), ["a"], "expected log-probabilities and targets as tensors or arrays"),
        (torch.zeros(5, 3), None, "expected log-probabilities and targets as tensors or arrays"),
        (np.zeros((5, 3))[::-1], [1], "strides"),
        (torch.full((5, 3), math.nan), [1], "NaN"),
        (torch.full((5, 3), -math.inf), [1], "probability above zero"),
    ],
)
def test_impossible_input_is_refused(log_probs: Tensor, targets: list[int], message: str) -> None:
    with pytest.raises(CtcError, match=message):
        align(log_probs, targets)


WAYS = {"to": ("t u", "t ə", "t ɪ"), "and": ("æ n d", "ə n d", "n"), "it": ("ɪ t",), "a": ("ə", "e ɪ")}
PHONES = Alphabet(
    [" ", *"tuəɪænde"], lexicon=Lexicon({w: [way.split() for way in ways] for w, ways in WAYS.items()})
)


def tokens_of(ways: tuple[str, ...]) -> list[int]:
    symbols = [symbol for way in ways for symbol in (" ", *way.split())][1:]
    return [PHONES.symbols.index(symbol) + 1 for symbol in symbols]


@pytest.mark.parametrize("seed", range(10))
def test_of_several_pronunciations_the_most_probable_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = rng.choice(list(WAYS), 4)
    said = tokens_of(tuple(rng.choice(WAYS[word]) for word in words))
    scores_TV = random_log_probs(60, PHONES.size, seed) / 3
    scores_TV[:, 0] += 4  # peaks between blanks, as models write them
    for i, token in enumerate(said):
        scores_TV[3 * i + 1, token] += 6
    log_probs_TV = scores_TV.log_softmax(-1)

    def nll(tokens: list[int]) -> float:
        lengths = torch.tensor([60]), torch.tensor([len(tokens)])
        return float(ctc_loss(log_probs_TV[None], torch.tensor([tokens]), *lengths)[0])

    best = min(map(tokens_of, itertools.product(*(WAYS[word] for word in words))), key=nll)
    assert as_said(log_probs_TV, " ".join(words), PHONES) == best


def test_what_has_one_spelling_or_does_not_fit() -> None:
    log_probs_TV = random_log_probs(3, PHONES.size)
    assert as_said(log_probs_TV, "it", PHONES) == PHONES.encode("it")
    assert as_said(log_probs_TV, "", PHONES) == []
    assert as_said(log_probs_TV[:, :4], "abb", Alphabet(["a", "b"])) == [1, 2, 2]
    with pytest.raises(CtcError, match="the text is too long"):
        as_said(log_probs_TV, "it to", PHONES)


def spans(tokens: list[int]) -> list[Span]:
    """Every token in one frame of its own, the first with confidence 1, the others with 0.5."""
    return [Span(token, 2 * i, 2 * i + 1, 0.5 if i else 1.0) for i, token in enumerate(tokens)]


def test_words_stand_between_spaces() -> None:
    alphabet = Alphabet([" ", "a", "b"])
    assert group_words(spans(alphabet.encode("ab  b ")), alphabet) == [
        WordSpan("ab", 0, 3, 0.75),
        WordSpan("b", 8, 9, 0.5),
    ]
    assert group_words([], alphabet) == []


def test_every_symbol_is_a_word_where_there_are_no_spaces() -> None:
    alphabet = Alphabet(["世", "界"])
    assert [word.text for word in group_words(spans([1, 2, 2]), alphabet)] == ["世", "界", "界"]


def test_words_begin_at_the_opening_mark_of_subwords() -> None:
    alphabet = Alphabet.from_texts(["low lower newest newest lowest"] * 3, subwords=18)
    text = "lower newest low"
    words = group_words(spans(alphabet.encode(text)), alphabet)
    assert [word.text for word in words] == text.split()
    assert words[0].start_frame == 0
    assert all(left.end_frame < right.start_frame for left, right in itertools.pairwise(words))
