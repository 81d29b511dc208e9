"""Feature frames → log-probabilities: subsampling and stacked recurrent layers, exact in any batch.

Conventions. Batch first, padding last. The output for an utterance does not depend on the rest of its batch:
the backward direction runs over each utterance reversed within its own length, so that padding always comes
last and no packed sequences are needed, whose backward pass is five times slower on CPU. Every utterance of
n frames has ceil(n / factor) outputs, whatever the subsampling: at least one if n ≥ 1.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr import lstm
from asr.errors import ConfigError, demands_of
from asr.regularisation import Dropout, MaskedBatchNorm
from asr.spans import inside
from asr.subsampling import Convolution, Stack, State

_CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
_GATES = {"rnn": 1, "gru": 3, "lstm": 4}
_FRAME: dict[str, Callable[..., State]] = {  # (x_BF, state, weights) → the state after it
    "RNN_TANH": lambda x_BF, state, *weights: (torch.rnn_tanh_cell(x_BF, *state, *weights),),
    "GRU": lambda x_BF, state, *weights: (torch.gru_cell(x_BF, *state, *weights),),
    "LSTM": torch.lstm_cell,
}
_FEW_FRAMES = 16  # on a CPU torch repacks the weights in each call, which takes as long as this many frames


@dataclass
class EncoderConfig:
    """The shape of the recurrent network."""

    cell: Literal["rnn", "gru", "lstm"] = "lstm"
    layers: int = 3
    width: int = 320
    """Units per direction."""
    bidirectional: bool = True
    projection: int = 0
    """Width of a linear projection after every layer; 0 is off."""
    dropout: float = 0.1
    """Share of each layer's outputs that is zeroed in training."""
    residual: bool = False
    """Residual connections: a layer's input is added to its output wherever both have the same width."""
    norm: Literal["none", "layer", "batch"] = "none"
    """Normalisation of each layer's outputs; batch statistics exclude padding."""
    subsampling: Literal["stack", "conv"] = "stack"
    factor: int = 3
    """Subsampling factor: input frames per output."""
    channels: int = 32
    """Feature maps of the convolutions (conv only)."""
    forget_bias: float = 1.0
    """Initial bias of the LSTM's forget gate (the sum of torch's two bias vectors)."""
    orthogonal: bool = False
    """Initialises the recurrent matrix of every gate as orthogonal instead of uniform."""
    intermediate_layer: int = 0
    """Layer after which a second output layer is attached, for an auxiliary loss; 0 is off."""


class Encoder(nn.Module):
    """Subsampling, stacked recurrent layers and a log-softmax over the outputs.

    Args:
        config: the shape of the network.
        inputs: values per input frame.
        outputs: values per output frame; output 0 is the blank.

    Raises:
        ConfigError: a setting that cannot work.
    """

    def __init__(self, config: EncoderConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        check(config, inputs, outputs)
        self.config = config
        self.subsampling: Stack | Convolution
        if config.subsampling == "stack":
            self.subsampling = Stack(inputs, config.factor)
        else:
            self.subsampling = Convolution(inputs, config.factor, config.channels)
        first = Layer(config, self.subsampling.outputs)
        rest = [Layer(config, first.outputs) for _ in range(config.layers - 1)]
        self.layers = nn.ModuleList([first, *rest])
        self.output = nn.Linear(first.outputs, outputs)
        self.intermediate = nn.Linear(first.outputs, outputs) if config.intermediate_layer else None

    @property
    def frames_per_output(self) -> int:
        """Input frames from one output to the next."""
        return self.config.factor

    @property
    def state_parts(self) -> int:
        """Number of tensors in a stream's state."""
        return self.subsampling.held + len(self.layers) * _parts_per_layer(self.config)

    def output_lengths(self, lengths_B: Tensor) -> Tensor:
        """Number of outputs of each utterance, given its number of frames: ceil(frames / factor)."""
        return (lengths_B + self.config.factor - 1) // self.config.factor

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Natural-log probabilities of the outputs, and how many output frames each utterance has.

        Args:
            features_BTF: frames; those beyond an utterance's length are ignored.
            lengths_B: int64, frames of each utterance, at least 1.

        Returns:
            log_probs_BTV float32, also under autocast, with T = ceil(frames / factor), and lengths_B int64 on
            the device of the features. Values beyond a length are meaningless padding.
        """
        *_, last_BTH = self.hidden(features_BTF, lengths_B)
        return _log_probs(self.output, last_BTH), self.output_lengths(lengths_B).to(features_BTF.device)

    def with_intermediate(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The log-probabilities as in `forward`, those of the intermediate output layer, and the lengths.

        Raises:
            ConfigError: the encoder was built without `intermediate_layer`.
        """
        if self.intermediate is None:
            raise ConfigError("this encoder has no intermediate output: set intermediate_layer to 1 or more")
        hidden = list(self.hidden(features_BTF, lengths_B))
        middle_BTH = hidden[self.config.intermediate_layer - 1]
        lengths_B = self.output_lengths(lengths_B).to(features_BTF.device)
        return _log_probs(self.output, hidden[-1]), _log_probs(self.intermediate, middle_BTH), lengths_B

    def hidden(self, features_BTF: Tensor, lengths_B: Tensor) -> Iterator[Tensor]:
        """The outputs of each layer in turn, (B, ceil(frames / factor), H); arguments as in `forward`."""
        lengths_B = lengths_B.to(features_BTF.device)
        clean_BTF = features_BTF.masked_fill(~inside(lengths_B, features_BTF.shape[1]), 0.0)
        lengths_B = self.output_lengths(lengths_B)
        x_BTF = self.subsampling(clean_BTF, lengths_B)
        inside_BT1 = inside(lengths_B, x_BTF.shape[1])
        order = _reversal(lengths_B, x_BTF.shape[1]) if self.config.bidirectional else None
        for layer in self.layers:
            x_BTF = layer(x_BTF, inside_BT1, order)
            yield x_BTF

    def step(self, features_BTF: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The log-probabilities of the next, equally long block of each stream, and the new state.

        In evaluation mode, the blocks of a stream together give what `forward` gives for the whole.

        Args:
            features_BTF: the next frames, a multiple of `factor`; zero-pad the last block to that.
            state: what the previous call returned; None at the start.

        Raises:
            ConfigError: the encoder is bidirectional, or the block is not a multiple of `factor`.
        """
        if self.config.bidirectional:
            raise ConfigError(
                "a bidirectional encoder reads to the end of the utterance before its first output: for "
                "block by block recognition train one with encoder.bidirectional=false"
            )
        frames = features_BTF.shape[1]
        if frames == 0 or frames % self.config.factor:
            raise ConfigError(
                f"a block of {frames} frames: expected a multiple of factor={self.config.factor}; "
                f"pad the last block with zeros"
            )
        held = self.subsampling.held
        x_BTF, context = self.subsampling.step(features_BTF, state[:held] if state else None)
        after = list(context)
        per_layer = _parts_per_layer(self.config)
        for i, layer in enumerate(cast(Iterable[Layer], self.layers)):
            start = held + i * per_layer
            x_BTF, hidden = layer.step(x_BTF, state[start : start + per_layer] if state else None)
            after.extend(hidden)
        return _log_probs(self.output, x_BTF), tuple(after)


class Layer(nn.Module):
    """One recurrent layer: a recurrence (run) per direction, projection, normalisation, dropout, residual."""

    def __init__(self, config: EncoderConfig, inputs: int) -> None:
        super().__init__()
        directions = 2 if config.bidirectional else 1
        self.runs = nn.ModuleList(_run(config, inputs) for _ in range(directions))
        width = directions * config.width
        self.projection = nn.Linear(width, config.projection) if config.projection else None
        self.outputs = config.projection or width
        self.norm: nn.LayerNorm | MaskedBatchNorm | None = None
        if config.norm != "none":
            self.norm = (nn.LayerNorm if config.norm == "layer" else MaskedBatchNorm)(self.outputs)
        self.dropout = Dropout(config.dropout)
        self.residual = config.residual and inputs == self.outputs

    def forward(self, x_BTF: Tensor, inside_BT1: Tensor, order: Tensor | None) -> Tensor:
        """Outputs (B, T, outputs); `order` reverses each utterance, None if unidirectional."""
        y_BTH = lstm.outputs(self.runs[0], x_BTF)
        if order is not None:
            backward_BTH = lstm.outputs(self.runs[1], _reorder(x_BTF, order))
            y_BTH = torch.cat([y_BTH, _reorder(backward_BTH, order)], -1)
        return self._finish(x_BTF, y_BTH, inside_BT1)

    def step(self, x_BTF: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The outputs of the next block and the state of the cell after it."""
        run = cast(nn.RNNBase, self.runs[0])
        are_few = x_BTF.device.type == "cpu" and x_BTF.shape[1] <= _FEW_FRAMES
        is_plain = isinstance(run, nn.RNNBase)  # not the int8 one of `asr.precision`
        if are_few and is_plain and not torch.onnx.is_in_onnx_export():
            y_BTH, state = _frame_by_frame(run, x_BTF, state)
        else:
            y_BTH, state = lstm.by_torch(run, x_BTF, state)
        return self._finish(x_BTF, y_BTH, None), state

    def _finish(self, x_BTF: Tensor, y_BTH: Tensor, inside_BT1: Tensor | None) -> Tensor:
        if self.projection is not None:
            y_BTH = self.projection(y_BTH)
        if isinstance(self.norm, MaskedBatchNorm):
            y_BTH = self.norm(y_BTH, inside_BT1)
        elif self.norm is not None:
            y_BTH = self.norm(y_BTH)
        y_BTH = self.dropout(y_BTH)
        return x_BTF + y_BTH if self.residual else y_BTH


def _run(config: EncoderConfig, inputs: int) -> nn.RNNBase:
    run = _CELLS[config.cell](inputs, config.width, batch_first=True)
    if config.orthogonal:
        for gate in run.get_parameter("weight_hh_l0").detach().chunk(_GATES[config.cell]):
            nn.init.orthogonal_(gate)
    if isinstance(run, nn.LSTM):
        lstm.set_forget_bias(run, config.forget_bias)
    return run


def _frame_by_frame(run: nn.RNNBase, x_BTF: Tensor, state: State | None) -> tuple[Tensor, State]:
    """The outputs and the state after them, computed frame by frame."""
    weights = [run.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    zero_BH = x_BTF.new_zeros(len(x_BTF), run.hidden_size)
    now = tuple(part[0] for part in state) if state else (zero_BH,) * (2 if run.mode == "LSTM" else 1)
    outputs = []
    for x_BF in x_BTF.unbind(1):
        now = _FRAME[run.mode](x_BF, now, *weights)
        outputs.append(now[0])
    return torch.stack(outputs, 1), tuple(part[None] for part in now)


def _parts_per_layer(config: EncoderConfig) -> int:
    return 2 if config.cell == "lstm" else 1


def _log_probs(head: nn.Linear, x_BTF: Tensor) -> Tensor:
    return functional.log_softmax(head(x_BTF).float(), dim=-1)


def _reversal(lengths_B: Tensor, size: int) -> Tensor:
    """Indices into (B · size) frames that reverse each utterance; applying them twice restores the order."""
    frame_T = torch.arange(size, device=lengths_B.device)
    mirrored_BT = lengths_B[:, None] - 1 - frame_T
    source_BT = torch.where(mirrored_BT >= 0, mirrored_BT, frame_T)
    row_B1 = torch.arange(lengths_B.shape[0], device=lengths_B.device)[:, None]
    return (source_BT + size * row_B1).flatten()


def _reorder(x_BTF: Tensor, order: Tensor) -> Tensor:
    return x_BTF.flatten(0, 1).index_select(0, order).view_as(x_BTF)


def check(config: EncoderConfig, inputs: int, outputs: int) -> None:
    """Raises ConfigError at the first setting that cannot work."""
    demand = demands_of("encoder", config)
    demand(config.cell in _CELLS, "cell", f"one of {', '.join(_CELLS)}")
    demand(config.norm in ("none", "layer", "batch"), "norm", "none, layer or batch")
    demand(config.subsampling in ("stack", "conv"), "subsampling", "stack or conv")
    for name in ("layers", "width", "factor", "channels"):
        demand(getattr(config, name) >= 1, name, "at least 1")
    if inputs < 1:
        raise ConfigError(f"inputs={inputs}: expected at least 1")
    if outputs < 2:
        raise ConfigError(f"outputs={outputs}: expected the blank and at least one symbol")
    demand(config.projection >= 0, "projection", "0 (off) or a width")
    demand(0 <= config.dropout < 1, "dropout", "0 to below 1")
    demand(
        0 <= config.intermediate_layer < config.layers,
        "intermediate_layer",
        f"0 (off) to {config.layers - 1}, a layer before the last",
    )
