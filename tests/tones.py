"""A language of tones: a corpus that is learnt in seconds, made without any outside data."""

import json
from pathlib import Path

import numpy as np
import soundfile

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


def tone_corpus(
    folder: Path, name: str, count: int, *, seed: int = 0, rate_hz: int = RATE_HZ, suffix: str = "wav"
) -> Path:
    """Writes recordings and a manifest, `name`.jsonl, to the folder; returns the manifest's path."""
    audio = folder / f"{name} audio"
    audio.mkdir()
    lines = []
    for i, text in enumerate(sentences(count, seed=seed)):
        wave = tones(text, rate_hz=rate_hz, seed=seed * 1000 + i)
        file = audio / f"{i:03d}.{suffix}"
        soundfile.write(file, wave, rate_hz)
        lines.append(
            {
                "id": f"{name}-{i:03d}",
                "audio_filepath": str(file.relative_to(folder)),
                "duration": len(wave) / rate_hz,
                "text": text,
                "speaker": f"s{i % 2}",
            }
        )
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
