"""Trains a recurrent language model: sentences in, the weights of the epoch that predicts others best out."""

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.errors import LanguageModelError
from asr.lm.ngram import check_sentences, grouped, per_word
from asr.lm.recurrent import BORDER, RecurrentConfig, RecurrentModel
from asr.machine import devices, states
from asr.machine.optimizer import AdamW
from asr.text import Alphabet, normalise

HELD_OUT_EVERY = 100
MOST_HELD_OUT = 1000
_JITTER = 6  # pieces by which the lengths in a batch may differ, so that batches are not the same each time
_WARMUP = 300  # updates
_FINAL_SHARE = 0.02  # of the learning rate
_PADDING = -100


@dataclass(frozen=True)
class Report:
    """Perplexities per word after an epoch: of the training text (with dropout) and of held-out text."""

    epoch: int
    training: float
    held_out: float


Rows = Sequence[Sequence[int]]


def train(
    sentences: Iterable[str],
    config: RecurrentConfig | None = None,
    *,
    seed: int = 1,
    device: str = "auto",
    checkpoint: Path | None = None,
    on_update: Callable[[int, int], None] = lambda done, total: None,
    on_epoch: Callable[[Report], None] = lambda report: None,
) -> RecurrentModel:
    """A recurrent language model of these sentences, in evaluation mode, on the CPU.

    Every hundredth sentence (at most 1,000) is held out; the weights are those of the epoch that predicts
    them best. On a CPU the same text, settings and seed give the same weights.

    Args:
        sentences: normalised text, words separated by white space; empty ones are skipped.
        config: None takes the defaults.
        seed: of weights, order and dropout.
        device: `auto` takes a GPU if there is one.
        checkpoint: written after each epoch; training goes on from it if it is of the same text and settings.
        on_update: called with (updates done, updates in all).
        on_epoch: called after each epoch.

    Raises:
        LanguageModelError: fewer than two sentences, one text instead of several, or the loss is not finite.
    """
    check_sentences(sentences)
    config = config or RecurrentConfig()
    texts = [text for sentence in sentences if (text := normalise(sentence, "none"))]
    if len(texts) < 2:
        raise LanguageModelError(f"{len(texts)} sentences: a recurrent language model needs at least two")
    characters = len({c for text in texts for c in text}) + 1
    pieces = Alphabet.from_texts(texts, subwords=max(config.pieces, characters))
    rows = [pieces.encode(text) for text in texts]
    place = devices.choose_device(device)
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        devices.seed(seed, place)
        lesson = _Lesson(RecurrentModel(pieces, config), rows, seed, place)
        words = np.array([len(text.split()) + 1 for text in texts])  # with the end of each
        lesson.resume(checkpoint)
        while lesson.epoch < config.epochs:
            nats = lesson.learn(on_update)
            counts = int(words[lesson.studied].sum()), int(words[lesson.held_out].sum())
            on_epoch(Report(lesson.epoch, *map(per_word, nats, counts)))
            if checkpoint is not None:
                lesson.write(checkpoint)
    model = lesson.model.cpu().eval()
    model.load_state_dict(lesson.best)
    return model


class _Lesson:
    """A model while it is trained, epoch by epoch."""

    def __init__(self, model: RecurrentModel, rows: Rows, seed: int, device: torch.device) -> None:
        self.model, self.rows, self.seed, self.device = model.to(device), rows, seed, device
        self.held_out = range(0, len(rows), HELD_OUT_EVERY)[:MOST_HELD_OUT]
        self.studied = np.setdiff1d(np.arange(len(rows)), self.held_out)
        rate = model.config.learning_rate
        self.optimizer = AdamW(model.parameters(), rate, betas=(0.9, 0.98), fused=True)
        self.epoch, self.best_nats, self.best = 0, math.inf, _copied(model)
        crc = 0
        for row in rows:
            crc = zlib.crc32(np.array(row, np.int32).tobytes(), crc)
        self.of = {"config": asdict(model.config), "seed": seed, "text": crc}

    def learn(self, on_update: Callable[[int, int], None]) -> tuple[float, float]:
        """(nats of the studied text, nats of the held-out text) after one more epoch."""
        batches, config = self._plan(), self.model.config
        done, total = self.epoch * len(batches), config.epochs * len(batches)
        sums = torch.zeros((), dtype=torch.float64, device=self.device)
        self.model.train()
        for number, batch in enumerate(batches, done):
            devices.seed(zlib.crc32(f"{self.seed} {number}".encode()), self.device)  # of dropout
            for group in self.optimizer.param_groups:
                group["lr"] = config.learning_rate * rate_share(number, total)
            nats, count = self._loss([self.rows[i] for i in batch])
            self.optimizer.zero_grad()
            (nats / count).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            sums += nats.detach()
            on_update(number + 1, total)
        self.epoch += 1
        held = self._examine()
        if not math.isfinite(held):
            raise LanguageModelError(
                f"the loss of the recurrent language model is {held} after epoch {self.epoch}: "
                f"lower its learning_rate of {config.learning_rate}"
            )
        if held < self.best_nats:
            self.best_nats, self.best = held, _copied(self.model)
        return float(sums), held

    @torch.no_grad()
    def _examine(self) -> float:
        self.model.eval()
        size = self.model.config.sentences_per_batch
        order = sorted(self.held_out, key=lambda i: len(self.rows[i]))
        return sum(float(self._loss([self.rows[i] for i in batch])[0]) for batch in grouped(order, size))

    def _plan(self) -> list[list[int]]:
        """The sentences of each batch of the coming epoch: of similar lengths, in random order."""
        random, size = np.random.default_rng([self.seed, self.epoch]), self.model.config.sentences_per_batch
        lengths = np.array([len(self.rows[i]) for i in self.studied])
        order = self.studied[np.argsort(lengths + _JITTER * random.random(len(lengths)), kind="stable")]
        batches = list(grouped(order.tolist(), size))
        return [batches[i] for i in random.permutation(len(batches))]

    def _loss(self, rows: Rows) -> tuple[Tensor, int]:
        """The nats of all pieces and ends of these rows, and how many there are."""
        steps = max(map(len, rows)) + 1
        previous_BT, next_BT = torch.full((2, len(rows), steps), BORDER)
        next_BT.fill_(_PADDING)
        for before, after, row in zip(previous_BT, next_BT, rows, strict=True):
            before[1 : len(row) + 1] = after[: len(row)] = torch.tensor(row)
            after[len(row)] = BORDER
        places = devices.sent((next_BT.flatten() != _PADDING).nonzero()[:, 0], self.device)
        previous_BT, next_BT = (devices.sent(part, self.device) for part in (previous_BT, next_BT))
        next_N = next_BT.flatten()[places]
        dtype = devices.autocast_dtype("auto", self.device)
        with torch.autocast(self.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            hidden_NH = self.model.hidden(previous_BT).flatten(0, 1)[places]
            logits_NV = self.model.logits(hidden_NH)
        return functional.cross_entropy(logits_NV, next_N, reduction="sum"), len(places)

    def resume(self, path: Path | None) -> None:
        """Go on from a checkpoint, if there is one of the same text, settings and seed."""
        state = None if path is None else states.read(path, error=LanguageModelError)
        if state is not None and state["of"] == self.of:
            self.epoch, self.best_nats, self.best = state["epoch"], state["best_nats"], state["best"]
            if self.epoch < self.model.config.epochs:
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])

    def write(self, path: Path) -> None:
        """Save the state, after the last epoch without what only training needs."""
        state = {"of": self.of, "epoch": self.epoch, "best_nats": self.best_nats, "best": self.best}
        if self.epoch < self.model.config.epochs:
            state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        states.write(path, state, error=LanguageModelError)


def rate_share(update: int, total: int) -> float:
    """The share of the learning rate at an update: a linear rise, then half a cosine.

    >>> [round(rate_share(n, 10_000), 2) for n in (0, 149, 299, 5150, 10_000)]
    [0.0, 0.5, 1.0, 0.51, 0.02]
    """
    warmup = min(_WARMUP, total // 10 + 1)
    x = min(max(update - warmup, 0) / max(total - warmup, 1), 1.0)
    fall = _FINAL_SHARE + (1 - _FINAL_SHARE) * (1 + math.cos(math.pi * x)) / 2
    return min((update + 1) / warmup, 1.0) * fall


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
