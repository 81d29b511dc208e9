"""Encoders that compute in fewer bits than float32, for recognition only.

`bf16` runs matrix products in bfloat16: exact in any batch, and about twice as fast on processors with
instructions for it (AMX, AVX512-BF16), but slower than float32 on others. `int8` stores the recurrent weights
in bytes and rounds activations to a scale that it takes from the batch at hand, so what an utterance is
batched with can change its last digits. Neither is ever chosen silently: what each costs in words depends on
the model, and `scripts/bench_transcribe` measures it.
"""

import copy
import warnings
from typing import Literal

import torch
from torch import nn

from asr.encoder import Encoder
from asr.errors import ConfigError

Precision = Literal["float32", "bf16", "int8"]


def lower(encoder: Encoder, precision: Precision) -> Encoder:
    """The encoder in that precision; the same one for `float32`, else a copy that cannot be trained or saved.

    Raises:
        ConfigError: an unknown precision, int8 on a GPU, or int8 for cells that torch does not quantise.
    """
    if precision == "float32":
        return encoder
    device = next(encoder.parameters()).device.type
    if precision == "bf16":
        lowered = copy.deepcopy(encoder)
        for entrance in ("forward", "step"):
            setattr(lowered, entrance, torch.autocast(device, torch.bfloat16)(getattr(lowered, entrance)))
        return lowered
    if precision != "int8":
        raise ConfigError(f"precision={precision}: expected float32, bf16 or int8")
    if device != "cpu":
        raise ConfigError(f"precision=int8 runs on the CPU, and the model is on {device}: take bf16 there")
    if encoder.config.cell == "rnn":
        raise ConfigError("precision=int8: torch quantises lstm and gru, and this model has cell=rnn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's successor is a package of its own
        quantised: Encoder = torch.ao.quantization.quantize_dynamic(encoder, {nn.LSTM, nn.GRU})
    return quantised
