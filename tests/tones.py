"""A language of tones: a corpus that is learnt in seconds, made without any outside data."""

import numpy as np

RATE_HZ = 8000
TONES_HZ = {"a": 400.0, "b": 800.0, "c": 1400.0, "d": 2200.0}
SECONDS = 0.12


def tones(text: str, *, rate_hz: int = RATE_HZ, seed: int = 0) -> np.ndarray:
    """The sound of a text in the language of tones: a tone for each letter, silence for a space."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(SECONDS * rate_hz)) / rate_hz
    fade = np.minimum(1, np.minimum(t, t[::-1]) / 0.02)
    pause = np.zeros(int(0.04 * rate_hz))
    parts = [pause]
    for c in text:
        parts += [0.4 * fade * np.sin(2 * np.pi * TONES_HZ[c] * t) if c != " " else np.zeros_like(t), pause]
    wave = np.concatenate(parts)
    return (wave + 0.003 * rng.standard_normal(len(wave))).astype(np.float32)


def sentences(count: int, *, seed: int = 0) -> list[str]:
    """Texts of one to three words of one to three letters."""
    rng = np.random.default_rng(seed)
    return [
        " ".join("".join(rng.choice(list(TONES_HZ), rng.integers(1, 4))) for _ in range(rng.integers(1, 4)))
        for _ in range(count)
    ]
