"""Networks in lower precision than float32, for recognition only.

`bf16` runs matrix products in bfloat16, about twice as fast on processors with instructions for it (AMX,
AVX512-BF16), but slower than float32 on others, and without AVX-512 an LSTM stays in float32; also those of
a language model that rescores. `int8` stores the recurrent weights of the encoder as int8 and quantises
inputs and states too, with fixed scales. Neither depends on the rest of the batch beyond float32 rounding:
batched differently, the greedy text changed for 1 of 60 LibriSpeech utterances in int8 and 3 in bf16. With
torch's own scales, taken from the whole batch, it changed for 48. Neither is ever chosen silently: the cost
in word error rate depends on the model, and `scripts/bench_transcribe` measures it.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from asr.encoder import Encoder, Layer
from asr.ensemble import Ensemble
from asr.errors import ConfigError

Precision = Literal["float32", "bf16", "int8"]
Network = TypeVar("Network", bound=nn.Module)
LanguageModel = TypeVar("LanguageModel", bound=nn.Module | None)
REACH = 6.0
"""Inputs of an int8 layer are clipped to ± this: six standard deviations of a normalised feature."""
_KEEPING = {"LSTM": (-50.0, 50.0, 0.0, 50.0), "GRU": (0.0, 50.0, 0.0)}
"""Gate biases, in torch's order, with which a unit keeps its state for ever."""


def lower(encoder: Encoder, precision: Precision) -> Encoder:
    """The encoder in that precision: itself for `float32`, else a copy that cannot be trained or saved.

    Raises:
        ConfigError: an unknown precision, int8 on a GPU, or int8 for cells that torch does not quantise.
    """
    if precision == "float32":
        return encoder
    if precision == "bf16":
        return _in_bf16(encoder, "forward", "step", *(["each"] if isinstance(encoder, Ensemble) else []))
    if precision != "int8":
        raise ConfigError(f"precision={precision}: expected float32, bf16 or int8")
    if (device := next(encoder.parameters()).device.type) != "cpu":
        raise ConfigError(f"precision=int8 runs on the CPU, and the model is on {device}: take bf16 there")
    if any(isinstance(module, nn.RNN) for module in encoder.modules()):
        raise ConfigError("precision=int8: torch quantises lstm and gru, and this model has cell=rnn")
    lowered = copy.deepcopy(encoder)
    for layer in [module for module in lowered.modules() if isinstance(module, Layer)]:
        layer.runs = nn.ModuleList(Int8Run(cast(nn.RNNBase, run)) for run in layer.runs)
    return lowered


def lower_lm(model: LanguageModel, precision: Precision) -> LanguageModel:
    """The recurrent language model, if there is one, in bfloat16 for `bf16`; otherwise itself."""
    return model if model is None or precision != "bf16" else _in_bf16(model, "steps")


def _in_bf16(model: Network, *entrances: str) -> Network:
    lowered, device = copy.deepcopy(model), next(model.parameters()).device.type

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            # one for each call: entered again within itself, as entrances call each other, it never ends
            with torch.autocast(device, torch.bfloat16):
                return function(*given, **named)

        return run

    for entrance in entrances:
        setattr(lowered, entrance, guarded(getattr(lowered, entrance)))
    return lowered


class Int8Run(nn.Module):
    """One direction of an LSTM or GRU in int8, with quantisation scales that do not depend on the input.

    torch derives the scale of a matrix product from the minimum and maximum over the batch. So two inputs
    are added that are always −`REACH` and `REACH`, and two units whose state is always −1 and 1, the bounds
    of any state; no weight reads them, but they are the minimum and the maximum.

    Args:
        run: batch first, one layer, one direction.
    """

    def __init__(self, run: nn.RNNBase) -> None:
        super().__init__()
        inputs, self._width = run.input_size, run.hidden_size
        wider = cast(Any, type(run))(inputs + 2, self._width + 2, batch_first=True)
        rows = torch.arange(wider.weight_ih_l0.shape[0]).reshape(-1, self._width + 2)  # of each gate
        own, added = rows[:, :-2].flatten(), rows[:, -2:]
        with torch.no_grad():
            for name, old in run.named_parameters():
                new = wider.get_parameter(name).zero_()
                if old.dim() == 2:
                    new[own, : old.shape[1]] = old
                else:
                    new[own] = old
            wider.bias_ih_l0[added] = torch.tensor(_KEEPING[run.mode])[:, None]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # its successor is a separate package
            [self.run] = torch.ao.quantization.quantize_dynamic(nn.ModuleList([wider]), {type(run)})
        self._has_cell = run.mode == "LSTM"

    def forward(self, x_BTF: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Outputs and hidden state as from torch's module, but the state ends with the two added units."""
        ends = torch.tensor([-1.0, 1.0])
        if hidden is None:
            zero_1BH = x_BTF.new_zeros(1, len(x_BTF), self._width)
            state, cell = (torch.cat([zero_1BH, (ends * k).expand(1, len(x_BTF), 2)], 2) for k in (1, 50))
            hidden = (state, cell) if self._has_cell else state
        reach_BT2 = (ends * REACH).expand(*x_BTF.shape[:2], 2)
        y_BTH, hidden = self.run(torch.cat([x_BTF.clamp(-REACH, REACH), reach_BT2], 2), hidden)
        return y_BTH[..., : self._width], hidden
