"""The theory against autograd, torch's own cells, and closed forms."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from asr import lab
from asr.errors import AsrError, CtcError
from asr.lab.memory import SYMBOLS, draw_sequences
from asr.lab.pictures import state_occupancy
from asr.text import Alphabet

WEIGHTS = ("W_in", "W", "W_out", "b", "c")


def random_net(seed: int = 0, outputs: int = 4) -> lab.Rnn:
    """Three inputs, five units; biases other than zero, so that their gradients are seen."""
    rng = np.random.default_rng(seed)
    net = lab.Rnn.random(3, 5, outputs, seed=seed)
    net.b[:], net.c[:] = rng.standard_normal(5), rng.standard_normal(outputs)
    return net


def autograd(
    net: lab.Rnn, x_TI: np.ndarray, cost: Callable[[Tensor], Tensor], *, cut_every: int | None = None
) -> tuple[float, dict[str, Tensor]]:
    """The independent gradient: torch's, through the same recurrence, z detached at every cut."""
    w = {name: torch.from_numpy(getattr(net, name)).clone().requires_grad_() for name in WEIGHTS}
    z, v = torch.zeros(5, dtype=torch.float64), []
    for t, x in enumerate(torch.from_numpy(x_TI)):
        if cut_every and t % cut_every == 0:
            z = z.detach()
        z = torch.tanh(w["W_in"] @ x + w["W"] @ z + w["b"])
        v.append(w["W_out"] @ z + w["c"])
    value = cost(torch.stack(v))
    return value.item(), dict(zip(w, torch.autograd.grad(value, list(w.values())), strict=True))


def assert_same(ours: tuple[float, lab.Rnn], truth: tuple[float, dict[str, Tensor]]) -> None:
    assert ours[0] == pytest.approx(truth[0], abs=1e-10)
    for name in WEIGHTS:
        np.testing.assert_allclose(
            getattr(ours[1], name), truth[1][name].numpy(), rtol=0, atol=1e-10, err_msg=name
        )


def squared(d_TK: np.ndarray) -> Callable[[Tensor], Tensor]:
    return lambda v_TK: 0.5 * (v_TK - torch.from_numpy(d_TK)).square().sum()


def test_the_recurrence_is_that_of_torchs_rnn() -> None:
    net, x_TI = random_net(), np.random.default_rng(1).standard_normal((30, 3))
    theirs = nn.RNN(3, 5, dtype=torch.float64)
    with torch.no_grad():
        for name, value in zip(
            ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"), (net.W_in, net.W, net.b), strict=True
        ):
            theirs.get_parameter(name).copy_(torch.from_numpy(value))
        theirs.get_parameter("bias_hh_l0").zero_()
        z_TH = theirs(torch.from_numpy(x_TI))[0].numpy()
    activity = lab.rnn_forward(net, x_TI)
    np.testing.assert_allclose(activity.z_TH, z_TH, rtol=0, atol=1e-14)
    np.testing.assert_allclose(activity.v_TK, z_TH @ net.W_out.T + net.c, rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.tanh(activity.u_TH), activity.z_TH, rtol=0, atol=0)


@pytest.mark.parametrize("frames", [1, 2, 17, 60])
def test_bptt_rtrl_and_autograd_agree_on_regression(frames: int) -> None:
    rng = np.random.default_rng(frames)
    net, x_TI, d_TK = random_net(), rng.standard_normal((frames, 3)), rng.standard_normal((frames, 4))
    truth = autograd(net, x_TI, squared(d_TK))
    for gradient in (lab.bptt, lab.rtrl):
        assert_same(gradient(net, x_TI, lab.SquaredError(d_TK)), truth)


@pytest.mark.parametrize("labels", [[], [2], [1, 1, 3], [3, 2, 1, 1, 1]])
def test_bptt_rtrl_and_autograd_agree_on_ctc(labels: list[int]) -> None:
    """Independent cost: torch.nn.functional.ctc_loss in float64."""
    net, x_TI = random_net(), np.random.default_rng(0).standard_normal((20, 3))

    def cost(v_TK: Tensor) -> Tensor:
        sizes = torch.tensor([20]), torch.tensor([len(labels)])
        targets_BS = torch.tensor([labels], dtype=torch.int64)
        return nn.functional.ctc_loss(v_TK.log_softmax(-1)[:, None], targets_BS, *sizes, reduction="sum")

    truth = autograd(net, x_TI, cost)
    for gradient in (lab.bptt, lab.rtrl):
        assert_same(gradient(net, x_TI, lab.CtcCost(labels)), truth)


@pytest.mark.parametrize("cut_every", [1, 4, 7, 25, 99])
def test_truncated_bptt_is_autograd_with_the_state_cut_loose(cut_every: int) -> None:
    rng = np.random.default_rng(2)
    net, x_TI, d_TK = random_net(), rng.standard_normal((25, 3)), rng.standard_normal((25, 4))
    truth = autograd(net, x_TI, squared(d_TK), cut_every=cut_every)
    assert_same(lab.bptt(net, x_TI, lab.SquaredError(d_TK), truncate=cut_every), truth)


def test_labels_that_do_not_fit_have_no_gradient_but_an_error() -> None:
    with pytest.raises(CtcError, match=r"2 labels need at least 3 frames, but there are only 2"):
        lab.bptt(random_net(), np.zeros((2, 3)), lab.CtcCost([1, 1]))


def test_memory_grows_with_the_sequence_in_bptt_and_not_in_rtrl() -> None:
    bytes_of = {
        (e.method, e.frames): e.peak_bytes for e in lab.measure_gradients((200, 2000), width=8, repeats=1)
    }
    assert bytes_of["BPTT", 2000] > 7 * bytes_of["BPTT", 200]
    assert bytes_of["RTRL", 2000] < 1.1 * bytes_of["RTRL", 200]
    assert bytes_of["RTRL", 2000] < bytes_of["BPTT", 2000]


def test_the_verdict_names_the_winner_of_time_and_of_memory() -> None:
    expenses = [
        lab.Expense("BPTT", 10, 1.0, 100),
        lab.Expense("RTRL", 10, 3.0, 500),
        lab.Expense("BPTT", 1000, 100.0, 10_000),
        lab.Expense("RTRL", 1000, 400.0, 500),
    ]
    assert lab.verdict(expenses) == (
        "BPTT is faster at every length, 3.0 to 4.0 times. "
        "RTRL needs less memory from 1000 frames on, at 1000 frames 20 times less."
    )
    assert "BPTT needs less memory up to 10 frames" in lab.verdict(expenses[:2])


@pytest.mark.parametrize("radius", [0.8, 1.0, 1.2])
def test_without_input_the_gradient_goes_with_the_power_of_the_spectral_radius(radius: float) -> None:
    """At z = 0, f′ = 1; for W = ρ Q with Q orthogonal the norm of W^k is exactly ρ^k."""
    cell = lab.make_cell("rnn", 6)
    Q, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    cell.weight_hh.data = radius * Q
    flow = lab.gradient_flow(cell, torch.zeros(50, 1, dtype=torch.float64), max_lag=40)
    np.testing.assert_allclose(flow.norms, radius ** np.arange(41), rtol=1e-10)
    assert flow.half_life_frames == (
        pytest.approx(math.log(2) / -math.log(radius)) if radius < 1 else math.inf
    )


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_the_flow_is_the_norm_of_the_whole_jacobian(kind: str) -> None:
    """Oracle: torch.autograd.functional.jacobian of the last output by the state k frames before."""
    frames, width = 9, 5
    cell = lab.make_cell(kind, width, inputs=2, seed=3, forget_bias=1.0)
    x_TI = torch.randn(frames, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flow = lab.gradient_flow(cell, x_TI, max_lag=6)

    def run(state: Tensor, start: int, end: int) -> Tensor:
        """The state [z c] after frames start … end − 1."""
        z, c = state[:width], state[width:]
        for x in x_TI[start:end]:
            if kind == "lstm":
                z, c = cell(x[None], (z[None], c[None]))
                z, c = z[0], c[0]
            else:
                z = cell(x[None], z[None])[0]
        return torch.cat([z, c])

    zero = torch.zeros(2 * width if kind == "lstm" else width, dtype=torch.float64)
    for k in range(1, 7):
        state = run(zero, 0, frames - k).detach()
        J = torch.autograd.functional.jacobian(
            lambda s, k=k: run(s, frames - k, frames)[:width],
            state,
        )
        assert flow.norms[k] == pytest.approx(float(J.square().sum()) ** 0.5 / width**0.5)
    assert flow.norms[0] == 1.0


def test_gradients_vanish_explode_and_are_carried_as_the_theory_says() -> None:
    flows = {flow.name: flow for flow in lab.compare_cells(width=48, max_lag=60, seeds=2)}
    ends = {name: flow.norms[-1] for name, flow in flows.items()}
    assert ends["RNN, spectral radius 0.9"] < 0.05 < 1 < ends["RNN, spectral radius 2"]
    assert (
        ends["LSTM, forget bias 0"] < ends["LSTM, forget bias 1"] < 1e-3 < 1e-2 < ends["LSTM, forget bias 5"]
    )
    assert flows["GRU"].half_life_s == pytest.approx(0.01 * flows["GRU"].half_life_frames)


def test_a_cell_of_another_name_is_refused() -> None:
    with pytest.raises(AsrError, match="cell 'elman': expected rnn, gru or lstm"):
        lab.make_cell("elman", 3)
    with pytest.raises(AsrError, match="cell 'elman': expected one of rnn, gru, lstm"):
        lab.train_recall("elman", 3)


def weighted_past(x_1TF: Tensor) -> Tensor:
    """y_t = Σ_k 0.7^k x_{t−k} over the last ten frames: the gradient at lag k is 0.7^k."""
    kernel = 0.7 ** torch.arange(9, -1, -1, dtype=x_1TF.dtype)
    return nn.functional.conv1d(nn.functional.pad(x_1TF.mT, (9, 0)), kernel[None, None]).mT


def test_the_flow_of_a_known_filter_is_its_impulse_response() -> None:
    flow = lab.model_gradient_flow(weighted_past, torch.randn(1, 60, 1), max_lag=15, frame_s=0.02)
    past = flow.norms[flow.lags >= 0]
    np.testing.assert_allclose(past[:10] / past[0], 0.7 ** np.arange(10), rtol=1e-5)
    assert (past[10:] == 0).all() and (flow.norms[flow.lags < 0] == 0).all()
    assert flow.half_life_s == pytest.approx(0.02 * math.log(2) / -math.log(0.7))


def test_lags_are_input_frames_when_the_model_makes_fewer_outputs() -> None:
    """Every third output of the filter, made of frames 3 t … 3 t + 2: lag 0 is the newest of them."""
    flow = lab.model_gradient_flow(
        lambda x: weighted_past(x)[:, 2::3], torch.randn(1, 60, 1), stride=3, max_lag=12
    )
    np.testing.assert_allclose(
        flow.norms[flow.lags >= 0][:10] / flow.norms[flow.lags == 0], 0.7 ** np.arange(10), 1e-5
    )


def test_a_model_of_another_stride_is_refused() -> None:
    with pytest.raises(AsrError, match=r"60 outputs of 60 frames; expected ⌈frames / 3⌉"):
        lab.model_gradient_flow(weighted_past, torch.randn(1, 60, 1), stride=3)


def test_an_encoder_looks_back_only_or_both_ways() -> None:
    from asr.encoder import Encoder, EncoderConfig

    for both_ways in (False, True):
        config = EncoderConfig(layers=2, width=16, bidirectional=both_ways, factor=3)
        encoder = Encoder(config, 8, 5).eval()
        lengths_B = torch.tensor([270])
        flow = lab.model_gradient_flow(
            lambda x, e=encoder, n=lengths_B: e(x, n)[0],  # type: ignore[misc]
            torch.randn(1, 270, 8),
            stride=3,
            max_lag=60,  # of 20 frames, one of seven untrained encoders did not halve it
        )
        assert (flow.norms[flow.lags < 0].max() > 0) == both_ways
        assert 0 < flow.half_life_frames < math.inf


def test_sequences_of_the_memory_task_show_the_symbol_once_and_ask_at_the_end() -> None:
    x_BTI, symbol_B = draw_sequences(20, 7, torch.Generator().manual_seed(0))
    assert x_BTI.shape == (20, 9, SYMBOLS + 2)
    assert torch.equal(x_BTI[:, 0, :SYMBOLS].argmax(1), symbol_B)
    assert x_BTI[:, :, :SYMBOLS].sum() == 20 and torch.equal(
        x_BTI[:, :, SYMBOLS].sum(0), torch.eye(9)[8] * 20
    )


def test_an_lstm_that_carries_learns_to_recall() -> None:
    seen: list[lab.Recall] = []
    (result,) = lab.memory_task([("lstm", 5.0)], [20], updates=400, progress=seen.append)
    assert result.accuracy > 0.95 and seen == [result]


def read_png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_the_pictures_are_drawn(tmp_path: Path) -> None:
    flow = lab.Flow("a", np.arange(30), 0.9 ** np.arange(30), 0.01)
    still = lab.Flow("b", np.arange(-30, 30), np.ones(60))
    drawn = [
        lab.plot_gradient_flow([flow], tmp_path / "new" / "flow.png"),
        lab.plot_gradient_flow([flow, still], tmp_path / "flows.png"),
        lab.plot_gradients(
            [lab.Expense("BPTT", n, 0.1 * n, 100 * n) for n in (1, 10)], tmp_path / "gradients.png"
        ),
        lab.plot_memory([lab.Recall("rnn", 0.0, n, 0, 0.5, 10) for n in (1, 10)], tmp_path / "memory.png"),
    ]
    for path in drawn:
        width, height = read_png_size(path)
        assert width > 900 and height > 500


def test_the_lattice_of_an_utterance_is_drawn(tmp_path: Path) -> None:
    log_probs_TV = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    samples = np.sin(np.arange(19_200) / 10).astype(np.float32)
    path = lab.plot_lattice(
        log_probs_TV,
        [1, 2, 3, 3],
        tmp_path / "lattice.png",
        alphabet=Alphabet([" ", "a", "b"]),
        samples=samples,
        rate_hz=16_000,
        frame_s=0.03,
    )
    assert min(read_png_size(path)) > 500
    with pytest.raises(AsrError, match="at least one label"):
        lab.plot_lattice(
            log_probs_TV, [], path, alphabet=Alphabet(["a"]), samples=samples, rate_hz=16_000, frame_s=0.03
        )


def test_the_shade_of_the_lattice_is_the_share_of_all_paths_in_each_state() -> None:
    """Oracle: all paths through the states, three frames, one label."""
    log_probs_TV = torch.randn(
        3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).log_softmax(-1)
    share = np.zeros((3, 3))
    for path in itertools.product(range(3), repeat=3):
        steps = np.diff(path, prepend=0)
        if (steps >= 0).all() and (steps <= 1).all() and path[-1] >= 1:
            p = math.exp(sum(log_probs_TV[t, s % 2].item() for t, s in enumerate(path)))
            share[range(3), path] += p
    np.testing.assert_allclose(state_occupancy(log_probs_TV, [1]), share / share[0].sum(), atol=1e-12)


def test_no_lags_and_pieces_of_no_frames_are_refused() -> None:
    x_TI = np.zeros((5, 3))
    with pytest.raises(AsrError, match="truncate=-1"):
        lab.bptt(random_net(), x_TI, lab.SquaredError(np.zeros((5, 4))), truncate=-1)
    for lag in (0, 5):
        with pytest.raises(AsrError, match=f"lags from 1 to 4, not {lag}"):
            lab.gradient_flow(nn.RNNCell(3, 4), torch.zeros(5, 3), max_lag=lag)
