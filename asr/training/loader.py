"""Packed corpus → batches, joined and padded, halved where memory runs out; nothing here is random."""

import dataclasses
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from asr.augmentation import Draws
from asr.corpus.batches import Item
from asr.corpus.packed import PackedCorpus
from asr.errors import TrainingError
from asr.machine.devices import sent
from asr.machine.memory import is_out_of_memory
from asr.machine.pools import in_order
from asr.training.samples import Pieces, Samples, mapped

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 3
"""Batches that are prefetched."""


@dataclass
class Batch:
    """Some utterances, padded at the end.

    samples_BT are float32 in [-1, 1], on the CPU or on the device; everything else is on the CPU, so that
    reading a length needs no device sync. lengths_B count samples; targets_BS are padded with 0; `ids` names
    each item; `draws` are the augmentation's random numbers (None: no augmentation); moments_B2F are those of
    the speakers (None: each utterance has its own).
    """

    samples_BT: Tensor
    lengths_B: Tensor
    targets_BS: Tensor
    target_lengths_B: Tensor
    ids: list[str]
    draws: Draws | None = None
    moments_B2F: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its samples on `device`."""
        return dataclasses.replace(self, samples_BT=sent(self.samples_BT, device))

    def rows(self, start: int, stop: int) -> "Batch":
        """The utterances `start` to `stop`, with padding cut to the longest of them."""
        lengths_B, target_lengths_B = self.lengths_B[start:stop], self.target_lengths_B[start:stop]
        return Batch(
            self.samples_BT[start:stop, : int(lengths_B.max())],
            lengths_B,
            self.targets_BS[start:stop, : max(int(target_lengths_B.max()), 1)],
            target_lengths_B,
            self.ids[start:stop],
            self.draws and self.draws.rows(start, stop),
            None if self.moments_B2F is None else self.moments_B2F[start:stop],
        )


def name_of(corpus: PackedCorpus, item: Item) -> str:
    """What an item is called: all that is random about it depends on this."""
    return "+".join(corpus.utterances[i].id for i in item)


def collate(
    corpus: PackedCorpus,
    targets: Sequence[Sequence[int]],
    items: Sequence[Item],
    *,
    samples: Samples | None = None,
    space: int | None = None,
    pauses: Callable[[str, int], Sequence[int]] | None = None,
) -> Batch:
    """The batch of some items; utterances of an item are joined, with pauses and spaces between them.

    Args:
        corpus: where the samples are.
        targets: outputs of every utterance of the corpus.
        items: tuples of utterance indices.
        samples: reads the samples; None takes the memory map.
        space: output that separates words, inserted between joined texts; None inserts nothing.
        pauses: (id of the item, number of gaps) → samples of silence for each gap; None for no pauses.
    """
    names, spelled, lengths, starts = [], [], [], []
    for item in items:
        names.append(name_of(corpus, item))
        gaps = pauses(names[-1], len(item) - 1) if pauses and len(item) > 1 else [0] * (len(item) - 1)
        length, text = 0, list[int]()
        for i, gap in zip(item, [0, *gaps], strict=True):
            starts.append(length + gap)
            length += gap + int(corpus.lengths_samples[i])
            text += [space] if space is not None and text and targets[i] else []
            text += targets[i]
        lengths.append(length)
        spelled.append(text)
    longest = max(lengths)
    rows = np.repeat(np.arange(len(items)), [len(item) for item in items])
    chosen = np.array([i for item in items for i in item])
    pieces = Pieces(
        shape=(len(items), longest),
        source_K=corpus.offsets_samples[chosen],
        target_K=np.array(starts) + rows * longest,
        length_K=corpus.lengths_samples[chosen],
    )
    target_lengths_B = torch.tensor([len(s) for s in spelled])
    targets_BS = torch.zeros(len(items), max(int(target_lengths_B.max()), 1), dtype=torch.long)
    for target_row, text in zip(targets_BS, spelled, strict=True):
        target_row[: len(text)] = torch.tensor(text, dtype=torch.long)
    samples_BT = (samples or mapped(corpus))(pieces)
    return Batch(samples_BT, torch.tensor(lengths), targets_BS, target_lengths_B, names)


def prefetch(make: Callable[[T], Batch], plan: Iterable[T]) -> Generator[Batch, None, None]:
    """The batches of the plan in order, made by a thread while the loop works on earlier ones.

    An exception in the thread is raised here; closing the generator early ends the thread.
    """
    return in_order(ThreadPoolExecutor(1, "prefetch"), make, plan, ahead=AHEAD)


def in_halves(work: Callable[[Batch], R], batch: Batch, *, rate_hz: int) -> list[R]:
    """What `work` gives for the batch; if memory runs out, for its halves in their order, recursively.

    Raises:
        TrainingError: a single utterance does not fit into memory.
    """
    try:
        return [work(batch)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(batch.ids) == 1:
            seconds = batch.samples_BT.shape[1] / rate_hz
            raise TrainingError(
                f"out of memory with {batch.ids[0]} alone ({seconds:.1f} s): lower data.max_s, or take a "
                "smaller encoder"
            ) from error
    # Not inside the handler: there, the error still holds the failed attempt's tensors.
    torch.cuda.empty_cache()
    middle = len(batch.ids) // 2
    halves = (batch.rows(0, middle), batch.rows(middle, len(batch.ids)))
    return [result for half in halves for result in in_halves(work, half, rate_hz=rate_hz)]
