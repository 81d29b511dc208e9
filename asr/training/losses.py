"""Batches → gradients: the forward pass, the CTC loss, and what to do when memory runs out."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from asr.augmentation import Augmentation
from asr.ctc import ctc_loss
from asr.errors import ConfigError, TrainingError
from asr.recognizer import Recognizer
from asr.training.feed import mix
from asr.training.loader import Batch


class Loss:
    """Adds the gradient of batch after batch to the weights' `grad`.

    The loss of an utterance is its negative log-likelihood, or (1 − w) of it and w of that of the
    intermediate output layer. Source: Lee & Watanabe 2021, "Intermediate loss regularization for CTC-based
    speech recognition".

    Args:
        recognizer, augmentation: on their device.
        intermediate_weight: w, from 0 to below 1.
        dtype: of autocast; None multiplies in float32.

    Raises:
        ConfigError: w without an intermediate output layer, or out of its range.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        augmentation: Augmentation,
        *,
        intermediate_weight: float,
        dtype: torch.dtype | None,
    ) -> None:
        if not 0 <= intermediate_weight < 1:
            raise ConfigError(
                f"training.intermediate_weight={intermediate_weight}: expected 0 to less than 1"
            )
        if intermediate_weight and recognizer.encoder.intermediate is None:
            raise ConfigError(
                f"training.intermediate_weight={intermediate_weight} needs a layer to read: "
                "set encoder.intermediate_layer"
            )
        self.recognizer, self.augmentation = recognizer, augmentation
        self.intermediate_weight, self.dtype = intermediate_weight, dtype

    def autocast(self) -> Any:
        """The context in which the encoder runs."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.recognizer.device.type, self.dtype)

    def add_gradient(self, batch: Batch, *, seed: int) -> Tensor:
        """Add the gradient of the batch's summed loss; without enough memory, in two halves, or in more.

        Args:
            batch: on the CPU.
            seed: of the dropout.

        Returns:
            float64 (4,) on the device: loss (nats), labels, utterances too short for their text, splits.

        Raises:
            TrainingError: a single utterance does not fit into memory.
        """
        try:
            return self._add_gradient(batch, seed)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch.ids) == 1:
                seconds = batch.samples_BT.shape[1] / self.recognizer.rate_hz
                raise TrainingError(
                    f"out of memory with {batch.ids[0]} alone ({seconds:.1f} s): lower data.max_s, or take a "
                    "smaller encoder"
                ) from error
        # Here, not in the handler: the error held all that the failed attempt had in memory.
        if self.recognizer.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(batch.ids) // 2
        halves = (batch.rows(0, middle), batch.rows(middle, len(batch.ids)))
        sums = [self.add_gradient(half, seed=mix(seed, "half", k)) for k, half in enumerate(halves)]
        total = sums[0] + sums[1]
        total[3] += 1
        return total

    def _add_gradient(self, batch: Batch, seed: int) -> Tensor:
        torch.manual_seed(seed)
        batch = batch.to(self.recognizer.device)
        features_BTF, frames_B = self._features(batch)
        targets = (batch.targets_BS, batch.target_lengths_B)
        with self.autocast():
            if self.intermediate_weight:
                log_probs_BTV, middle_BTV, out_B = self.recognizer.encoder.with_intermediate(
                    features_BTF, frames_B
                )
            else:
                log_probs_BTV, out_B = self.recognizer.encoder(features_BTF, frames_B)
        nll_B = ctc_loss(log_probs_BTV, targets[0], out_B, targets[1])
        possible_B = ~torch.isposinf(nll_B)
        loss = goal = nll_B[possible_B].sum()
        if self.intermediate_weight:
            middle_B = ctc_loss(middle_BTV, targets[0], out_B, targets[1])
            w = self.intermediate_weight
            goal = (1 - w) * loss + w * middle_B[possible_B].sum()
        weights = [p for p in self.recognizer.encoder.parameters() if p.requires_grad]
        # All gradients before any is added: if memory runs out on the way, nothing has been added.
        found = torch.autograd.grad(goal, weights, allow_unused=True)
        for p, gradient in zip(weights, found, strict=True):
            if gradient is not None:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                p.grad.add_(gradient)
        labels, impossible = targets[1][possible_B].sum(), (~possible_B).sum()
        return torch.stack([loss.detach(), labels, impossible, torch.zeros_like(labels)]).double()

    @torch.no_grad()
    def _features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        samples_BT, lengths_B, warp_B = batch.samples_BT, batch.lengths_B, None
        if batch.draws is not None:
            samples_BT, lengths_B = self.augmentation.waveforms(samples_BT, lengths_B, batch.draws)
            if batch.draws.warp_B is not None:
                warp_B = batch.draws.warp_B.to(self.recognizer.device)
        features_BTF, frames_B = self.recognizer.features(samples_BT, lengths_B, warp_B)
        if batch.draws is not None:
            features_BTF = self.augmentation.features(features_BTF, frames_B, batch.draws)
        return features_BTF, frames_B


def is_out_of_memory(error: BaseException) -> bool:
    """True for what torch, on a GPU or a processor, and numpy raise when memory does not suffice."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(word in str(error) for word in words)
