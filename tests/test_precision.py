"""Recognition in fewer bits: close to float32, never by accident, clear where it cannot be."""

import numpy as np
import pytest
import torch
from tone_model import spoken, tone_model
from tones import sentences

from asr import load
from asr.encoder import Encoder, EncoderConfig
from asr.errors import ConfigError
from asr.precision import lower

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


def test_bf16_does_not_depend_on_the_batch(tmp_path):
    tone_model().save(tmp_path)
    model = load(tmp_path, precision="bf16")
    together_BTV, lengths_B = model.log_probs(WAVES)
    for row, length, wave in zip(together_BTV, lengths_B.tolist(), WAVES, strict=True):
        torch.testing.assert_close(row[:length], model.log_probs([wave])[0][0], atol=0.02, rtol=0.02)


def test_a_model_that_streams_streams_in_bf16():
    model = tone_model(bidirectional=False)
    lowered = lower(model.encoder, "bf16")
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
