"""Samples → mel energies: triangles over the spectrum, also as another length of the vocal tract shifts them.

Conventions. Mel is 2595 · log10(1 + f / 700); triangles have height 1. Frequencies are float64.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

_FRAMES_IN_CACHE = 1024  # 2 MB of samples and as much of spectrum
_WARP_TURNS_AT = 0.85  # share of the highest frequency where the warp bends back to meet it


def mel_edges(bands: int, low_hz: float, high_hz: float) -> Tensor:
    """The edges (bands + 2,) in Hz of triangles of equal width in mel, each to its neighbours' peaks."""
    low_mel, high_mel = (2595 * math.log10(1 + hz / 700) for hz in (low_hz, high_hz))
    mels = torch.linspace(low_mel, high_mel, bands + 2, dtype=torch.float64)
    return 700 * (10 ** (mels / 2595) - 1)


def triangles(hz: Tensor, edge_hz: Tensor) -> Tensor:
    """Weights (…, K, bands) of frequencies (…, K) in triangular filters over consecutive edge triples."""
    low, peak, high = edge_hz[:-2], edge_hz[1:-1], edge_hz[2:]
    hz = hz[..., None]
    return torch.minimum((hz - low) / (peak - low), (high - hz) / (high - peak)).clamp(min=0.0)


def warped(hz_K: Tensor, warp_B: Tensor, top_hz: float) -> Tensor:
    """What each frequency counts as (B, K) for every factor.

    Source: piecewise-linear vocal-tract-length normalisation, Lee & Rose 1996; f ↦ warp · f up to the
    bend, then linear to the highest frequency, which is kept.
    """
    warp_B1 = warp_B.double()[:, None]
    bend_B1 = _WARP_TURNS_AT * top_hz / warp_B1.clamp(min=1.0)
    above_BK = top_hz - (top_hz - hz_K) * (top_hz - warp_B1 * bend_B1) / (top_hz - bend_B1)
    return torch.where(hz_K <= bend_B1, warp_B1 * hz_K, above_BK)


def energies(samples_BT: Tensor, window_W: Tensor, bank: Tensor, *, hop: int) -> Tensor:
    """Mel energies (B, frames, bands) of every whole window, one every `hop` samples.

    Args:
        samples_BT: float32.
        window_W: weights of the samples in a window; its spectrum has K = 1 + W // 2 bins.
        bank: (K, bands), or one (B, K, bands) for each utterance.
    """
    if torch.onnx.is_in_onnx_export():
        return power_by_convolution(samples_BT, window_W, hop=hop) @ bank
    frames_BTW = samples_BT.unfold(1, len(window_W), hop)
    step = frames_BTW.shape[1]
    if samples_BT.device.type == "cpu":  # blocks that fit the cache are several times faster
        step = max(1, _FRAMES_IN_CACHE // len(samples_BT))
    mels = []
    for block_BTW in frames_BTW.split(step, dim=1):
        spectrum_BTK = torch.fft.rfft(block_BTW * window_W)
        mels.append((spectrum_BTK.real.square() + spectrum_BTK.imag.square()) @ bank)
    return torch.cat(mels, 1)


def power_by_convolution(samples_BT: Tensor, window_W: Tensor, *, hop: int) -> Tensor:
    """Power spectra (B, frames, K) by the DFT as a convolution, which ONNX can express."""
    place_W = torch.arange(len(window_W), device=samples_BT.device)
    turns_KW = torch.outer(place_W[: len(window_W) // 2 + 1], place_W) % len(window_W)
    angle_KW = turns_KW.double() * (2 * math.pi / len(window_W))
    waves_C1W = (torch.cat([angle_KW.cos(), angle_KW.sin()]) * window_W).float()[:, None]
    parts_BCT = functional.conv1d(samples_BT[:, None], waves_C1W, stride=hop).square()
    return (parts_BCT[:, : len(angle_KW)] + parts_BCT[:, len(angle_KW) :]).transpose(1, 2)
