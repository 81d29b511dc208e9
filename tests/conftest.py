"""Corpora in the language of tones, see `tones.py`."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tones import tone_corpus

# The models of the tests are so small that threads only wait for each other, here and in what is started.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile("untimed", deadline=None)  # the machine may be busy
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was() -> Iterator[None]:
    """What is set in torch for a computation must not reach the one after it."""
    yield
    left = torch.is_autocast_enabled("cpu"), torch.get_default_dtype(), torch.is_grad_enabled()
    assert left == (False, torch.float32, True)


@pytest.fixture
def tone_manifest(tmp_path: Path) -> Callable[..., Path]:
    """`tone_corpus` in the folder of the test."""
    return partial(tone_corpus, tmp_path)
