"""The lattice and the loss, against all paths one by one, counted paths, and torch's own implementation."""

import itertools
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from asr.ctc import ctc_loss, fits, forward_backward, required_frames
from asr.ctc.loss import _Compiled, _Native, _Portable
from asr.errors import CtcError

DOORS = {"compiled": _Compiled, "native": _Native, "portable": _Portable}


def spell(path: tuple[int, ...]) -> tuple[int, ...]:
    """What a path spells: equal neighbours joined, then blanks dropped."""
    return tuple(label for label, _ in itertools.groupby(path) if label != 0)


def paths_by_target(frames: int, outputs: int) -> dict[tuple[int, ...], Tensor]:
    """The slow oracle: every path of the length, under the target that it spells."""
    found: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for path in itertools.product(range(outputs), repeat=frames):
        found.setdefault(spell(path), []).append(path)
    return {target: torch.tensor(paths) for target, paths in found.items()}


def all_targets(most: int, outputs: int) -> list[tuple[int, ...]]:
    return [t for n in range(most + 1) for t in itertools.product(range(1, outputs), repeat=n)]


def as_batch(targets: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Targets side by side, padded with an index that no alphabet has."""
    longest = max(map(len, targets))
    padded = [[*target, *[-9] * (longest - len(target))] for target in targets]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(targets), longest), torch.tensor(
        [len(target) for target in targets]
    )


def random_log_probs(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).mul(2).log_softmax(-1).to(dtype)


def random_batch(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities, targets and mixed lengths, some of them infeasible, some empty."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator)

    batch, frames, labels, outputs = (int(draw(1, n, 1)) for n in (6, 60, 25, 12))
    outputs += 1
    log_probs = random_log_probs(batch, frames, outputs, seed=seed)
    return log_probs, draw(1, outputs - 1, batch, labels), draw(1, frames, batch), draw(0, labels, batch)


@pytest.mark.parametrize("outputs", [2, 3, 4])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_lattice_is_the_sum_over_all_paths_for_every_target(
    frames: int, outputs: int, dtype: torch.dtype
) -> None:
    log_probs_TV = random_log_probs(frames, outputs, dtype=dtype)
    paths = paths_by_target(frames, outputs)
    targets = all_targets(frames, outputs)
    targets_BS, lengths_B = as_batch(targets)
    frames_B = torch.full((len(targets),), frames)
    lattice = forward_backward(log_probs_TV.expand(len(targets), -1, -1), targets_BS, frames_B, lengths_B)
    exact = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for i, target in enumerate(targets):
        occupancy_TV = torch.zeros(frames, outputs, dtype=torch.float64)
        if target in paths:
            log_p_P = log_probs_TV.double()[torch.arange(frames), paths[target]].sum(1)
            truth = log_p_P.logsumexp(0)
            for path, p in zip(paths[target], (log_p_P - truth).exp(), strict=True):
                occupancy_TV[torch.arange(frames), path] += p
            assert lattice.nll_B[i].item() == pytest.approx(-truth.item(), rel=exact, abs=exact)
        else:
            assert lattice.nll_B[i] == math.inf
        torch.testing.assert_close(lattice.occupancy_BTV[i].double(), occupancy_TV, rtol=0, atol=exact)


@pytest.mark.parametrize("door", DOORS)
def test_every_implementation_has_the_gradient_of_the_sum_over_all_paths(door: str) -> None:
    frames, outputs = 5, 3
    log_probs_TV = random_log_probs(frames, outputs).requires_grad_()
    paths = paths_by_target(frames, outputs)
    targets = all_targets(frames, outputs)
    targets_BS, lengths_B = as_batch(targets)
    log_probs_BTV = log_probs_TV.detach().repeat(len(targets), 1, 1).requires_grad_()
    inside = targets_BS.clamp_min(1) if door == "native" else targets_BS
    nll_B = DOORS[door].apply(log_probs_BTV, inside, torch.full((len(targets),), frames), lengths_B)
    weight_B = torch.linspace(0.5, 2.0, len(targets), dtype=torch.float64)
    (grad_BTV,) = torch.autograd.grad(nll_B, log_probs_BTV, weight_B)
    for i, target in enumerate(targets):
        if target in paths:
            truth = -log_probs_TV[torch.arange(frames), paths[target]].sum(1).logsumexp(0)
            (grad_TV,) = torch.autograd.grad(truth, log_probs_TV)
            assert nll_B[i].item() == pytest.approx(truth.item(), abs=1e-10)
            torch.testing.assert_close(grad_BTV[i], weight_B[i] * grad_TV, rtol=0, atol=1e-10)
        else:
            assert nll_B[i] == math.inf and grad_BTV[i].abs().max() == 0


def test_alpha_times_beta_has_the_same_total_at_every_frame() -> None:
    for seed in range(20):
        log_probs_BTV, targets_BS, frames_B, labels_B = random_batch(seed)
        lattice = forward_backward(log_probs_BTV, targets_BS, frames_B, labels_B)
        total_BT = (lattice.log_alpha + lattice.log_beta).logsumexp(2)
        for i, frames in enumerate(frames_B.tolist()):
            expected_T = (-lattice.nll_B[i]).expand(frames)
            torch.testing.assert_close(total_BT[i, :frames], expected_T, rtol=0, atol=1e-10)
            assert (total_BT[i, frames:] == -math.inf).all()


def test_two_hundred_mixed_batches_agree_with_torch() -> None:
    """Independent implementation: torch.nn.functional.ctc_loss 2.11 in float64."""
    infeasible = 0
    for seed in range(200):
        log_probs_BTV, targets_BS, frames_B, labels_B = random_batch(seed)
        logits_BTV = (log_probs_BTV + 1).requires_grad_()
        batch = logits_BTV.log_softmax(-1).transpose(0, 1), targets_BS, frames_B, labels_B
        theirs_B = torch.nn.functional.ctc_loss(*batch, reduction="none")
        finite_B = torch.nn.functional.ctc_loss(*batch, reduction="none", zero_infinity=True)
        (truth,) = torch.autograd.grad(finite_B.sum(), logits_BTV)
        fits_B = theirs_B < math.inf
        infeasible += int((~fits_B).sum())
        assert torch.equal(fits(targets_BS, frames_B, labels_B), fits_B)
        softmax_minus_gamma = (
            logits_BTV.softmax(-1)
            - forward_backward(logits_BTV.log_softmax(-1), targets_BS, frames_B, labels_B).occupancy_BTV
        )
        inside_BT = (torch.arange(log_probs_BTV.shape[1]) < frames_B[:, None]) & fits_B[:, None]
        torch.testing.assert_close(softmax_minus_gamma * inside_BT[:, :, None], truth, rtol=0, atol=1e-9)
        for dtype, exact in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
            x = logits_BTV.detach().to(dtype).requires_grad_()
            nll_B = ctc_loss(x.log_softmax(-1), targets_BS, frames_B, labels_B)
            torch.testing.assert_close(nll_B.double(), theirs_B, rtol=exact, atol=exact)
            (grad,) = torch.autograd.grad(nll_B.sum(), x)
            torch.testing.assert_close(grad.double(), truth, rtol=0, atol=exact)
    assert infeasible > 50


@pytest.mark.parametrize("door", DOORS)
def test_gradcheck_holds(door: str) -> None:
    targets_BS, frames_B, labels_B = (
        torch.tensor([[1, 1, 2], [2, 1, 1]]),
        torch.tensor([6, 4]),
        torch.tensor([3, 1]),
    )
    log_probs_BTV = random_log_probs(2, 6, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: DOORS[door].apply(x, targets_BS, frames_B, labels_B), log_probs_BTV
    )


def test_the_occupancy_of_long_peaky_utterances_is_a_distribution_in_float32_too() -> None:
    log_probs_BTV = random_log_probs(2, 1500, 30, dtype=torch.float32) * 5
    log_probs_BTV = log_probs_BTV.log_softmax(-1)
    targets_BS = torch.arange(400).reshape(2, 200) % 29 + 1
    lengths = torch.tensor([1500, 1400]), torch.tensor([200, 150])
    single = forward_backward(log_probs_BTV, targets_BS, *lengths)
    exact = forward_backward(log_probs_BTV.double(), targets_BS, *lengths)
    assert single.occupancy_BTV.dtype == single.nll_B.dtype == torch.float32
    torch.testing.assert_close(single.occupancy_BTV.double(), exact.occupancy_BTV, rtol=1e-6, atol=1e-7)
    assert float(single.occupancy_BTV.max()) <= 1
    torch.testing.assert_close(single.occupancy_BTV[0].sum(1), torch.ones(1500), rtol=0, atol=1e-5)


def test_arrays_and_lists_are_taken_as_well() -> None:
    log_probs_BTV = random_log_probs(2, 5, 4)
    lattice = forward_backward(log_probs_BTV.numpy(), [[1, 2], [3, 0]], [5, 4], [2, 1])  # type: ignore[arg-type]
    by_tensors = forward_backward(
        log_probs_BTV, torch.tensor([[1, 2], [3, 0]]), torch.tensor([5, 4]), torch.tensor([2, 1])
    )
    assert torch.equal(lattice.nll_B, by_tensors.nll_B)
    silent_B = ctc_loss(log_probs_BTV, [[], []], [5, 4], [0, 0])  # type: ignore[arg-type]
    torch.testing.assert_close(silent_B, -log_probs_BTV[..., 0].cumsum(1)[[0, 1], [4, 3]])
    with pytest.raises(CtcError, match="as tensors"):
        forward_backward(log_probs_BTV, [[1, 2], [3]], [5, 4], [2, 1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("frames", "labels", "repeats"), [(7, 3, 0), (375, 150, 0), (2000, 500, 499), (4000, 60, 10), (999, 0, 0)]
)
def test_equal_outputs_count_the_paths(frames: int, labels: int, repeats: int) -> None:
    """With r equal neighbours, C(T + S − r, 2S) paths spell S labels; under uniform outputs each has V^−T."""
    outputs = 5
    targets = [1] * (repeats + 1) if labels else []
    while len(targets) < labels:
        targets.append(targets[-1] % 4 + 1)
    n, k = frames + labels - repeats, 2 * labels
    paths = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    log_probs_BTV = torch.full((1, frames, outputs), -math.log(outputs), dtype=torch.float64)
    batch = torch.tensor([targets], dtype=torch.int64), torch.tensor([frames]), torch.tensor([labels])
    expected = pytest.approx(frames * math.log(outputs) - paths, rel=1e-10)
    assert ctc_loss(log_probs_BTV, *batch).item() == expected
    assert forward_backward(log_probs_BTV, *batch).nll_B.item() == expected


def test_probabilities_far_below_the_smallest_float_are_kept() -> None:
    """Two labels of probability e^−900 in 400 frames: all paths together, in arithmetic of our own."""
    frames, low = 400, -900.0
    log_probs_BTV = torch.full((1, frames, 2), low, dtype=torch.float64)
    log_probs_BTV[:, :, 0] = 0.0  # the blank is certain
    nll_B = ctc_loss(log_probs_BTV, torch.tensor([[1] * 100]), torch.tensor([frames]), torch.tensor([100]))
    # 100 equal labels, one frame each, no two adjacent: C(301, 100) places; longer labels cost e^−900 more
    places = math.lgamma(302) - math.lgamma(101) - math.lgamma(202)
    assert nll_B.item() == pytest.approx(100 * 900 - places, rel=1e-12)


def test_a_factor_on_a_frame_only_shifts_the_loss() -> None:
    log_probs_BTV, targets_BS, frames_B, labels_B = random_batch(3)
    shift_T = torch.linspace(-30, 30, log_probs_BTV.shape[1], dtype=torch.float64)
    moved_B = ctc_loss(log_probs_BTV + shift_T[:, None], targets_BS, frames_B, labels_B)
    shift_B = torch.stack([shift_T[:n].sum() for n in frames_B.tolist()])
    torch.testing.assert_close(
        moved_B, ctc_loss(log_probs_BTV, targets_BS, frames_B, labels_B) - shift_B, rtol=1e-9, atol=1e-9
    )


def test_padding_and_batch_order_change_nothing() -> None:
    log_probs_BTV, targets_BS, frames_B, labels_B = random_batch(11)
    x = log_probs_BTV.float().requires_grad_()
    nll_B = ctc_loss(x, targets_BS, frames_B, labels_B)
    (grad_BTV,) = torch.autograd.grad(nll_B[nll_B < math.inf].sum(), x)
    for i in range(len(nll_B)):
        frames, labels = int(frames_B[i]), int(labels_B[i])
        alone = x[i : i + 1, :frames].detach().requires_grad_()
        (nll,) = ctc_loss(alone, targets_BS[i : i + 1, :labels], frames_B[i : i + 1], labels_B[i : i + 1])
        assert torch.equal(nll, nll_B[i])
        nll.backward()
        assert alone.grad is not None and torch.equal(alone.grad[0], grad_BTV[i, :frames])
        assert grad_BTV[i, frames:].abs().sum() == 0


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
def test_what_stands_in_the_padding_does_not_matter(garbage: float) -> None:
    log_probs_BTV, targets_BS, _, _ = random_batch(5)
    frames_B = torch.full((len(log_probs_BTV),), log_probs_BTV.shape[1] // 2)
    labels_B = torch.full_like(frames_B, min(2, targets_BS.shape[1]))
    clean, dirty = log_probs_BTV.clone(), log_probs_BTV.clone()
    dirty[:, int(frames_B[0]) :] = garbage
    grads = []
    for x in (clean.requires_grad_(), dirty.requires_grad_()):
        nll_B = ctc_loss(x, targets_BS, frames_B, labels_B)
        grads.append(torch.autograd.grad(nll_B.sum(), x)[0])
    assert torch.equal(*grads)
    occupancy = forward_backward(dirty, targets_BS, frames_B, labels_B).occupancy_BTV
    assert torch.equal(occupancy, forward_backward(clean, targets_BS, frames_B, labels_B).occupancy_BTV)


def test_the_number_of_threads_changes_nothing() -> None:
    log_probs_BTV = random_log_probs(8, 50, 9, dtype=torch.float32)
    targets_BS = torch.arange(8 * 12).reshape(8, 12) % 8 + 1
    lengths = torch.full((8,), 50), torch.full((8,), 12)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            x = log_probs_BTV.clone().requires_grad_()
            nll_B = ctc_loss(x, targets_BS, *lengths)
            results.append((nll_B, *torch.autograd.grad(nll_B.sum(), x)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_a_target_fits_exactly_when_there_are_enough_frames() -> None:
    targets = all_targets(4, 3)
    targets_BS, labels_B = as_batch(targets)
    for frames in range(9):
        nll_B = ctc_loss(
            torch.full((len(targets), frames, 3), -1.0),
            targets_BS,
            torch.full_like(labels_B, frames),
            labels_B,
        )
        assert [nll < math.inf for nll in nll_B.tolist()] == [required_frames(t) <= frames for t in targets]


def test_an_infeasible_target_is_infinite_and_leaves_its_neighbours_alone() -> None:
    log_probs_BTV = random_log_probs(2, 3, 3).requires_grad_()
    nll_B = ctc_loss(
        log_probs_BTV, torch.tensor([[1, 1], [1, 2]]), torch.tensor([2, 3]), torch.tensor([2, 2])
    )
    (grad_BTV,) = torch.autograd.grad(nll_B.sum(), log_probs_BTV)
    assert nll_B[0] == math.inf and grad_BTV[0].abs().sum() == 0
    assert nll_B[1] < math.inf and grad_BTV[1].abs().sum() > 0


@pytest.mark.parametrize("door", DOORS)
def test_no_frames_spell_only_the_empty_target(door: str) -> None:
    log_probs_BTV = random_log_probs(2, 3, 3)
    nll_B = DOORS[door].apply(
        log_probs_BTV, torch.tensor([[1], [1]]), torch.tensor([0, 0]), torch.tensor([0, 1])
    )
    assert nll_B.tolist() == [0.0, math.inf]


def test_an_output_of_probability_zero_closes_its_paths() -> None:
    log_probs_BTV = torch.tensor([[[0.5, 0.5], [0.0, 1.0]]], dtype=torch.float64).log()
    batch = torch.tensor([[1]]), torch.tensor([2]), torch.tensor([1])
    assert ctc_loss(log_probs_BTV, *batch).exp().item() == pytest.approx(1.0)  # "– 1" and "1 1", half each
    lattice = forward_backward(log_probs_BTV, *batch)
    torch.testing.assert_close(lattice.occupancy_BTV, log_probs_BTV.exp())
    assert (
        ctc_loss(log_probs_BTV, torch.tensor([[1]]), torch.tensor([2]), torch.tensor([0])).item() == math.inf
    )


@pytest.mark.parametrize("door", DOORS)
def test_a_diverged_model_gives_no_number_instead_of_a_wrong_one(door: str) -> None:
    log_probs_BTV = random_log_probs(1, 4, 3)
    log_probs_BTV[0, 2] = math.nan
    log_probs_BTV.requires_grad_()
    nll_B = DOORS[door].apply(log_probs_BTV, torch.tensor([[1, 2]]), torch.tensor([4]), torch.tensor([2]))
    (grad_BTV,) = torch.autograd.grad(nll_B.sum(), log_probs_BTV)
    assert nll_B.isnan().all() and grad_BTV.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_is_float32_under_autocast_and_for_half_precision(dtype: torch.dtype) -> None:
    log_probs_BTV, targets_BS, frames_B, labels_B = random_batch(7)
    x = log_probs_BTV.to(dtype).requires_grad_()
    truth_B = ctc_loss(x.detach().double(), targets_BS, frames_B, labels_B)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nll_B = ctc_loss(x, targets_BS, frames_B, labels_B)
        lattice = forward_backward(x, targets_BS, frames_B, labels_B)
    assert nll_B.dtype == lattice.nll_B.dtype == torch.float32
    torch.testing.assert_close(nll_B.double(), truth_B, rtol=1e-6, atol=1e-6)
    nll_B[nll_B < math.inf].sum().backward()
    assert x.grad is not None and x.grad.dtype == dtype


def test_the_axes_may_lie_in_memory_in_any_order() -> None:
    log_probs_BTV, targets_BS, frames_B, labels_B = random_batch(13)
    turned = log_probs_BTV.transpose(0, 1).contiguous().transpose(0, 1)
    args = targets_BS.int().t().contiguous().t(), frames_B.int(), labels_B.int()
    assert torch.equal(ctc_loss(turned, *args), ctc_loss(log_probs_BTV, targets_BS, frames_B, labels_B))


def test_labels_and_lengths_may_be_integers_of_any_kind() -> None:
    log_probs_BTV, *integers = random_batch(13)
    small = [given.to(torch.uint16) for given in integers]
    for door in (ctc_loss, lambda *given: forward_backward(*given).nll_B):
        assert torch.equal(door(log_probs_BTV, *small), door(log_probs_BTV, *integers))


GOOD = {
    "log_probs_BTV": torch.zeros(2, 5, 4),
    "targets_BS": torch.ones(2, 3, dtype=torch.int64),
    "input_lengths_B": torch.tensor([5, 5]),
    "target_lengths_B": torch.tensor([3, 2]),
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"log_probs_BTV": torch.zeros(5, 4)}, r"\(5, 4\).*batch, frames, outputs"),
        ({"log_probs_BTV": torch.zeros(2, 5, 4).long()}, "int64.*floating point"),
        ({"targets_BS": torch.ones(6).long()}, r"\(6,\).*\(2, labels\)"),
        ({"log_probs_BTV": torch.zeros(2, 5, 0)}, r"\(2, 5, 0\).*batch, frames, outputs"),
        ({"targets_BS": torch.ones(2, 3)}, "float32.*integers"),
        ({"targets_BS": torch.ones(2, 3).to(torch.complex64)}, "complex64.*integers"),
        ({"targets_BS": torch.full((2, 3), 4)}, "from 4 to 4; with 4 outputs labels are 1 to 3"),
        ({"targets_BS": torch.zeros(2, 3).long()}, "0 is the blank"),
        ({"input_lengths_B": torch.tensor([5, 6])}, r"input lengths \[5, 6\].*0 to 5"),
        ({"input_lengths_B": torch.tensor([1.0, 0.5])}, "float32; expected 2 integers"),
        ({"target_lengths_B": torch.tensor([-1, 2])}, r"target lengths \[-1, 2\].*0 to 3"),
        ({"target_lengths_B": torch.tensor([3])}, r"\(1,\).*expected 2 integers"),
    ],
)
def test_what_does_not_belong_together_is_refused_with_the_numbers(
    wrong: dict[str, Tensor], message: str
) -> None:
    for door in (ctc_loss, forward_backward):
        with pytest.raises(CtcError, match=message):
            door(*{**GOOD, **wrong}.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("deterministic", [False, True])
def test_cuda_agrees_with_the_cpu(deterministic: bool) -> None:
    torch.use_deterministic_algorithms(deterministic)
    try:
        for seed in range(20):
            log_probs_BTV, *rest = random_batch(seed)
            results = []
            for device in ("cpu", "cuda"):
                x = log_probs_BTV.detach().to(device).requires_grad_()
                nll_B = ctc_loss(x, *(tensor.to(device) for tensor in rest))
                (grad,) = torch.autograd.grad(nll_B.sum(), x)
                results.append((nll_B.cpu(), grad.cpu()))
            torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)
    finally:
        torch.use_deterministic_algorithms(False)


def test_importing_the_room_does_not_import_numba() -> None:
    code = "import sys, asr.ctc; sys.exit('numba' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
