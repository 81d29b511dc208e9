"""The training loop: batches in, a bundle out, and the same bits whether or not it was interrupted.

Position (epoch, step) and the weights are all the state there is. Step n's batch, augmentation and dropout
follow from (seed, epoch, step); the learning rate from the progress. So a checkpoint at any step boundary, by
time or by signal, continues exactly.
"""

import dataclasses
import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr.augmentation import Augmentation, AugmentationConfig, draw
from asr.corpus import batches
from asr.corpus.packed import PackedCorpus
from asr.ctc import ctc_loss
from asr.errors import TrainingError
from asr.recognizer import Recognizer
from asr.training import checkpoint
from asr.training.distributed import Ranks
from asr.training.history import History
from asr.training.loader import Batch, collate, prefetch
from asr.training.optim import TrainingConfig, autocast_dtype, build_optimizer, choose_device, learning_rate
from asr.training.validation import Split, measure

Observer = Callable[[str, dict[str, Any]], None]
"""Called with `step` or `epoch` and what is known; the command line draws its progress bar from it."""


@dataclass
class Progress:
    """All of a run's state besides weights and optimiser; plain values, saved with each checkpoint."""

    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    labels: int = 0
    skipped: int = 0
    """Updates left out because loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    infeasible: int = 0
    """Utterances whose augmented sound was too short for their text; they had no part in the gradient."""
    best: list[list[float]] = field(default_factory=list)
    """[WER, loss, epoch] on the development set of the best epochs, best first; their weights are kept."""
    stale_epochs: int = 0
    finished: bool = False


class Trainer:
    """Trains the recogniser in place and writes everything below `folder`.

    Args:
        recognizer: freshly built or loaded from a bundle (fine-tuning).
        train, dev: packed corpora at the recogniser's rate.
        config, augmentation: how; augmentation touches the training split only.
        seed: of everything random.
        folder: of the experiment: `checkpoints/`, `model/`, `history.jsonl`.
        identity: what must not change between an interruption and its continuation, as plain values.
        observer: told of steps and epochs.
        min_s, max_s: training utterances outside are left out; `Trainer.train.left_out` lists them.

    Raises:
        CorpusError: no utterance can be learnt from.
        TrainingError: a checkpoint of other settings stands in the folder.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        train: PackedCorpus,
        dev: PackedCorpus,
        *,
        config: TrainingConfig,
        augmentation: AugmentationConfig,
        seed: int,
        folder: Path,
        identity: dict[str, Any] | None = None,
        observer: Observer | None = None,
        min_s: float = 0.0,
        max_s: float = math.inf,
    ) -> None:
        self.ranks = Ranks()
        self.config, self.seed, self.folder = config, seed, folder
        self.device = choose_device(config.device)
        self.recognizer = recognizer.to(self.device)
        self.train = Split(train, recognizer, min_s=min_s, max_s=max_s)
        self.dev = Split(dev, recognizer, min_s=0, max_s=math.inf)
        self.augmentation_config = augmentation
        self.augmentation = Augmentation(augmentation, rate_hz=recognizer.rate_hz).to(self.device)
        self.observe = observer or (lambda kind, values: None)
        self.optimizer = build_optimizer(recognizer.encoder.parameters(), config)
        self.dtype = autocast_dtype(config.precision, self.device)
        self.progress = Progress()
        self.identity = _digest([identity or {}, train.fingerprint, dev.fingerprint, seed])
        self.history: History | None = None
        self._interrupted = False
        self._resume()

    @property
    def last(self) -> Path:
        """Where the state of the run is kept."""
        return self.folder / "checkpoints" / checkpoint.LAST

    def _resume(self) -> None:
        state = checkpoint.read(self.last)
        if state is None:
            return
        if state["identity"] != self.identity:
            raise TrainingError(
                f"{self.last}: begun with other settings or other data; "
                "give the run its own folder (exp=…), or remove this one to start anew"
            )
        self.recognizer.encoder.load_state_dict(state["encoder"])
        self.recognizer.features.load_state_dict(state["features"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def _save(self) -> None:
        if self.ranks.is_first:
            checkpoint.write(
                self.last,
                {
                    "identity": self.identity,
                    "encoder": self.recognizer.encoder.state_dict(),
                    "features": self.recognizer.features.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "progress": dataclasses.asdict(self.progress),
                },
            )

    def run(self) -> Progress:
        """Train to the end, or to the interruption that a signal asks for; a finished run returns at once.

        Raises:
            TrainingError: too many non-finite steps in a row, or a full disk.
            KeyboardInterrupt: after Ctrl-C, once a checkpoint has been written.
        """
        if self.progress.finished:
            return self.progress
        with self.ranks, _signals(self._interrupt):
            p = self.progress
            record = History(self.folder, updates=p.updates, epoch=p.epoch) if self.ranks.is_first else None
            with record or nullcontext() as self.history:
                while p.epoch < self.config.epochs and not self._is_stale():
                    self._epoch()
                self._finish()
        return self.progress

    def _is_stale(self) -> bool:
        return 0 < self.config.patience <= self.progress.stale_epochs

    def _interrupt(self) -> None:
        self._interrupted = True

    def plan(self, epoch: int) -> list[list[tuple[int, ...]]]:
        """All batches of an epoch for this rank, as tuples of utterance indices; a pure function."""
        kept = self.train.kept
        speakers = [self.train.corpus.utterances[i].speaker or "" for i in kept]
        plan = batches.plan(
            self.train.corpus.lengths_samples[kept],
            seed=self.seed,
            epoch=epoch,
            seconds_per_batch=self.config.seconds_per_batch,
            rate_hz=self.recognizer.rate_hz,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            ascending=self.config.ascending_first_epoch and epoch == 0,
            join=self.config.join,
            groups=speakers,
        )
        return [[tuple(kept[i] for i in item) for item in batch] for batch in plan]

    def _make(self, items: Sequence[tuple[int, ...]]) -> Batch:
        epoch = self.progress.epoch
        batch = collate(
            self.train.corpus,
            self.train.targets,
            items,
            space=self.recognizer.alphabet.space,
            pauses=self._pauses,
        )
        batch.draws = draw(self.augmentation_config, seed=self.seed, epoch=epoch, utterance_ids=batch.ids)
        return batch

    def _pauses(self, name: str, gaps: int) -> list[int]:
        rng = np.random.default_rng(_mix(self.seed, self.progress.epoch, "pause", name))
        longest = int(self.config.pause_s * self.recognizer.rate_hz)
        return [int(n) for n in rng.integers(0, longest + 1, gaps)]

    def _epoch(self) -> None:
        p = self.progress
        plan = self.plan(p.epoch)
        began, saved, audio_samples = time.monotonic(), time.monotonic(), 0
        self.recognizer.features.train()
        self.recognizer.encoder.train()
        groups = [plan[i : i + self.config.accumulate] for i in range(0, len(plan), self.config.accumulate)]
        todo = [items for group in groups[p.step :] for items in group]
        with closing(prefetch(self._make, todo)) as ready:
            for group in groups[p.step :]:
                loss = self._update(ready, len(group), total=len(groups))
                audio_samples += sum(self._samples(item) for items in group for item in items)
                self._tell(
                    loss, len(groups), audio_samples / self.recognizer.rate_hz / (time.monotonic() - began)
                )
                if self._interrupted:
                    self._save()
                    raise KeyboardInterrupt
                if time.monotonic() - saved > self.config.checkpoint_every_s:
                    self._save()
                    saved = time.monotonic()
        self._end_epoch(time.monotonic() - began, audio_samples)

    def _tell(self, loss: float, steps: int, speed: float) -> None:
        p = self.progress
        facts = {
            "epoch": p.epoch + 1,
            "epochs": self.config.epochs,
            "step": p.step,
            "steps": steps,
            "loss": loss,
            "audio_s_per_s": round(speed, 1),
        }
        if p.updates % self.config.log_every == 0 and self.history is not None:
            rate = self.optimizer.param_groups[0]["lr"]
            self.history.add("step", updates=p.updates, learning_rate=rate, **facts)
        self.observe("step", facts)

    def _samples(self, item: tuple[int, ...]) -> int:
        return int(sum(self.train.corpus.lengths_samples[i] for i in item))

    def _update(self, ready: Iterator[Batch], count: int, *, total: int) -> float:
        """One step of the optimiser over `count` batches of every rank; returns its loss per label."""
        p = self.progress
        rate = learning_rate(self.config, p.epoch + (p.step + 1) / total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=False)
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for k in range(count):
            index = (p.step * self.config.accumulate + k) * self.ranks.size + self.ranks.rank
            torch.manual_seed(_mix(self.seed, p.epoch, "dropout", index))
            nll_B, labels_B = self._forward(next(ready))
            possible_B = ~torch.isposinf(nll_B)
            loss = nll_B[possible_B].sum()
            loss.backward()
            sums += torch.stack([loss.detach(), labels_B[possible_B].sum(), (~possible_B).sum()]).double()
        loss_sum, labels, infeasible = self._step(sums)
        p.infeasible += int(infeasible)
        p.step += 1
        p.updates += 1
        if math.isfinite(loss_sum):
            p.loss_sum += loss_sum
            p.labels += int(labels)
        return loss_sum / max(labels, 1)

    def _step(self, sums: Tensor) -> tuple[float, float, float]:
        """Sum gradients over ranks, scale to one label, clip, and move unless something is not finite."""
        p = self.progress
        parameters = [
            q for q in self.recognizer.encoder.parameters() if q.requires_grad and q.grad is not None
        ]
        self.ranks.sum_([sums, *(q.grad for q in parameters if q.grad is not None)])
        loss_sum, labels, infeasible = sums.tolist()
        for q in parameters:
            q.grad.div_(max(labels, 1))  # type: ignore[union-attr]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or math.inf)
        if math.isfinite(loss_sum) and math.isfinite(float(norm)):
            self.optimizer.step()
            p.skipped_in_a_row = 0
            return loss_sum, labels, infeasible
        p.skipped += 1
        p.skipped_in_a_row += 1
        self.observe("skipped", {"loss": loss_sum, "gradient_norm": float(norm), "skipped": p.skipped})
        if p.skipped_in_a_row >= self.config.give_up_after:
            raise TrainingError(
                f"loss or gradient was not finite in {p.skipped_in_a_row} updates in a row; lower "
                f"training.learning_rate (now {self.config.learning_rate}) or try training.precision=float32"
            )
        return loss_sum, labels, infeasible

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood and number of labels of each utterance of a batch."""
        batch = batch.to(self.device)
        with torch.no_grad():
            samples_BT, lengths_B = batch.samples_BT, batch.lengths_B
            warp_B = None
            if batch.draws is not None:
                samples_BT, lengths_B = self.augmentation.waveforms(samples_BT, lengths_B, batch.draws)
                if batch.draws.warp_B is not None:
                    warp_B = batch.draws.warp_B.to(self.device)
            features_BTF, frames_B = self.recognizer.features(samples_BT, lengths_B, warp_B)
            if batch.draws is not None:
                features_BTF = self.augmentation.features(features_BTF, frames_B, batch.draws)
        with self._autocast():
            log_probs_BTV, out_B = self.recognizer.encoder(features_BTF, frames_B)
        nll_B = ctc_loss(log_probs_BTV, batch.targets_BS, out_B, batch.target_lengths_B)
        return nll_B, batch.target_lengths_B

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, self.dtype) if self.dtype is not None else nullcontext()

    def validate(self) -> dict[str, float]:
        """Loss per label, WER, CER and the share of blank frames on the development set."""
        return measure(
            self.recognizer,
            self.dev,
            seconds_per_batch=self.config.seconds_per_batch,
            ranks=self.ranks,
            autocast=self._autocast,
        )

    def _end_epoch(self, seconds: float, audio_samples: int) -> None:
        p = self.progress
        measured = self.validate()
        p.epoch, p.step = p.epoch + 1, 0
        is_best, outdone = self._keep(measured["wer"], measured["dev_loss"])
        facts = {
            "epoch": p.epoch,
            "epochs": self.config.epochs,
            "loss": p.loss_sum / max(p.labels, 1),
            **measured,
            "is_best": is_best,
            "skipped": p.skipped,
            "infeasible": p.infeasible,
            "seconds": round(seconds, 2),
            "audio_s_per_s": round(audio_samples / self.recognizer.rate_hz / max(seconds, 1e-9), 1),
        }
        p.loss_sum, p.labels = 0.0, 0
        if self.history is not None:
            self.history.add("epoch", updates=p.updates, **facts)
        self._save()
        if self.ranks.is_first:
            for epoch in outdone:
                self._weights(epoch).unlink(missing_ok=True)
        self.observe("epoch", facts)

    def _weights(self, epoch: int) -> Path:
        return self.folder / "checkpoints" / f"epoch-{epoch:04d}.pt"

    def _keep(self, wer: float, loss: float) -> tuple[bool, list[int]]:
        """Keep this epoch's weights if among the best; whether it is the best, and which it puts out."""
        p = self.progress
        mine = [wer, loss if math.isfinite(loss) else 1e9, float(p.epoch)]
        is_best = not p.best or mine < p.best[0]
        p.stale_epochs = 0 if is_best else p.stale_epochs + 1
        ranked = sorted([*p.best, mine])
        p.best, outdone = ranked[: max(1, self.config.average)], ranked[max(1, self.config.average) :]
        if self.ranks.is_first and mine in p.best:
            checkpoint.write(self._weights(p.epoch), self.recognizer.encoder.state_dict())
        if self.ranks.is_first and is_best:
            self.recognizer.trained_on |= {"dev_wer": wer, "weights": f"epoch {p.epoch}", "epochs": p.epoch}
            self.recognizer.save(self.folder / "model")
        return is_best, [int(entry[2]) for entry in outdone]

    def _finish(self) -> None:
        """The best weights, or the mean of the best if better on the development set, into the bundle."""
        p = self.progress
        epochs = [int(entry[2]) for entry in p.best]
        states = [checkpoint.read(self._weights(epoch)) for epoch in epochs]
        kept = [s for s in states if s is not None]
        if not kept:
            raise TrainingError(
                f"{self.folder / 'checkpoints'}: the best weights are gone; remove it to start anew"
            )
        encoder = self.recognizer.encoder
        wer, source = p.best[0][0], f"epoch {epochs[0]}"
        encoder.load_state_dict(kept[0])
        if len(kept) > 1:
            encoder.load_state_dict(checkpoint.average(kept))
            averaged = self.validate()["wer"]
            if averaged <= wer:
                wer, source = averaged, "mean of epochs " + ", ".join(map(str, sorted(epochs)))
            else:
                encoder.load_state_dict(kept[0])
        self.recognizer.trained_on |= {"dev_wer": wer, "weights": source, "epochs": p.epoch}
        p.finished = True
        if self.ranks.is_first:
            self.recognizer.eval().save(self.folder / "model")
        self._save()


@contextmanager
def _signals(interrupt: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C asks for a stop at the next step; the second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(*_: object) -> None:
        interrupt()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {s: signal.signal(s, first) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _mix(*parts: object) -> int:
    """63 bits that depend on all parts alone."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
