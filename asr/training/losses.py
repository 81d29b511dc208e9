"""Batches → gradients: the forward pass and the losses."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from asr import lm
from asr.augmentation import Augmentation
from asr.ctc import ctc_loss, fits, log_denominator, log_prior
from asr.draws import mix
from asr.errors import ConfigError
from asr.machine import devices
from asr.recognizer import Recognizer
from asr.spans import inside
from asr.training.loader import Batch, in_halves
from asr.training.optim import TrainingConfig

MOST_OUTPUTS = 128
"""Largest number of outputs for which a denominator is supported."""


class Loss:
    """Computes the gradients of batches and adds them to the weights' `grad`.

    The loss of an utterance is its negative log-likelihood, or 1 − w times that plus w times that of the
    intermediate output layer. Source: Lee & Watanabe 2021, "Intermediate loss regularization for CTC-based
    speech recognition".

    With consistency c the encoder sees every utterance twice, with different masks and dropout. The loss is
    the mean of both, plus c times the mean of Σ_t KL(other_t ‖ one_t) in both directions, without gradients
    through the other's distributions. Source: Yao et al. 2024, "CR-CTC: consistency regularization on CTC for
    improved speech recognition".

    With denominator d the loss is discriminative: −ln p(l | x) + d (ln Σ_k P(k) p(k | x) − ln P(l)), with P a
    trigram of the targets; d = 1 gives the negative log-posterior of l. See `asr.ctc.log_denominator`.

    Args:
        recognizer, augmentation: on their device.
        config: w is its `intermediate_weight`, c its `consistency`, and d its `denominator`, of which the
            attribute may be changed later.
        targets: all training targets, for P; read only if d is not 0.
        dtype: of autocast; None multiplies in float32.

    Raises:
        ConfigError: w without an intermediate output layer, or d with many outputs.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        augmentation: Augmentation,
        config: TrainingConfig,
        *,
        targets: Sequence[Sequence[int]],
        dtype: torch.dtype | None,
    ) -> None:
        if config.intermediate_weight and recognizer.encoder.intermediate is None:
            raise ConfigError(
                f"training.intermediate_weight={config.intermediate_weight} needs a layer to read: "
                "set encoder.intermediate_layer"
            )
        self.recognizer, self.augmentation, self.dtype = recognizer, augmentation, dtype
        self.intermediate_weight, self.consistency = config.intermediate_weight, config.consistency
        self.denominator = config.denominator
        if self.denominator:
            self.trigram_VVV = label_trigram(targets, recognizer.alphabet.size).to(recognizer.device)

    def of_utterances(
        self, log_probs_BTV: Tensor, targets_BS: Tensor, frames_B: Tensor, labels_B: Tensor
    ) -> Tensor:
        """The loss of each utterance from the final output layer only, in nats (B,).

        +∞ if the text is too long for the frames, or a diverged model gives it no probability at all.
        """
        nll_B = ctc_loss(log_probs_BTV, targets_BS, frames_B, labels_B)
        if self.denominator:
            prior_B = log_prior(targets_BS, labels_B, self.trigram_VVV)
            others_B = log_denominator(log_probs_BTV, frames_B, self.trigram_VVV)
            nll_B = nll_B + self.denominator * (others_B - prior_B)
        return nll_B

    def autocast(self) -> Any:
        """The context in which the encoder runs."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.recognizer.device.type, self.dtype)

    def add_gradient(self, batch: Batch, *, seed: int) -> Tensor:
        """Add the gradient of the batch's summed loss; if memory runs out, in halves, recursively.

        Args:
            batch: its samples on the CPU or on the device.
            seed: of the dropout.

        Returns:
            float64 (4,) on the device: loss (nats), labels, utterances too short for their text, splits.
            There is no device sync, except in torch's own CTC kernel.

        Raises:
            TrainingError: a single utterance does not fit into memory.
        """

        def add(part: Batch) -> Tensor:
            return self._add_at_once(part, seed if part is batch else mix(seed, part.ids))

        parts = in_halves(add, batch, rate_hz=self.recognizer.rate_hz)
        total = torch.stack(parts).sum(0)
        total[3] = len(parts) - 1
        return total

    def _add_at_once(self, batch: Batch, seed: int) -> Tensor:
        """As `add_gradient`, without halves: `goal` is what is differentiated, `loss` what is returned."""
        devices.seed(seed, self.recognizer.device)
        batch = batch.to(self.recognizer.device)
        features_BTF, frames_B = self._features(batch)
        # Lengths and targets stay on the CPU, where the loss reads them.
        targets_BS, labels_B, draws = batch.targets_BS, batch.target_lengths_B, batch.draws
        if self.consistency:
            features_BTF, frames_B = torch.cat([features_BTF] * 2), frames_B.repeat(2)
            targets_BS, labels_B = targets_BS.repeat(2, 1), labels_B.repeat(2)
            draws = draws and draws.and_other_masks(seed, batch.ids)
        if draws is not None:
            features_BTF, frames_B = self.augmentation.features(features_BTF, frames_B, draws)
        out_B, frames_B = self.recognizer.encoder.output_lengths(frames_B), self._sent(frames_B)
        with self.autocast():
            if self.intermediate_weight:
                log_probs_BTV, middle_BTV, _ = self.recognizer.encoder.with_intermediate(
                    features_BTF, frames_B
                )
            else:
                log_probs_BTV, _ = self.recognizer.encoder(features_BTF, frames_B)
        nll_B = self.of_utterances(log_probs_BTV, targets_BS, out_B, labels_B)
        possible_B = self._sent(fits(targets_BS, out_B, labels_B))
        loss = goal = torch.where(possible_B, nll_B, 0.0).sum()
        if self.intermediate_weight:
            middle_B = ctc_loss(middle_BTV, targets_BS, out_B, labels_B)
            w = self.intermediate_weight
            goal = (1 - w) * loss + w * torch.where(possible_B, middle_B, 0.0).sum()
        labels, impossible = torch.where(possible_B, self._sent(labels_B), 0).sum(), (~possible_B).sum()
        if self.consistency:
            apart_B = _cross_entropy(log_probs_BTV, self._sent(out_B))
            goal = (goal + self.consistency * torch.where(possible_B, apart_B, 0.0).sum()) / 2
            loss, labels, impossible = loss / 2, labels // 2, impossible // 2
        weights = [p for p in self.recognizer.encoder.parameters() if p.requires_grad]
        # All gradients are computed before any is added: if memory runs out here, none has been added.
        _add(weights, torch.autograd.grad(goal, weights, allow_unused=True))
        return torch.stack([loss.detach(), labels, impossible, torch.zeros_like(labels)]).double()

    def _sent(self, tensor: Tensor) -> Tensor:
        return devices.sent(tensor, self.recognizer.device)

    @torch.no_grad()
    def _features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features of the augmented recordings on the device, not yet masked; their lengths on the CPU."""
        samples_BT, lengths_B, draws = batch.samples_BT, batch.lengths_B, batch.draws
        if draws is not None:
            samples_BT, lengths_B = self.augmentation.waveforms(samples_BT, lengths_B, draws)
        warp_B = None if draws is None or draws.warp_B is None else self._sent(draws.warp_B)
        moments_B2F = None if batch.moments_B2F is None else self._sent(batch.moments_B2F)
        features_BTF, _ = self.recognizer.features(samples_BT, self._sent(lengths_B), warp_B, moments_B2F)
        return features_BTF, self.recognizer.features.output_lengths(lengths_B)


def label_trigram(targets: Sequence[Sequence[int]], outputs: int) -> Tensor:
    """P(c | a, b) of labels, interpolated Kneser–Ney, as `asr.ctc.log_denominator` expects it.

    Raises:
        ConfigError: more than `MOST_OUTPUTS` outputs, as the table has outputs³ entries.
    """
    if outputs > MOST_OUTPUTS:
        raise ConfigError(
            f"training.denominator needs few outputs, such as phones or characters: at most {MOST_OUTPUTS}, "
            f"not {outputs}"
        )
    model = lm.train((" ".join(map(str, labels)) for labels in targets), order=3, quiet=True)
    return torch.from_numpy(model.trigrams([str(label) for label in range(1, outputs)]))


def _cross_entropy(log_probs_BTV: Tensor, lengths_B: Tensor) -> Tensor:
    """Cross-entropy between the two passes of each utterance, nats (B,): KL(other ‖ one) up to a constant."""
    one_BTV, other_BTV = log_probs_BTV.detach().exp().chunk(2)
    nats_BT = -(torch.cat([other_BTV, one_BTV]) * log_probs_BTV).sum(2)
    return torch.where(inside(lengths_B, nats_BT.shape[1])[..., 0], nats_BT, 0.0).sum(1)


def _add(weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients to those of the weights; a weight without one takes the new tensor itself."""
    pairs = [(w, g) for w, g in zip(weights, gradients, strict=True) if g is not None]
    old = [(w.grad, g) for w, g in pairs if w.grad is not None]
    if old:
        torch._foreach_add_([sum_so_far for sum_so_far, _ in old], [g for _, g in old])
    for w, g in pairs:
        w.grad = g if w.grad is None else w.grad
