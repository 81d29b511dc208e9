"""The training split as a stream of batches, determined by seed, epoch and rank alone."""

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import cached_property, partial

import numpy as np

from asr.augmentation import AugmentationConfig, draw
from asr.corpus import batches
from asr.corpus.batches import Item
from asr.draws import heard_s, mix
from asr.recognizer import Recognizer
from asr.training.distributed import Ranks
from asr.training.loader import Batch, collate, name_of, prefetch
from asr.training.optim import TrainingConfig
from asr.training.samples import Samples, open_samples
from asr.training.speakers import Speakers
from asr.training.validation import Split


class Feed:
    """Plans epochs and prefetches their batches in a thread; measures how long the loop waits for them.

    Args:
        split: the training split.
        recognizer: its sample rate, alphabet, features and device.
        config, augmentation, seed: as for the `Trainer`.
        ranks: this process among all.
        resident: see `open_samples`.
    """

    def __init__(
        self,
        split: Split,
        recognizer: Recognizer,
        *,
        config: TrainingConfig,
        augmentation: AugmentationConfig,
        seed: int,
        ranks: Ranks,
        resident: str = "auto",
    ) -> None:
        self.split, self.config, self.augmentation = split, config, augmentation
        self.rate_hz, self.space = recognizer.rate_hz, recognizer.alphabet.space
        self.seed, self.ranks = seed, ranks
        self._device, self._resident, self._features = recognizer.device, resident, recognizer.features
        self.waited_s = 0.0
        """Seconds that the loop has spent waiting for batches."""

    @cached_property
    def samples(self) -> Samples:
        """Where the samples come from, opened when they are first needed."""
        return open_samples(self.split.corpus, self._device, self._resident)

    @cached_property
    def speakers(self) -> Speakers | None:
        """Their moments, if features are normalised by speaker, computed when they are first needed."""
        if not self._features.config.by_speaker:
            return None
        return Speakers(self._features, self.split.corpus, self.split.kept, self.augmentation)

    def plan(self, epoch: int) -> list[list[Item]]:
        """All batches of an epoch for this rank, as tuples of utterance indices; a pure function."""
        kept = self.split.kept

        def in_corpus(items: Sequence[Item]) -> list[Item]:
            """The items of positions in `kept` as items of indices in the corpus."""
            return [tuple(kept[k] for k in item) for item in items]

        plan = batches.plan(
            self.split.corpus.lengths_samples[kept],
            seed=self.seed,
            epoch=epoch,
            seconds_per_batch=self.config.seconds_per_batch,
            rate_hz=self.rate_hz,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            ascending=self.config.ascending_first_epoch and epoch == 0,
            join=self.config.join,
            groups=[self.split.corpus.utterances[i].speaker for i in kept],
            heard=lambda items: self._heard(epoch, in_corpus(items)),
        )
        return [in_corpus(batch) for batch in plan]

    def padding_share(self, epoch: int, plan: Sequence[Sequence[Item]]) -> float:
        """The share of the batches that is padding, 0 to 1."""
        return batches.padding_share(self._heard(epoch, batch) for batch in plan)

    def _heard(self, epoch: int, items: Sequence[Item]) -> np.ndarray:
        """Samples of the items after the augmentation of this epoch, with the pauses between joined ones."""
        corpus, lengths = self.split.corpus, []
        names = [name_of(corpus, item) for item in items]
        for name, item in zip(names, items, strict=True):
            spoken = sum(int(corpus.lengths_samples[i]) for i in item)
            lengths.append((spoken + sum(self._pauses(epoch, name, len(item) - 1))) / self.rate_hz)
        seconds = heard_s(
            self.augmentation,
            seed=self.seed,
            epoch=epoch,
            utterance_ids=names,
            lengths_s=np.array(lengths),
        )
        return np.rint(seconds * self.rate_hz).astype(np.int64)  # whole, so that all ranks agree

    def _pauses(self, epoch: int, name: str, gaps: int) -> list[int]:
        """Samples of silence in the gaps of an item of this name."""
        if not gaps:
            return []
        rng = np.random.default_rng(mix(self.seed, epoch, "pause", name))
        longest = int(self.config.pause_s * self.rate_hz)
        return [int(n) for n in rng.integers(0, longest + 1, gaps)]

    def audio_s(self, group: Sequence[Sequence[Item]]) -> float:
        """Seconds of audio in some batches, without padding."""
        lengths = self.split.corpus.lengths_samples
        return float(sum(lengths[i] for items in group for item in items for i in item)) / self.rate_hz

    def batches(self, epoch: int, plan: Iterable[list[Item]]) -> Generator[Batch, None, None]:
        """The batches of a part of the plan, with the pauses and augmentation draws of the epoch."""
        speakers = self.speakers  # not in the thread below

        def make(items: list[Item]) -> Batch:
            batch = collate(
                self.split.corpus,
                self.split.targets,
                items,
                samples=self.samples,
                space=self.space,
                pauses=partial(self._pauses, epoch),
            )
            batch.draws = draw(self.augmentation, seed=self.seed, epoch=epoch, utterance_ids=batch.ids)
            batch.target_lengths_B[batch.draws.silent_B] = 0
            if speakers is not None:  # the utterances of an item have the same one
                batch.moments_B2F = speakers.moments([item[0] for item in items], batch.draws)
            return batch

        with closing(prefetch(make, plan)) as ready:
            while True:
                began = time.monotonic()
                batch = next(ready, None)
                self.waited_s += time.monotonic() - began
                if batch is None:
                    return
                yield batch
