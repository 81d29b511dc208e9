"""Recognition in fewer bits: close to float32, never by accident, clear where it cannot be."""

import numpy as np
import pytest
import torch
from tone_model import spoken, tone_model
from tones import sentences

from asr import load
from asr.encoder import Encoder, EncoderConfig
from asr.ensemble import Ensemble
from asr.errors import ConfigError
from asr.precision import Int8Run, lower

WAVES = [spoken(text, seed=i) for i, text in enumerate(sentences(12, seed=4))]


def log_probs(encoder: Encoder) -> torch.Tensor:
    features_BTF = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 40, 24)).astype(np.float32))
    with torch.no_grad():
        return encoder(features_BTF, torch.tensor([40, 25, 9]))[0]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_fewer_bits_change_probabilities_little_and_leave_the_original_alone(precision, cell):
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(cell=cell, layers=2, width=24, factor=2), 24, 6).eval()
    before = log_probs(encoder)
    lowered = lower(encoder, precision)
    after = log_probs(lowered)
    assert after.dtype == torch.float32
    assert 0 < (after.exp() - before.exp()).abs().max() < 0.02
    assert torch.equal(log_probs(encoder), before)


@pytest.mark.parametrize("precision", ["float32", "bf16", "int8"])
def test_a_bundle_is_loaded_in_any_precision_and_hears_the_same_tones(precision, tmp_path):
    tone_model().save(tmp_path)
    said = [t.text for t in load(tmp_path, precision=precision).transcribe_many(WAVES)]
    assert said == [t.text for t in tone_model().transcribe_many(WAVES)]


@pytest.mark.parametrize(("precision", "close"), [("bf16", 0.02), ("int8", 1e-3)])
def test_what_is_heard_does_not_depend_on_the_batch(precision, close, tmp_path):
    tone_model().save(tmp_path)
    model = load(tmp_path, precision=precision)
    noise = np.random.default_rng(0).normal(0, 3, 60_000).astype(np.float32)
    together_BTV, lengths_B = model.log_probs([noise, *WAVES])
    for row, length, wave in zip(together_BTV[1:], lengths_B.tolist()[1:], WAVES, strict=True):
        alone_TV = model.log_probs([wave])[0][0]
        torch.testing.assert_close(row[:length].exp(), alone_TV.exp(), atol=close, rtol=0)


def test_an_ensemble_in_bf16_leaves_all_that_is_computed_after_it_in_float32():
    lowered = lower(Ensemble([EncoderConfig(layers=1, width=8)] * 2, 24, 6).eval(), "bf16")
    log_probs(lowered)
    ones = torch.ones(2, 2)
    assert (ones @ ones).dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_int8_rounds_inputs_and_states_on_scales_that_never_change(cell):
    torch.manual_seed(0)
    run = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](6, 5, batch_first=True)
    lowered = Int8Run(run)
    x_BTF = torch.randn(4, 300, 6)
    with torch.no_grad():
        y_BTH, hidden = lowered(x_BTF)
        loud_BTH, _ = lowered(torch.cat([x_BTF, 100 * x_BTF]))
        expected_BTH, _ = run(x_BTF)
    assert torch.equal(loud_BTH[:4], y_BTH)
    torch.testing.assert_close(y_BTH, expected_BTH, atol=0.1, rtol=0)
    state_1BH = hidden[0] if cell == "lstm" else hidden
    assert torch.equal(state_1BH[0, :, -2:], torch.tensor([-1.0, 1.0]).expand(4, 2))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_model_that_streams_streams_in_fewer_bits(precision):
    model = tone_model(bidirectional=False)
    lowered = lower(model.encoder, precision)
    features_BTF = torch.randn(1, 40, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole_BTV, _ = lowered(features_BTF, torch.tensor([40]))
        first_BTV, state = lowered.step(features_BTF[:, :16])
        rest_BTV, _ = lowered.step(features_BTF[:, 16:], state)
    torch.testing.assert_close(torch.cat([first_BTV, rest_BTV], 1), whole_BTV, atol=0.05, rtol=0.05)


def test_what_cannot_be_is_said():
    encoder = Encoder(EncoderConfig(cell="rnn", layers=1, width=8), 4, 3)
    assert lower(encoder, "float32") is encoder
    with pytest.raises(ConfigError, match="cell=rnn"):
        lower(encoder, "int8")
    with pytest.raises(ConfigError, match="expected float32, bf16 or int8"):
        lower(encoder, "fp4")
