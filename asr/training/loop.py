"""The training loop: batches in, a bundle out; on a CPU bit-identical whether or not it was interrupted.

Position (epoch, step), weights and optimiser are the only state. Step n's batch, augmentation and dropout
follow from (seed, epoch, step); the learning rate from the progress. So training resumes exactly from a
checkpoint at any step boundary, whether written by time or by signal.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.augmentation import Augmentation, AugmentationConfig
from asr.corpus.packed import PackedCorpus
from asr.draws import mix
from asr.errors import TrainingError
from asr.machine.devices import autocast_dtype, choose_device
from asr.machine.memory import give_back, keep_freed
from asr.recognizer import Recognizer
from asr.segmentation import LONGEST_S
from asr.training import checkpoint
from asr.training.best import BestEpochs
from asr.training.distributed import Ranks
from asr.training.doctor import Watch
from asr.training.feed import Feed
from asr.training.finetuning import freeze, moved_back, start_from
from asr.training.history import History
from asr.training.identity import Identity
from asr.training.interruption import on_signal
from asr.training.ledger import Ledger
from asr.training.loader import Batch
from asr.training.losses import Loss
from asr.training.optim import TrainingConfig, Updater, denominator, learning_rate
from asr.training.samples import murmur
from asr.training.validation import Split, measure

Observer = Callable[[str, dict[str, Any]], None]
"""Called with `step`, `epoch` or `skipped` and the facts of it, e.g. to draw a progress bar."""

_LOGGER = logging.getLogger(__name__)


class Trainer:
    """Trains the recogniser in place and writes everything below `folder`.

    Args:
        recognizer: freshly built or loaded from a bundle (fine-tuning).
        train, dev: packed corpora at the recogniser's rate.
        config, augmentation: settings; augmentation applies to the training split only.
        seed: of everything random.
        folder: of the experiment: `checkpoints/`, `model/`, `history.jsonl`.
        identity: settings that must be the same when an interrupted run is resumed, as plain values.
        defaults: of those settings, for runs that were begun before a setting existed.
        observer: told of steps and epochs.
        min_s, max_s: training utterances outside are left out; `Trainer.train.left_out` lists them.
        resident: whether training samples are held in the memory of the device, see `open_samples`.
        must_stop: called at each step; returns True if another process wants this one to stop.

    Raises:
        ConfigError: settings that contradict each other.
        CorpusError: no utterance can be learnt from.
        TrainingError: the folder has a checkpoint of a run with other settings.
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
        defaults: dict[str, Any] | None = None,
        observer: Observer | None = None,
        min_s: float = 0.0,
        max_s: float = math.inf,
        resident: str = "auto",
        must_stop: Callable[[], bool] = bool,
    ) -> None:
        self.ranks = Ranks()
        self.config, self.seed, self.folder = config, seed, folder
        device = choose_device(config.device)
        self.recognizer = recognizer.to(device)
        self.train = Split(train, recognizer, min_s=min_s, max_s=max_s)
        self.dev = Split(dev, recognizer, min_s=0, max_s=max(max_s, LONGEST_S))
        how: dict[str, Any] = {"config": config, "augmentation": augmentation, "seed": seed}
        self.feed = Feed(self.train, recognizer, **how, ranks=self.ranks, resident=resident)
        voices = murmur(train, self.train.kept) if augmentation.voices else None
        self.loss = Loss(
            recognizer,
            Augmentation(augmentation, rate_hz=recognizer.rate_hz, voices=voices).to(device),
            config,
            targets=[self.train.targets[i] for i in self.train.kept],
            dtype=autocast_dtype(config.precision, device),
        )
        self.observe = observer or (lambda kind, values: None)
        freeze(recognizer.encoder, config.freeze)
        self.updater = Updater(recognizer.encoder, config, self.ranks)
        self.progress = checkpoint.Progress(ranks=self.ranks.size)
        self.identity = Identity(identity or {}, train.fingerprint, dev.fingerprint, seed)
        self.history: History | None = None
        self._interrupted, self._must_stop = False, must_stop
        self.taken_over = 0  # outputs, from the bundle `start_from`, if this run begins now
        self._taken: dict[str, Tensor] = {}  # weights from there, if a share of them comes back in the end
        self._resume(defaults or {})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.recognizer.device

    @property
    def last(self) -> Path:
        """The file of the last checkpoint."""
        return checkpoint.last(self.folder)

    @property
    def best(self) -> BestEpochs:
        """The epochs whose weights are kept."""
        by_loss = self.config.denominator > 0  # then greedy WER says little about beam search
        kept = self.progress.best
        return BestEpochs(self.last.parent, count=self.config.average, entries=kept, by_loss=by_loss)

    def _resume(self, defaults: dict[str, Any]) -> None:
        state = checkpoint.read(self.last)
        if state is None:
            if (bundle := self.config.start_from) is not None:
                self.taken_over, taken = start_from(self.recognizer, bundle, self.config.start_member)
                self._taken = taken if self.config.start_share else {}
            return
        if differing := self.identity.differs_in(state["identity"], defaults):
            raise TrainingError(
                f"{self.last}: begun with {differing}; "
                "give the run its own folder (exp=…), or remove this one to start anew"
            )
        if (base := state.get("start_from")) is not None:  # absent from checkpoints of older versions
            self.recognizer.trained_on["start_from"] = base
        self._taken = state.get("taken", {})
        self.recognizer.encoder.load_state_dict(state["encoder"])
        self.recognizer.features.load_state_dict(state["features"])
        self.updater.optimizer.load_state_dict(state["optimizer"])
        self.progress = checkpoint.Progress.resumed(state["progress"], self.ranks.size)

    def _save(self) -> None:
        give_back()
        if self.ranks.is_first:
            checkpoint.write(
                self.last,
                {
                    "identity": dataclasses.asdict(self.identity),
                    "encoder": self.recognizer.encoder.state_dict(),
                    "features": self.recognizer.features.state_dict(),
                    "optimizer": self.updater.optimizer.state_dict(),
                    "progress": dataclasses.asdict(self.progress),
                    "start_from": self.recognizer.trained_on.get("start_from"),
                    "taken": self._taken,
                },
            )

    def run(self) -> checkpoint.Progress:
        """Train to the end, or until interrupted by a signal; a finished run returns at once.

        Raises:
            TrainingError: too many non-finite steps in a row, a full disk, or a lost rank.
            BundleError: the disk is full.
            KeyboardInterrupt: after Ctrl-C, once a checkpoint has been written; it may be the last one.
        """
        if self.progress.finished:
            return self.progress
        with self.ranks, on_signal(self._interrupt):
            p = self.progress
            self.ranks.check_same([self.identity, p.epoch, p.step], what=f"{self.last} on a shared disk")
            record = History(self.folder, updates=p.updates, epoch=p.epoch) if self.ranks.is_first else None
            self.ledger = Ledger(p, self.config, self.observe)
            self.watch = Watch(record.lines if record else [])
            keep_freed()
            with record or nullcontext() as self.history:
                while p.epoch < self.config.epochs and not 0 < self.config.patience <= p.stale_epochs:
                    self._epoch()
                self._finish()
            if self._interrupted and self.ranks.size == 1:  # since the last step
                raise KeyboardInterrupt
        return self.progress

    def _interrupt(self) -> None:
        self._interrupted = True

    def _epoch(self) -> None:
        p = self.progress
        plan = self.feed.plan(p.epoch)
        began, saved, audio_s, self.feed.waited_s = time.monotonic(), time.monotonic(), 0.0, 0.0
        self.recognizer.features.train()
        self.recognizer.encoder.train()
        groups = [plan[i : i + self.config.accumulate] for i in range(0, len(plan), self.config.accumulate)]
        todo = [items for group in groups[p.step :] for items in group]
        with closing(self.feed.batches(p.epoch, todo)) as ready:
            for group in groups[p.step :]:
                self._update(ready, len(group), total=len(groups))
                audio_s += self.feed.audio_s(group)
                if not (self.ledger.is_due or self._is_logged(p.updates) or p.step == len(groups)):
                    continue
                self.ledger.read()
                self._tell(len(groups), audio_s / (time.monotonic() - began))
                if self._stops:
                    self._save()
                    raise KeyboardInterrupt
                if time.monotonic() - saved > self.config.checkpoint_every_s:
                    self._save()
                    saved = time.monotonic()
        seconds = time.monotonic() - began
        self._end_epoch(
            padding=round(self.feed.padding_share(p.epoch, plan), 4),
            seconds=round(seconds, 2),
            waited=round(self.feed.waited_s / max(seconds, 1e-9), 4),
            audio_s_per_s=round(audio_s / max(seconds, 1e-9), 1),
        )

    def _update(self, ready: Iterator[Batch], count: int, *, total: int) -> None:
        """One optimiser step over `count` batches of every rank, without a device sync."""
        p = self.progress
        progress = p.epoch + (p.step + 1) / total
        self.updater.begin(learning_rate(self.config, progress))
        self.loss.denominator = denominator(self.config, progress)
        sums = torch.zeros(5, dtype=torch.float64, device=self.device)
        for k in range(count):
            index = (p.step * self.config.accumulate + k) * self.ranks.size + self.ranks.rank
            sums[:4] += self.loss.add_gradient(next(ready), seed=mix(self.seed, p.epoch, "dropout", index))
        self._interrupted |= self._must_stop()
        sums[4] = self._interrupted
        self.ledger.add(sums, self.updater.finish(sums, by_layer=self._is_logged(p.updates + 1)))
        p.step += 1
        p.updates += 1

    @property
    def _stops(self) -> bool:
        """Whether to stop after the updates that were read; of several ranks all do, at the same one."""
        return self.ledger.stop_requests > 0 if self.ranks.size > 1 else self._interrupted

    def _tell(self, steps: int, speed: float) -> None:
        p = self.progress
        place = {"epoch": p.epoch + 1, "epochs": self.config.epochs, "step": p.step, "steps": steps}
        facts = place | {"loss": self.ledger.loss, "audio_s_per_s": round(speed, 1)}
        if self._is_logged(p.updates) and self.history is not None:
            layers = {layer: float(f"{float(n):.4g}") for layer, n in self.updater.norms.items()}
            norms = {"gradient_norm": self.ledger.norm, "gradient_norms": layers}
            rate = self.updater.optimizer.param_groups[0]["lr"]
            self.history.add("step", updates=p.updates, learning_rate=rate, **facts, **norms)
        self.observe("step", facts)

    def _is_logged(self, updates: int) -> bool:
        return updates % self.config.log_every == 0

    def validate(self) -> dict[str, float]:
        """The scores of `measure` on the development set; its loss has the full weight of the denominator."""
        self.loss.denominator = self.config.denominator
        return measure(
            self.recognizer,
            self.dev,
            seconds_per_batch=self.config.seconds_per_batch,
            ranks=self.ranks,
            loss=self.loss,
        )

    def _end_epoch(self, **measured_in_training: float) -> None:
        p = self.progress
        measured = self.validate()
        p.epoch, p.step = p.epoch + 1, 0
        is_best, outdone = self._keep(measured["wer"], measured["dev_loss"])
        facts = {
            "epoch": p.epoch,
            "epochs": self.config.epochs,
            "loss": p.loss_sum / p.labels if p.labels else math.nan,
            **measured,
            "denominator": self.config.denominator,
            "is_best": is_best,
            "skipped": p.skipped,
            "infeasible": p.infeasible,
            "out_of_memory": p.out_of_memory,
            "utterances": len(self.train.kept),
            "left_out": {reason: len(ids) for reason, ids in self.train.left_out.items() if ids},
            **measured_in_training,
        }
        p.loss_sum, p.labels = 0.0, 0
        if self.history is not None:
            self.history.add("epoch", updates=p.updates, **facts)
            for diagnosis in self.watch.news(self.history.lines):
                _LOGGER.warning("epoch %d: %s", p.epoch, diagnosis)
        self._save()
        if self.ranks.is_first:
            self.best.remove(outdone)
        self.observe("epoch", facts)

    def _keep(self, wer: float, loss: float) -> tuple[bool, list[int]]:
        """Keep this epoch's weights if among the best; whether it is the best, and which are dropped."""
        p = self.progress
        is_best, is_kept, outdone = self.best.enter(p.epoch, wer, loss)
        p.stale_epochs = 0 if is_best else p.stale_epochs + 1
        if self.ranks.is_first and is_kept:
            self.best.write(p.epoch, self.recognizer.encoder.state_dict())
        if is_best:
            self._save_bundle(wer, f"epoch {p.epoch}")
        return is_best, outdone

    def _finish(self) -> None:
        """Save the final bundle: the mean of the best epochs, or the best if the mean is worse on dev."""
        p, order, takes_mean = self.progress, self.best.order, False
        kept = self.best.read() if self.ranks.is_first else []
        if len(p.best) > 1:
            self._set_weights(checkpoint.average([state for _, state in kept]) if kept else {})
            mean = self.validate()
            takes_mean = order([mean["wer"], mean["dev_loss"], math.inf])[0] <= order(p.best[0])[0]
        if takes_mean:
            epochs = sorted(int(epoch) for *_, epoch in p.best)
            wer, source = mean["wer"], f"mean of epochs {', '.join(map(str, epochs))}"
        else:
            self._set_weights(kept[0][1] if kept else {})
            wer, source = p.best[0][0], f"epoch {int(p.best[0][2])}"
        if (share := self.config.start_share) and self._taken:
            self._set_weights(moved_back(self.recognizer.encoder.state_dict(), self._taken, share))
            wer, source = self.validate()["wer"], f"{source}, {share:.0%} of the way back"
        p.finished = True
        self.recognizer.encoder.eval()
        self._save_bundle(wer, source)
        self._save()

    def _set_weights(self, state: dict[str, Tensor]) -> None:
        """Load the weights, which the first rank has, on all ranks."""
        if state:
            self.recognizer.encoder.load_state_dict(state)
        self.ranks.spread_(self.recognizer.encoder.state_dict().values())

    def _save_bundle(self, wer: float, source: str) -> None:
        self.recognizer.trained_on |= {"dev_wer": wer, "weights": source, "epochs": self.progress.epoch}
        if self.ranks.is_first:
            self.recognizer.save(self.folder / "model")
