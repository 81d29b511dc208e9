"""Corpora in the language of tones, see `tones.py`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from tones import RATE_HZ, sentences, tones

torch.set_num_threads(1)  # the models of the tests are so small that threads only wait for each other


@pytest.fixture
def tone_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes recordings and a manifest in the language of tones; returns the manifest's path."""

    def make(name: str, count: int, *, seed: int = 0, rate_hz: int = RATE_HZ, suffix: str = "wav") -> Path:
        folder = tmp_path / f"{name} audio"
        folder.mkdir()
        lines = []
        for i, text in enumerate(sentences(count, seed=seed)):
            wave = tones(text, rate_hz=rate_hz, seed=seed * 1000 + i)
            file = folder / f"{i:03d}.{suffix}"
            soundfile.write(file, wave, rate_hz)
            lines.append(
                {
                    "id": f"{name}-{i:03d}",
                    "audio_filepath": str(file.relative_to(tmp_path)),
                    "duration": len(wave) / rate_hz,
                    "text": text,
                    "speaker": f"s{i % 2}",
                }
            )
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    return make
