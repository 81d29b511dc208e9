"""A long-memory task: recall a symbol after a gap. What the gradient cannot reach, a network does not learn.

A sequence shows one of four symbols, then a gap of noise, then a mark that asks for the symbol. The mark
carries no information, so chance is 1/4, and to beat it the hidden state must keep the symbol over the gap.

A gated cell can be initialised to carry its state: with `carry` = c, the LSTM's forget gate starts at bias c
and its input gate at −c, the GRU's update gate at c, so that they keep σ(c) of the state per frame. A plain
RNN has no gate.

Sources: after Hochreiter and Schmidhuber, "Long short-term memory", 1997, section 5; the biases after Tallec
and Ollivier, "Can recurrent neural networks warp time?", 2018.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.errors import AsrError
from asr.machine.devices import seeded

SYMBOLS = 4
GAPS = (10, 30, 100, 200, 500)
NETS = (("rnn", 0.0), ("gru", 0.0), ("lstm", 0.0), ("gru", 6.0), ("lstm", 6.0))  # cell and carry
_CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@dataclass(frozen=True)
class Recall:
    """How well one network recalls: accuracy in [0, 1] on new sequences, and its number of updates."""

    cell: str
    carry: float
    gap: int
    seed: int
    accuracy: float
    updates: int


class Recaller(nn.Module):
    """One recurrent layer and a linear output that is read at the last frame."""

    def __init__(self, cell: str, width: int, carry: float) -> None:
        super().__init__()
        self.layer = _CELLS[cell](SYMBOLS + 2, width, batch_first=True)
        self.output = nn.Linear(width, SYMBOLS)
        gates = {"lstm": (-carry, carry), "gru": (None, carry), "rnn": ()}[cell]  # in torch's order
        for gate, bias in enumerate(gates):
            if carry and bias is not None:
                part = slice(gate * width, (gate + 1) * width)
                self.layer.get_parameter("bias_ih_l0").data[part] = bias
                self.layer.get_parameter("bias_hh_l0").data[part] = 0.0

    def forward(self, x_BTI: Tensor) -> Tensor:
        return self.output(self.layer(x_BTI)[0][:, -1])


def draw_sequences(count: int, gap: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs (B, 1 + gap + 1, SYMBOLS + 2) and the symbols to recall (B,).

    Inputs 0 … SYMBOLS − 1 are the symbol, one-hot at the first frame; the next is the mark at the last frame;
    the last is noise.
    """
    symbol_B = torch.randint(0, SYMBOLS, (count,), generator=generator)
    x_BTI = torch.zeros(count, gap + 2, SYMBOLS + 2)
    x_BTI[torch.arange(count), 0, symbol_B] = 1.0
    x_BTI[:, -1, SYMBOLS] = 1.0
    x_BTI[:, :, SYMBOLS + 1] = torch.randn(count, gap + 2, generator=generator)
    return x_BTI, symbol_B


def train_recall(
    cell: str, gap: int, *, carry: float = 0.0, seed: int = 0, width: int = 32, updates: int = 1000
) -> Recall:
    """The accuracy of a new network ("rnn", "gru" or "lstm") after training on the task with this gap.

    Adam, 3e-3, gradient norm clipped to 1, 32 sequences per update; stops after 10 updates in a row without
    an error.
    """
    if cell not in _CELLS:
        raise AsrError(f"cell {cell!r}: expected one of {', '.join(_CELLS)}")
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed):
        net = Recaller(cell, width, carry)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    flawless = done = 0
    while done < updates and flawless < 10:
        x_BTI, symbol_B = draw_sequences(32, gap, generator)
        logits_BK = net(x_BTI)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits_BK, symbol_B).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        flawless = flawless + 1 if bool((logits_BK.argmax(1) == symbol_B).all()) else 0
        done += 1
    with torch.no_grad():
        x_BTI, symbol_B = draw_sequences(512, gap, generator)
        accuracy = (net(x_BTI).argmax(1) == symbol_B).float().mean().item()
    return Recall(cell, carry, gap, seed, accuracy, done)


def memory_task(
    nets: Sequence[tuple[str, float]] = NETS,
    gaps: Sequence[int] = GAPS,
    *,
    seeds: int = 1,
    updates: int = 1000,
    progress: Callable[[Recall], None] | None = None,
) -> list[Recall]:
    """`train_recall` for every (cell, carry), gap and seed, in this order; about ten minutes on one core.

    progress: called with each result when it is ready.
    """
    results = []
    for (cell, carry), gap, seed in itertools.product(nets, gaps, range(seeds)):
        results.append(train_recall(cell, gap, carry=carry, seed=seed, updates=updates))
        if progress is not None:
            progress(results[-1])
    return results
