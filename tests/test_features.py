"""Frames against librosa, against arithmetic, and against themselves in another batch."""

import math
from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch
from torchaudio.functional import sliding_window_cmn

from asr.errors import AudioError, ConfigError
from asr.features import Features, FeaturesConfig
from asr.filterbank import power_by_convolution

RATE_HZ = 16_000
KINDS = ["logmel", "mfcc"]


def noise(*lengths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Speech-like recordings: noise whose loudness and colour change, padded with zeros."""
    generator = torch.Generator().manual_seed(seed)
    samples_BT = torch.zeros(len(lengths), max(lengths))
    for row, n in zip(samples_BT, lengths, strict=True):
        t = torch.arange(n) / RATE_HZ
        white = torch.randn(n, generator=generator) * (0.02 + 0.1 * torch.sin(20 * t).square())
        row[:n] = white + 0.1 * torch.sin(2 * math.pi * (300 + 900 * t) * t)
    return samples_BT, torch.tensor(lengths)


def tone(hz: float, seconds: float = 0.5, amplitude: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    t = torch.arange(int(seconds * RATE_HZ), dtype=torch.float64) / RATE_HZ
    samples = amplitude * torch.sin(2 * math.pi * hz * t)
    return samples.float()[None], torch.tensor([len(samples)])


def middle(
    features: Features, samples_BT: torch.Tensor, lengths_B: torch.Tensor, **more: torch.Tensor
) -> np.ndarray:
    """The frame in the middle of a single recording."""
    features_BTF, _ = features(samples_BT, lengths_B, **more)
    return features_BTF[0, features_BTF.shape[1] // 2].numpy()


def librosa_log_mel(samples: np.ndarray, bands: int, rate_hz: int = RATE_HZ) -> np.ndarray:
    window = round(0.025 * rate_hz)
    fft = 1 << (window - 1).bit_length()
    power = librosa.feature.melspectrogram(
        y=samples, sr=rate_hz, n_fft=fft, hop_length=rate_hz // 100, win_length=window, window="hann",
        center=True, pad_mode="constant", power=2.0, n_mels=bands, fmin=20, fmax=rate_hz / 2, htk=True,
        norm=None,
    )  # fmt: skip
    full_scale = np.hanning(window + 1)[:-1].sum() / 2
    return np.log(np.maximum(power / full_scale**2, 1e-12)).T


@pytest.mark.parametrize(("bands", "rate_hz"), [(80, 16_000), (40, 16_000), (40, 8_000)])
def test_log_mel_is_what_librosa_computes(bands: int, rate_hz: int) -> None:
    samples_BT, lengths_B = noise(23_456)
    features = Features(FeaturesConfig(bands=bands, rate_hz=rate_hz, normalise="none"))
    ours_BTF, frames_B = features(samples_BT, lengths_B)
    theirs_TF = librosa_log_mel(samples_BT[0].numpy(), bands, rate_hz)
    assert frames_B.tolist() == [len(theirs_TF)]
    np.testing.assert_allclose(ours_BTF[0].numpy(), theirs_TF, atol=2e-4)


def test_mfcc_is_what_librosa_computes() -> None:
    samples_BT, lengths_B = noise(16_000)
    ours_BTF, _ = Features(FeaturesConfig(kind="mfcc", coefficients=13, normalise="none"))(
        samples_BT, lengths_B
    )
    log_mel = librosa_log_mel(samples_BT[0].numpy(), 80)
    theirs = librosa.feature.mfcc(S=log_mel.T, n_mfcc=13, dct_type=2, norm="ortho").T
    np.testing.assert_allclose(ours_BTF[0].numpy(), theirs, atol=1e-3)


@pytest.mark.parametrize("band", [5, 20, 41, 79])
def test_a_tone_peaks_in_its_band(band: int) -> None:
    features = Features(FeaturesConfig(normalise="none"))
    edges_mel = np.linspace(2595 * np.log10(1 + 20 / 700), 2595 * np.log10(1 + 8000 / 700), 82)
    centre_hz = 700 * (10 ** (edges_mel[band + 1] / 2595) - 1)
    assert middle(features, *tone(centre_hz)).argmax() == band


def test_twice_the_amplitude_is_four_times_the_energy() -> None:
    features = Features(FeaturesConfig(normalise="none"))
    quiet, loud = (middle(features, *tone(1000, amplitude=a)) for a in (0.25, 0.5))
    band = quiet.argmax()
    assert loud[band] - quiet[band] == pytest.approx(math.log(4), abs=1e-5)


def test_a_full_scale_tone_has_energy_one() -> None:
    """At a bin of the spectrum, in a band that weighs only that bin's neighbourhood by almost one."""
    wide = Features(FeaturesConfig(bands=2, low_hz=0, normalise="none"))
    peak_hz = 31.25 * round(float(wide.edge_hz[1]) / 31.25)
    spectrum_sum = 1.5 * 512 / 400  # Hann: bins at 1, ½ and ½ of the amplitude, interpolated to 512
    assert math.exp(middle(wide, *tone(peak_hz))[0]) == pytest.approx(spectrum_sum, rel=0.03)


def test_preemphasis_weighs_a_tone_by_the_filters_response() -> None:
    hz, share = 500.0, 0.97
    plain, filtered = (
        middle(Features(FeaturesConfig(normalise="none", preemphasis=p)), *tone(hz)) for p in (0.0, share)
    )
    response = abs(1 - share * np.exp(-2j * np.pi * hz / RATE_HZ)) ** 2
    band = plain.argmax()
    assert filtered[band] - plain[band] == pytest.approx(math.log(response), abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how",
    [{}, {"span_s": 0.4}, {"normalise": "none"}, {"pool_s": 0.5}, {"pool_s": 0.5, "span_s": 0.4}],
    ids=str,
)
def test_padding_and_company_change_nothing(kind: str, how: dict[str, object]) -> None:
    features = Features(FeaturesConfig(kind=kind, preemphasis=0.9, **how))  # type: ignore[arg-type]
    samples_BT, lengths_B = noise(16_000, 1, 399, 9_920, 7_999)
    if features.has_statistics:
        features.fit([(samples_BT, lengths_B)])
    garbage_BT = torch.where(torch.arange(16_000) < lengths_B[:, None], samples_BT, math.nan)
    warp_B = torch.tensor([0.9, 1.0, 1.1, 0.85, 1.2])
    together_BTF, frames_B = features(garbage_BT, lengths_B, warp_B)
    for b, n in enumerate(lengths_B.tolist()):
        alone_BTF, alone_B = features(samples_BT[b : b + 1, :n], lengths_B[b : b + 1], warp_B[b : b + 1])
        assert alone_B[0] == frames_B[b] == 1 + n // 160 == alone_BTF.shape[1]
        torch.testing.assert_close(together_BTF[b, : frames_B[b]], alone_BTF[0], atol=2e-4, rtol=1e-4)
        assert (together_BTF[b, frames_B[b] :] == 0).all()


@pytest.mark.parametrize("normalise", ["utterance", "none"])
def test_edges_are_digital_silence_around_every_utterance(normalise: str) -> None:
    config = FeaturesConfig(bands=40, normalise=normalise)  # type: ignore[arg-type]
    features, plain = Features(replace(config, edge_s=0.05)), Features(config)
    assert features.output_lengths(torch.tensor(1)) == 1  # in training they are drawn by the augmentation
    features.eval()
    samples_BT, lengths_B = noise(4321, 16_000, 1)
    garbage_BT = samples_BT.masked_fill(torch.arange(16_000) >= lengths_B[:, None], math.nan)
    together_BTF, frames_B = features(garbage_BT, lengths_B)
    assert frames_B.tolist() == features.output_lengths(lengths_B).tolist() == [38, 111, 11]
    for b, n in enumerate(lengths_B.tolist()):
        around_T = torch.nn.functional.pad(samples_BT[b, :n], (800, 800))
        expected_BTF, _ = plain(around_T[None], torch.tensor([len(around_T)]))
        torch.testing.assert_close(together_BTF[b, : frames_B[b]], expected_BTF[0], atol=1e-4, rtol=1e-4)


def test_a_delay_by_whole_hops_shifts_the_frames() -> None:
    features = Features(FeaturesConfig(normalise="none"))
    samples_BT, lengths_B = noise(8_000)
    delayed_BT = torch.nn.functional.pad(samples_BT, (7 * 160, 0))
    plain_BTF, _ = features(samples_BT, lengths_B)
    delayed_BTF, _ = features(delayed_BT, lengths_B + 7 * 160)
    torch.testing.assert_close(delayed_BTF[:, 10:], plain_BTF[:, 3:], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_normalised_utterances_have_mean_0_and_variance_1(kind: str) -> None:
    features = Features(FeaturesConfig(kind=kind))  # type: ignore[arg-type]
    features_BTF, frames_B = features(*noise(16_000, 12_345))
    for true_TF in (features_BTF[b, :n] for b, n in enumerate(frames_B.tolist())):
        torch.testing.assert_close(true_TF.mean(0), torch.zeros(features.outputs), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            true_TF.var(0, correction=0), torch.ones(features.outputs), atol=5e-3, rtol=0
        )


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_a_long_recording_are_scaled_as_torchaudio_does_in_a_sliding_window(kind: str) -> None:
    samples_BT, lengths_B = noise(48_000)
    raw_BTF, _ = Features(FeaturesConfig(kind=kind, normalise="none"))(samples_BT, lengths_B)  # type: ignore[arg-type]
    config = FeaturesConfig(kind=kind, span_s=0.5, floor_db=200.0)  # type: ignore[arg-type]
    ours_BTF, _ = Features(config)(samples_BT, lengths_B)
    theirs_BTF = sliding_window_cmn(raw_BTF.double(), cmn_window=50, center=True, norm_vars=True).float()
    torch.testing.assert_close(ours_BTF, theirs_BTF, atol=0.02, rtol=0.01)  # we add 1e-4 to the variance


def test_the_floor_of_a_long_recording_lies_below_the_loudest_of_its_span() -> None:
    samples_BT, lengths_B = noise(64_000)
    samples_BT[:, :16_000] *= 1e-5  # a second 100 dB below the rest
    features = Features(FeaturesConfig(span_s=0.5))
    features_BTF, _ = features(samples_BT, lengths_B)
    quiet_BTF, _ = features(samples_BT[:, :16_000] * 1e5, torch.tensor([16_000]))
    torch.testing.assert_close(features_BTF[0, :45], quiet_BTF[0, :45], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("gain", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("pool_s", [0.0, 0.5])
def test_gain_changes_nothing_when_utterances_are_normalised(gain: float, pool_s: float) -> None:
    features = Features(FeaturesConfig(pool_s=pool_s))
    if pool_s:
        features.fit([noise(9_000, 12_000)])
    samples_BT, lengths_B = noise(16_000)
    plain_BTF, _ = features(samples_BT, lengths_B)
    scaled_BTF, _ = features(samples_BT * gain, lengths_B)
    torch.testing.assert_close(scaled_BTF, plain_BTF, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_average_speech_takes_part_in_the_moments_of_an_utterance(kind: str) -> None:
    others_BT, others_B = noise(20_000)  # the average speech, of 126 frames
    raw = Features(FeaturesConfig(kind=kind, floor_db=50))
    raw._normalised = lambda raw_BTF, *_: raw_BTF  # type: ignore[method-assign]
    peaks = [Features(FeaturesConfig(normalise="none"))(*noise(n))[0].max() for n in (20_000, 5_000)]
    features = Features(FeaturesConfig(kind=kind, floor_db=50, pool_s=1.26))
    features.fit([(others_BT, others_B)])
    found_BTF, _ = features(*noise(5_000))
    louder = torch.ones(80) if kind == "logmel" else raw.dct.sum(0)
    average_TF, own_TF = (
        raw(*noise(n))[0][0] - peak * louder for n, peak in zip((20_000, 5_000), peaks, strict=True)
    )
    both_TF = torch.cat([average_TF, own_TF])
    expected_TF = (own_TF - both_TF.mean(0)) / both_TF.std(0, correction=0)
    torch.testing.assert_close(found_BTF[0], expected_TF, atol=2e-3, rtol=1e-3)
    with pytest.raises(ConfigError, match="fit"):
        Features(FeaturesConfig(kind=kind, pool_s=1.0))(*noise(100))


def test_energies_far_below_the_loudest_are_raised_to_the_floor() -> None:
    samples_BT, lengths_B = noise(16_000)
    samples_BT[:, 8_000:] = 0
    features_BTF, _ = Features(FeaturesConfig(floor_db=50))(samples_BT, lengths_B)
    raw_TF = Features(FeaturesConfig(normalise="none"))(samples_BT, lengths_B)[0][0]
    floored_TF = raw_TF.clamp(min=float(raw_TF.max()) - 5 * math.log(10))
    expected_TF = (floored_TF - floored_TF.mean(0)) / floored_TF.std(0, correction=0)
    torch.testing.assert_close(features_BTF[0], expected_TF, atol=1e-3, rtol=1e-3)


def test_digital_silence_and_single_samples_are_finite() -> None:
    for config in (FeaturesConfig(), FeaturesConfig(normalise="none"), FeaturesConfig(kind="mfcc")):
        for n in (1, 2, 159, 160, 400):
            for value in (0.0, 0.5):
                features_BTF, frames_B = Features(config)(torch.full((1, n), value), torch.tensor([n]))
                assert features_BTF.isfinite().all() and frames_B.tolist() == [1 + n // 160]
    silence_BTF, _ = Features()(torch.zeros(1, 8_000), torch.tensor([8_000]))
    assert silence_BTF.abs().max() < 0.01


def test_warp_1_is_the_plain_filterbank() -> None:
    features = Features()
    samples_BT, lengths_B = noise(8_000, 6_000)
    assert torch.equal(features.warped_bank(torch.ones(1))[0], features.bank)
    plain_BTF, _ = features(samples_BT, lengths_B)
    warped_BTF, _ = features(samples_BT, lengths_B, torch.ones(2))
    torch.testing.assert_close(warped_BTF, plain_BTF, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("warp", [0.8, 0.9, 1.1, 1.25])
def test_a_warped_tone_sounds_like_the_tone_at_the_warped_frequency(warp: float) -> None:
    features = Features(FeaturesConfig(bands=40, normalise="none"))
    for hz in (500, 1500, 3000, 4500):
        warped = middle(features, *tone(hz), warp_B=torch.tensor([warp]))
        assert abs(int(warped.argmax()) - int(middle(features, *tone(warp * hz)).argmax())) <= 1


@pytest.mark.parametrize("warp", [0.8, 1.25])
def test_the_warp_is_straight_up_to_its_bend_and_ends_where_it_must(warp: float) -> None:
    """Every entry of the warped filterbank, computed from the definition one number at a time."""
    features = Features(FeaturesConfig(bands=20))
    edges_hz = features.edge_hz.tolist()
    bend_hz = 0.85 * 8000 / max(warp, 1.0)

    def mapped(hz: float) -> float:
        if hz <= bend_hz:
            return warp * hz
        return warp * bend_hz + (hz - bend_hz) * (8000 - warp * bend_hz) / (8000 - bend_hz)

    assert mapped(8000) == 8000
    expected = np.zeros((257, 20))
    for k in range(257):
        for band in range(20):
            low, peak, high = edges_hz[band : band + 3]
            up, down = (mapped(31.25 * k) - low) / (peak - low), (high - mapped(31.25 * k)) / (high - peak)
            expected[k, band] = max(0.0, min(up, down))
    np.testing.assert_allclose(features.warped_bank(torch.tensor([warp]))[0].numpy(), expected, atol=1e-5)


def test_global_statistics_make_the_corpus_standard_and_travel_with_the_weights() -> None:
    config = FeaturesConfig(normalise="global", bands=20)
    samples_BT, lengths_B = noise(16_000, 9_000, 12_000)
    features = Features(config)
    with pytest.raises(ConfigError, match="fit"):
        features(samples_BT, lengths_B)
    features.fit([(samples_BT[:2], lengths_B[:2]), (samples_BT[2:], lengths_B[2:])])
    features_BTF, frames_B = features(samples_BT, lengths_B)
    true_NF = torch.cat([features_BTF[b, :n] for b, n in enumerate(frames_B.tolist())])
    torch.testing.assert_close(true_NF.mean(0), torch.zeros(20), atol=1e-4, rtol=0)
    torch.testing.assert_close(true_NF.std(0, correction=0), torch.ones(20), atol=1e-4, rtol=0)
    loaded = Features(config)
    loaded.load_state_dict(features.state_dict())
    assert torch.equal(loaded(samples_BT, lengths_B)[0], features_BTF)


def test_fit_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ConfigError, match="utterance"):
        Features().fit([noise(1000)])
    with pytest.raises(ConfigError, match="no batches"):
        Features(FeaturesConfig(normalise="global")).fit([])


def test_the_spectrum_by_convolution_is_the_same_for_export() -> None:
    features, (samples_BT, _) = Features(), noise(8_000)
    frames_BTW = torch.nn.functional.pad(samples_BT, (256, 256)).unfold(1, 512, 160) * features.window
    padded_BT = torch.nn.functional.pad(samples_BT, (256, 256))
    power_BTK = power_by_convolution(padded_BT, features.window, hop=features.hop_samples)
    expected_BTK = np.abs(np.fft.rfft(frames_BTW.double().numpy())) ** 2
    np.testing.assert_allclose(power_BTK.numpy(), expected_BTK, rtol=1e-3, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preemphasis", [0.0, 0.9])
def test_blocks_that_overlap_give_the_frames_of_the_whole(kind: str, preemphasis: float) -> None:
    features = Features(FeaturesConfig(kind=kind, normalise="global", preemphasis=preemphasis))
    lengths = [4321, 1, 160, 4000, 2399]
    samples_BT, lengths_B = noise(*lengths)
    features.fit([(samples_BT, lengths_B)])
    whole_BTF, frames_B = features(samples_BT, lengths_B)
    half, overlap = features.fft_samples // 2, features.fft_samples - features.hop_samples
    padded_BT = torch.nn.functional.pad(samples_BT, (half, 6 * half))
    for frames in (1, 3, 10):
        parts, counts = [], []
        for start in range(0, whole_BTF.shape[1], frames):
            first = start * features.hop_samples
            block_BT = padded_BT[:, first : first + overlap + frames * features.hop_samples]
            inside_B = (lengths_B + half - first).clamp(0, block_BT.shape[1])
            part_BTF, count_B = features.step(block_BT, inside_B)
            parts.append(part_BTF)
            counts.append(count_B)
        assert sum(counts).tolist() == frames_B.tolist()
        together_BTF = torch.cat(parts, 1)[:, : whole_BTF.shape[1]]
        torch.testing.assert_close(together_BTF, whole_BTF, atol=1e-4, rtol=1e-4)


def test_blocks_need_a_normalisation_that_is_known_beforehand() -> None:
    with pytest.raises(ConfigError, match="normalise=global"):
        Features().step(torch.zeros(1, 512), torch.tensor([512]))
    with pytest.raises(ConfigError, match="fit"):
        Features(FeaturesConfig(normalise="global")).step(torch.zeros(1, 512), torch.tensor([512]))


def test_frames_are_float32_and_equal_under_autocast() -> None:
    features, (samples_BT, lengths_B) = Features(), noise(8_000)
    plain_BTF, _ = features(samples_BT, lengths_B)
    with torch.autocast("cpu", torch.bfloat16):
        cast_BTF, _ = features(samples_BT, lengths_B, None)
    assert cast_BTF.dtype == torch.float32 and torch.equal(cast_BTF, plain_BTF)


@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        ((1, 0), [0]),
        ((0, 5), []),
        ((5,), [5]),
        ((2, 5), [5]),
        ((2, 5), [5, 0]),
        ((1, 5), [6]),
        ((1, 5), [2.5]),
    ],
)
def test_empty_and_mismatched_batches_are_refused(shape: tuple[int, ...], lengths: list[int]) -> None:
    with pytest.raises(AudioError, match="expected"):
        Features()(torch.zeros(shape), torch.tensor(lengths))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "plp"}, {"normalise": "speaker"}, {"bands": 0}, {"bands": 300}, {"hop_s": 0.01001},
        {"window_s": 0.005}, {"low_hz": 9000}, {"high_hz": 9000}, {"preemphasis": 1.0}, {"floor_db": 0},
        {"kind": "mfcc", "coefficients": 81}, {"pool_s": -1.0}, {"pool_s": 1.0, "normalise": "global"},
        {"trim_db": -1.0}, {"trim_db": 30.0, "normalise": "none"},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"expected|fewer bands"):
        Features(FeaturesConfig(**wrong))  # type: ignore[arg-type]
