"""Our LSTM in bfloat16 against torch's in float64; how close it must be, oneDNN's in bfloat16 says."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from asr import lstm
from asr.encoder import Encoder, EncoderConfig
from asr.lstm import kernels

NAMES = ("outputs", "inputs", "weight_ih", "weight_hh", "bias_ih", "bias_hh")


def outputs_and_gradients(model: nn.LSTM, x_BTF: Tensor, weight_BTH: Tensor, run: object) -> list[Tensor]:
    """The outputs of a run and the gradients of their weighted sum by the inputs and by every parameter."""
    x_BTF = x_BTF.clone().requires_grad_()
    y_BTH = run(x_BTF)
    goal = (y_BTH * weight_BTH.to(y_BTH.dtype)).sum()
    return [y_BTH.detach(), *torch.autograd.grad(goal, [x_BTF, *model.parameters()])]


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize(
    ("batch", "steps", "inputs", "width"), [(5, 40, 48, 32), (1, 7, 3, 5), (3, 1, 16, 64), (13, 9, 20, 72)]
)
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_outputs_and_gradients_are_as_close_to_the_truth_as_those_of_onednn(
    batch, steps, inputs, width, scale
):
    if not torch.cpu._is_avx512_supported():
        pytest.skip("oneDNN has no LSTM in bfloat16 for this processor")
    torch.manual_seed(batch + steps)
    model = nn.LSTM(inputs, width, batch_first=True)
    x_BTF, weight_BTH = scale * torch.randn(batch, steps, inputs), torch.randn(batch, steps, width)
    with autocast():
        ours = outputs_and_gradients(model, x_BTF, weight_BTH, lambda x: lstm.run_in_bfloat16(model, x))
        theirs = outputs_and_gradients(model, x_BTF, weight_BTH, lambda x: model(x)[0])
    exact = nn.LSTM(inputs, width, batch_first=True).double()
    exact.load_state_dict(model.state_dict())
    truth = outputs_and_gradients(exact, x_BTF.double(), weight_BTH.double(), lambda x: exact(x)[0])
    for name, mine, other, true in zip(NAMES, ours, theirs, truth, strict=True):
        errors = [float((found - true).norm() / true.norm().clamp(min=1e-9)) for found in (mine, other)]
        assert errors[0] < max(2 * errors[1], 0.01), f"{name}: {errors}"


def test_where_torch_has_no_lstm_in_bfloat16_it_is_computed_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: False)
    encoder = Encoder(EncoderConfig(layers=2, width=16, dropout=0.0, bidirectional=False), 8, 5).eval()
    features_BTF, frames_B = torch.randn(3, 60, 8), torch.tensor([60, 51, 30])
    exact_BTV, _ = encoder(features_BTF, frames_B)
    with autocast():
        found_BTV, _ = encoder(features_BTF, frames_B)
        first_BTV, state = encoder.step(features_BTF[:, :54])
        rest_BTV, _ = encoder.step(features_BTF[:, 54:], state)
    torch.testing.assert_close(found_BTV, exact_BTV, rtol=0.02, atol=0.02)
    torch.testing.assert_close(torch.cat([first_BTV, rest_BTV], 1)[0], exact_BTV[0], rtol=0.02, atol=0.02)


def test_the_gates_functions_are_exact_to_float32_and_saturate():
    x = np.concatenate([np.linspace(-120, 120, 20_001), [-1e30, 1e30, 0.0]]).astype(np.float32)
    found = np.array([kernels._logistic(v) for v in x[::7]])
    true = 1 / (1 + np.exp(-x[::7].astype(np.float64)))
    assert np.abs(found - true).max() < 3e-6
    assert np.isnan(kernels._logistic(np.float32(np.nan)))


def test_bits_of_bfloat16_are_rounded_as_torch_does():
    x = torch.randn(1000) * 10.0 ** torch.randint(-20, 20, (1000,))
    found = [int(kernels._narrow(np.float32(v))) for v in x.tolist()]
    assert found == x.bfloat16().view(torch.uint16).tolist()
    assert [kernels.wide(np.uint16(bits)) for bits in found] == x.bfloat16().float().tolist()


def test_what_is_not_a_number_stays_so():
    model, x_BTF = nn.LSTM(4, 8, batch_first=True), torch.zeros(2, 5, 4)
    x_BTF[1, 2, 0] = torch.nan
    with autocast():
        y_BTH = lstm.run_in_bfloat16(model, x_BTF)
    assert y_BTH[0].isfinite().all() and y_BTH[1, :2].isfinite().all()
    assert y_BTH[1, 2:].isnan().all()


def test_any_number_of_threads_gives_the_same_bits():
    model, x_BTF, weight_BTH = (
        nn.LSTM(20, 24, batch_first=True),
        torch.randn(11, 30, 20),
        torch.randn(11, 30, 24),
    )
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            with autocast():
                found.append(
                    outputs_and_gradients(model, x_BTF, weight_BTH, lambda x: lstm.run_in_bfloat16(model, x))
                )
    finally:
        torch.set_num_threads(before)
    for results in found[1:]:
        assert results[0].equal(found[0][0])
        for mine, theirs in zip(results, found[0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3)  # torch's own sums differ


def test_a_gradient_is_taken_once():
    model, x_BTF = nn.LSTM(4, 8, batch_first=True), torch.randn(2, 5, 4)
    with autocast():
        y_BTH = lstm.run_in_bfloat16(model, x_BTF).float()
    y_BTH.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="has been taken"):
        y_BTH.sum().backward()


def test_no_two_gradients_share_memory():
    model, x_BTF = nn.LSTM(4, 8, batch_first=True), torch.randn(2, 5, 4)
    with autocast():
        lstm.run_in_bfloat16(model, x_BTF).float().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    once = [gradient.clone() for gradient in gradients]
    torch._foreach_add_(gradients, gradients)
    for doubled, single in zip(gradients, once, strict=True):
        assert doubled.equal(2 * single)


def test_the_encoder_takes_it_for_training_in_bfloat16_alone(monkeypatch):
    seen = []
    run = lstm.run_in_bfloat16
    monkeypatch.setattr(lstm, "run_in_bfloat16", lambda *given: seen.append(1) or run(*given))
    monkeypatch.setattr(lstm, "_processor_is_made_for_it", lambda: True)
    config = EncoderConfig(layers=2, width=16, dropout=0.0)
    features_BTF, frames_B = torch.randn(3, 30, 8), torch.tensor([30, 17, 4])
    encoder = Encoder(config, 8, 5)
    exact_BTV, _ = encoder(features_BTF, frames_B)
    with torch.no_grad(), autocast():
        encoder(features_BTF, frames_B)
    with autocast():
        Encoder(dataclasses.replace(config, cell="gru"), 8, 5)(features_BTF, frames_B)
    assert seen == []
    with autocast():
        found_BTV, _ = encoder(features_BTF, frames_B)
    assert len(seen) == 4
    for i, frames in enumerate((10, 6, 2)):
        torch.testing.assert_close(found_BTV[i, :frames], exact_BTV[i, :frames], rtol=0.02, atol=0.02)
