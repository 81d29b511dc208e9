"""A model of the language of tones, trained once in a few seconds and shared by the tests of a run.

The sound is made here, so what is heard in each frame is known: the model learns frame by frame, which takes
a tenth of the steps that CTC takes.
"""

from functools import cache

import numpy as np
import torch
from tones import RATE_HZ, SECONDS, TONES_HZ, sentences
from torch.nn.functional import nll_loss
from torch.nn.utils.rnn import pad_sequence

from asr.encoder import EncoderConfig
from asr.features import FeaturesConfig
from asr.recognizer import Recognizer
from asr.text import Alphabet

STEP_SAMPLES = 160


def spoken(text: str, *, seed: int = 0, pause_s: float = 0.6) -> np.ndarray:
    """Tones with up to `pause_s` seconds of pause behind each word, and hiss everywhere."""
    return _spoken(text, seed=seed, pause_s=pause_s)[0]


def _spoken(text: str, *, seed: int, pause_s: float) -> tuple[np.ndarray, np.ndarray]:
    """The sound, and for each sample the output that stands for it."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(SECONDS * RATE_HZ)) / RATE_HZ
    middle = (t > 0.02) & (t < 0.1)
    fade = 0.4 * np.minimum(1, np.minimum(t, t[::-1]) / 0.02)
    gap = np.zeros(int(0.04 * RATE_HZ))
    sound, heard = [gap], [gap]
    for c in text:
        sound += [fade * np.sin(2 * np.pi * TONES_HZ[c] * t) if c != " " else 0 * t, gap]
        heard += [middle * (1 + " abcd".index(c)), gap]
        if c == " ":
            pause = np.zeros(int(rng.uniform(0, pause_s) * RATE_HZ))
            sound.append(pause)
            heard.append(pause)
    wave = np.concatenate(sound)
    return (wave + 0.003 * rng.standard_normal(len(wave))).astype(np.float32), np.concatenate(heard)


@cache
def tone_model(*, bidirectional: bool = True) -> Recognizer:
    """A recogniser that makes next to no mistakes on tones, whatever the pauses between them."""
    model = Recognizer.build(
        Alphabet(list(" abcd")),
        features=FeaturesConfig(rate_hz=RATE_HZ, bands=24, normalise="global"),
        encoder=EncoderConfig(layers=1, width=24, factor=2, dropout=0.0, bidirectional=bidirectional),
        seed=1,
    )
    pairs = [_spoken(text, seed=i, pause_s=0.3) for i, text in enumerate(sentences(48, seed=5))]
    lengths_B = torch.tensor([len(wave) for wave, _ in pairs])
    samples_BT = pad_sequence([torch.from_numpy(wave) for wave, _ in pairs], batch_first=True)
    model.features.fit([(samples_BT, lengths_B)])
    features_BTF, frames_B = model.features(samples_BT, lengths_B)
    outputs_B = model.encoder.output_lengths(frames_B)
    heard = [torch.from_numpy(h[::STEP_SAMPLES]).long() for _, h in pairs]
    heard = [h[: int(n)] for h, n in zip(heard, outputs_B, strict=True)]
    heard_BT = pad_sequence(heard, batch_first=True, padding_value=-1)
    optimizer = torch.optim.Adam(model.encoder.parameters(), 2e-2)
    steps, parts = 120, 6
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-2 * min(1, (steps - step) / 80)
        rows = torch.arange(step % parts, len(pairs), parts)
        log_probs_BTV, _ = model.encoder(features_BTF[rows], frames_B[rows])
        frames = min(log_probs_BTV.shape[1], heard_BT.shape[1])
        loss = nll_loss(
            log_probs_BTV[:, :frames].flatten(0, 1), heard_BT[rows, :frames].flatten(), ignore_index=-1
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.encoder.parameters(), 1.0)
        optimizer.step()
    return model.eval()
