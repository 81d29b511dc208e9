"""Corpora in the language of tones, see `tones.py`."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tones import tone_corpus

# The models of the tests are so small that threads only wait for each other, here and in what is started.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def tone_manifest(tmp_path: Path) -> Callable[..., Path]:
    """`tone_corpus` in the folder of the test."""
    return partial(tone_corpus, tmp_path)
