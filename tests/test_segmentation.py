"""Pieces of long recordings: where they are cut, and that nothing is lost."""

import numpy as np
import pytest

from asr.segmentation import pieces

RATE_HZ, STEP = 8000, 160


def noise_with_pauses(seconds: float, pauses_s: list[tuple[float, float]], *, seed: int = 0) -> np.ndarray:
    samples = 0.3 * np.random.default_rng(seed).standard_normal(int(seconds * RATE_HZ))
    for start_s, end_s in pauses_s:
        samples[int(start_s * RATE_HZ) : int(end_s * RATE_HZ)] *= 0.003
    return samples.astype(np.float32)


def cut(samples: np.ndarray, *, block: int = 3001, context_s: float = 0.0):
    blocks = (samples[i : i + block] for i in range(0, len(samples), block))
    sizes = {"longest_s": 10.0, "overlap_s": 2.0, "context_s": context_s}
    return list(pieces(blocks, rate_hz=RATE_HZ, step_samples=STEP, **sizes))


def test_a_short_recording_is_one_piece_and_stays_as_it_is():
    samples = noise_with_pauses(10.0, [(4, 6)])
    [piece] = cut(samples)
    assert np.array_equal(piece.samples, samples)
    assert (piece.start_samples, piece.skip_outputs, piece.end_output, piece.closes) == (0, 0, None, True)


def test_a_long_recording_is_cut_in_its_longest_pauses():
    found = cut(noise_with_pauses(24.0, [(4, 4.3), (7, 8), (9, 9.4), (15, 16)]))
    assert [p.start_samples / RATE_HZ for p in found] == pytest.approx([0, 7.5, 15.5], abs=0.02)
    assert all(p.closes for p in found)


@pytest.mark.parametrize("pauses_s", [[], [(7, 8)], [(3, 3.4), (12, 13), (30, 31)]])
@pytest.mark.parametrize("block", [100, 3001, 10**6])
def test_every_output_of_a_recording_counts_once(pauses_s, block):
    samples = noise_with_pauses(33.3, pauses_s)
    counted = np.zeros(len(samples) // STEP + 1, int)
    for piece in cut(samples, block=block):
        assert len(piece.samples) <= 10 * RATE_HZ
        assert piece.start_samples % STEP == 0
        first = piece.start_samples // STEP
        outputs = len(piece.samples) // STEP + 1
        np.testing.assert_array_equal(
            piece.samples, samples[piece.start_samples : piece.start_samples + len(piece.samples)]
        )
        counted[first + piece.skip_outputs : first + (piece.end_output or outputs)] += 1
    assert (counted == 1).all()


@pytest.mark.parametrize("pauses_s", [[], [(3, 3.4), (12, 13), (30, 31)]])
@pytest.mark.parametrize("block", [100, 3001, 10**6])
def test_pieces_come_with_the_recording_around_them(pauses_s, block):
    samples = noise_with_pauses(33.3, pauses_s)
    plain, found = cut(samples, block=block), cut(samples, block=block, context_s=4.0)
    assert [p.start_samples for p in found] == [p.start_samples for p in plain]
    for piece, same in zip(found, plain, strict=True):
        first, end = piece.start_samples, piece.start_samples + len(piece.samples)
        np.testing.assert_array_equal(piece.samples, same.samples)
        np.testing.assert_array_equal(piece.before, samples[max(0, first - 4 * RATE_HZ) : first])
        np.testing.assert_array_equal(piece.after, samples[end : end + 4 * RATE_HZ])


def test_without_pauses_pieces_share_context_on_both_sides_of_the_seam():
    first, second, *_ = cut(noise_with_pauses(25.0, []))
    assert not first.closes
    seam = first.end_output * STEP
    assert second.start_samples + second.skip_outputs * STEP == seam
    assert seam - second.start_samples == len(first.samples) - seam == RATE_HZ
