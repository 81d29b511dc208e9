"""What the recordings of each speaker are like on average, by which training can normalise them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from asr.augmentation import AugmentationConfig, Draws
from asr.corpus.packed import PackedCorpus
from asr.features import Features
from asr.training.samples import in_batches

MOST_S = 180.0
"""Seconds of a speaker that count, the first ones. Half a minute of words is enough, ten seconds are not."""
_STEP = 0.1
"""Between the scales of frequency for which moments are computed; those in between are interpolated."""


class Speakers:
    """Mean and mean square of the features of each speaker, at each scale that augmentation can give.

    Args:
        features: computes them, on its device, as in training.
        corpus: whose speakers; all recordings without one count as one speaker's.
        utterances: those of the corpus that are trained on.
        augmentation: which scales of frequency it draws, by speed and vocal-tract length.
    """

    @torch.no_grad()
    def __init__(
        self,
        features: Features,
        corpus: PackedCorpus,
        utterances: Sequence[int],
        augmentation: AugmentationConfig,
    ) -> None:
        speeds = augmentation.speed or (1.0,)
        self._speeds = torch.tensor(speeds)
        low, high = min(speeds) * (1 - augmentation.warp), max(speeds) * (1 + augmentation.warp)
        self._scales = torch.linspace(low, high, max(2, math.ceil((high - low) / _STEP) + 1))
        self._names = [utterance.speaker for utterance in corpus.utterances]
        of: dict[str | None, list[int]] = {}
        heard_s: Counter[str | None] = Counter()
        for i in utterances:
            name = self._names[i]
            if heard_s[name] < MOST_S:
                of.setdefault(name, []).append(i)
                heard_s[name] += corpus.lengths_samples[i] / corpus.rate_hz
        self._row = {name: row for row, name in enumerate(of)}
        moments = [_moments(features, in_batches(corpus, ours), self._scales) for ours in of.values()]
        self._moments_SG2F = torch.stack(moments)

    def moments(self, utterances: Sequence[int], draws: Draws) -> Tensor:
        """(B, 2, F): mean and mean square of each utterance's speaker, heard as these draws change it."""
        scale_B = self._speeds[draws.speed_index_B]
        if draws.warp_B is not None:
            scale_B = scale_B * draws.warp_B.float()
        above_B = torch.searchsorted(self._scales, scale_B.contiguous()).clamp(1, len(self._scales) - 1)
        low_B, high_B = self._scales[above_B - 1], self._scales[above_B]
        share_B = ((scale_B - low_B) / (high_B - low_B).clamp(min=1e-6)).clamp(0, 1)[:, None, None]
        row_B = torch.tensor([self._row[self._names[i]] for i in utterances])
        return torch.lerp(self._moments_SG2F[row_B, above_B - 1], self._moments_SG2F[row_B, above_B], share_B)


def _moments(features: Features, batches: Iterable[tuple[Tensor, Tensor]], scales: Tensor) -> Tensor:
    """(scales, 2, F) of all recordings together."""
    total_G2F, frames = torch.zeros(len(scales), 2, features.outputs, dtype=torch.float64), 0
    for samples_BT, lengths_B in batches:
        samples_BT = samples_BT.to(features.window.device)
        for total_2F, scale in zip(total_G2F, scales, strict=True):
            sums_2F, count = features.sums(samples_BT, lengths_B, scale.expand(len(lengths_B)))
            total_2F += sums_2F
        frames += count
    return (total_G2F / frames).float()
