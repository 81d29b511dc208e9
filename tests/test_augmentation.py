"""Variations against the physics they imitate; randomness that is a function of seed, epoch and utterance."""

import hashlib
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from asr.augmentation import Augmentation, AugmentationConfig, Draws, draw
from asr.draws import heard_s
from asr.errors import ConfigError

RATE_HZ = 16_000
OFF = AugmentationConfig(
    speed=(), pad_s=0, noise=0, silence=0, gain_db=0, warp=0, time_masks=0, frequency_masks=0
)  # fmt: skip
EVERYTHING = AugmentationConfig(
    pad_s=0.2, trim_s=0.1, reverb=0.5, noise=0.7, telephone=0.5, equaliser_db=9, gain_db=6, warp=0.1,
    tempo=0.4, voices=0.4,
)  # fmt: skip
MURMUR = torch.randn(20_011, generator=torch.Generator().manual_seed(5))
IDS = [f"speaker-{i}" for i in range(12)]


def draws_for(config: AugmentationConfig, ids: list[str], **changed: torch.Tensor) -> Draws:
    return replace(draw(config, seed=1, epoch=0, utterance_ids=ids), **changed)


def recordings(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    lengths_B = torch.tensor(lengths)
    samples_BT = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator)
    return samples_BT * (torch.arange(max(lengths)) < lengths_B[:, None]), lengths_B


def tone(hz: float, samples: int = RATE_HZ) -> torch.Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(samples, dtype=torch.float64) / RATE_HZ).float()[None]


def apply(config: AugmentationConfig, samples_BT: torch.Tensor, draws: Draws) -> torch.Tensor:
    lengths_B = torch.full((len(samples_BT),), samples_BT.shape[1])
    return Augmentation(config, RATE_HZ).waveforms(samples_BT, lengths_B, draws)[0]


def level_db(samples: torch.Tensor) -> float:
    return 10 * math.log10(float(samples.double().square().mean()))


def test_what_happens_to_an_utterance_does_not_depend_on_its_batch() -> None:
    augmentation = Augmentation(EVERYTHING, RATE_HZ, voices=MURMUR)
    samples_BT, lengths_B = recordings(*(1_000 + 1_777 * i for i in range(12)))
    noisy_BT = torch.where(torch.arange(samples_BT.shape[1]) < lengths_B[:, None], samples_BT, math.nan)
    together = draw(EVERYTHING, seed=5, epoch=2, utterance_ids=IDS)
    after_BT, after_B = augmentation.waveforms(noisy_BT, lengths_B, together)
    features_BTF = torch.rand(12, 150, 80, generator=torch.Generator().manual_seed(1))
    frames_B = torch.arange(12) * 10 + 30
    masked_BTF, masked_B = augmentation.features(features_BTF, frames_B, together)
    for b, (name, n) in enumerate(zip(IDS, lengths_B.tolist(), strict=True)):
        alone = draw(EVERYTHING, seed=5, epoch=2, utterance_ids=[name])
        heard_BT, heard_B = augmentation.waveforms(samples_BT[b : b + 1, :n], lengths_B[b : b + 1], alone)
        assert heard_B[0] == after_B[b] == heard_BT.shape[1]
        torch.testing.assert_close(after_BT[b, : after_B[b]], heard_BT[0], atol=1e-6, rtol=1e-4)
        assert (after_BT[b, after_B[b] :] == 0).all()
        seen_BTF, seen_B = augmentation.features(
            features_BTF[b : b + 1, : frames_B[b]], frames_B[b : b + 1], alone
        )
        assert seen_B[0] == masked_B[b] == seen_BTF.shape[1]
        assert torch.equal(masked_BTF[b, : masked_B[b]], seen_BTF[0])
        assert alone.warp_B is not None and together.warp_B is not None
        assert alone.warp_B[0] == together.warp_B[b]


def test_seed_epoch_and_utterance_each_change_the_draws() -> None:
    def warp(seed: int, epoch: int, name: str) -> float:
        warp_B = draw(EVERYTHING, seed=seed, epoch=epoch, utterance_ids=[name]).warp_B
        assert warp_B is not None
        return float(warp_B[0])

    assert len({warp(1, 0, "a"), warp(2, 0, "a"), warp(1, 1, "a"), warp(1, 0, "b"), warp(1, 0, "세계")}) == 5
    assert warp(1, 0, "a") == warp(1, 0, "a")


def test_one_option_does_not_change_the_draws_of_another() -> None:
    louder = replace(EVERYTHING, gain_db=0, noise=0.0, time_masks=9, speed=())
    one, other = draws_for(EVERYTHING, IDS), draws_for(louder, IDS)
    for name in (
        "lead_s_B",
        "reverb_s_B",
        "direct_db_B",
        "colour_B",
        "tape_B",
        "phone_hz_B2",
        "warp_B",
        "tempo_B",
        "equaliser_db_BK",
    ):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_the_draws_are_the_bits_of_the_hash() -> None:
    """The warp is the 15th of the numbers that SHAKE-256 gives; read here with big integers."""
    digest = hashlib.shake_256(b"7\x003\x00name").digest(120)
    uniform = (int.from_bytes(digest[112:120], "little") >> 11) / 2**53
    warp_B = draw(EVERYTHING, seed=7, epoch=3, utterance_ids=["name"]).warp_B
    assert warp_B is not None and float(warp_B[0]) == pytest.approx(0.9 + 0.2 * uniform, abs=1e-6)


def test_draws_are_spread_over_their_ranges() -> None:
    draws = draw(EVERYTHING, seed=1, epoch=0, utterance_ids=[str(i) for i in range(4000)])
    assert draws.warp_B is not None
    for values_B, low, high in [
        (draws.warp_B, 0.9, 1.1),
        (draws.tempo_B.log(), -math.log(1.4), math.log(1.4)),
        (draws.lead_s_B, -0.1, 0.2),
        (draws.trail_s_B, -0.1, 0.2),
        (20 * draws.gain_B.log10(), -6, 6),
        (draws.noise_snr_db_B[draws.noise_snr_db_B.isfinite()], 5, 40),
        (draws.voices_snr_db_B[draws.voices_snr_db_B.isfinite()], 5, 25),
        (draws.voices_B, 0, 1),
        (draws.reverb_s_B[draws.reverb_s_B > 0], 0.15, 0.6),
    ]:
        scaled_B = (values_B - low) / (high - low)
        assert -1e-5 <= scaled_B.min() < 0.01 and 0.99 < scaled_B.max() <= 1 + 1e-5
        assert scaled_B.mean() == pytest.approx(0.5, abs=0.03)
    shares = [(draws.noise_snr_db_B.isfinite(), 0.7), (draws.reverb_s_B > 0, 0.5)]
    shares += [(draws.silent_B, 0.02), (draws.voices_snr_db_B.isfinite(), 0.4 * 0.98)]
    shares += [(draws.phone_hz_B2[:, 0] > 0, 0.5)]
    shares += [(draws.speed_index_B == i, 0.2) for i in range(5)]
    shares += [(draws.colour_B == i, 1 / 3) for i in range(3)]
    for chosen_B, share in shares:
        assert chosen_B.float().mean() == pytest.approx(share, abs=0.04)


def test_global_random_state_is_neither_read_nor_written() -> None:
    def run() -> torch.Tensor:
        draws = draws_for(EVERYTHING, IDS[:3])
        heard_BT, _ = Augmentation(EVERYTHING, RATE_HZ, voices=MURMUR).waveforms(
            *recordings(3_000, 2_000, 1_000), draws
        )
        return heard_BT

    def state() -> tuple[bytes, str, tuple[object, ...]]:
        return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), random.getstate()  # noqa: NPY002

    first = run()
    torch.manual_seed(99)
    before = state()
    assert torch.equal(run(), first)
    assert state() == before


def test_with_everything_off_nothing_changes() -> None:
    samples_BT, lengths_B = recordings(5_000, 3_000)
    draws = draws_for(OFF, IDS[:2])
    augmentation = Augmentation(OFF, RATE_HZ)
    heard_BT, heard_B = augmentation.waveforms(samples_BT, lengths_B, draws)
    assert torch.equal(heard_BT, samples_BT) and torch.equal(heard_B, lengths_B) and draws.warp_B is None
    features_BTF = torch.randn(2, 30, 80, generator=torch.Generator().manual_seed(1))
    same_BTF, same_B = augmentation.features(features_BTF, torch.tensor([30, 20]), draws)
    assert torch.equal(same_BTF, features_BTF) and same_B.tolist() == [30, 20]


@pytest.mark.parametrize("factor", [0.8, 0.95, 1.0, 1.1, 1.25])
def test_speed_turns_a_tone_into_a_higher_and_shorter_one(factor: float) -> None:
    config = replace(OFF, speed=(factor,))
    heard_BT, heard_B = Augmentation(config, RATE_HZ).waveforms(
        tone(1000), torch.tensor([RATE_HZ]), draws_for(config, ["a"])
    )
    assert heard_B.tolist() == [math.ceil(RATE_HZ / factor)]
    inside = slice(200, int(heard_B[0]) - 200)
    truth = tone(1000 * factor, int(heard_B[0]))
    assert (heard_BT - truth)[0, inside].abs().max() < 2e-3


@pytest.mark.parametrize(("lead_s", "trail_s"), [(0.05, 0.02), (-0.05, 0.02), (0.01, -0.03), (-0.02, -0.03)])
def test_edges_move_the_recording_and_fill_with_quiet_noise(lead_s: float, trail_s: float) -> None:
    config = replace(OFF, pad_s=0.1, trim_s=0.1)
    samples_BT, lengths_B = recordings(16_000, 9_600)
    lead_B, trail_B = torch.full((2,), lead_s), torch.full((2,), trail_s)
    draws = draws_for(config, IDS[:2], lead_s_B=lead_B, trail_s_B=trail_B)
    heard_BT, heard_B = Augmentation(config, RATE_HZ).waveforms(samples_BT, lengths_B, draws)
    lead, trail = round(lead_s * RATE_HZ), round(trail_s * RATE_HZ)
    assert heard_B.tolist() == [16_000 + lead + trail, 9_600 + lead + trail]
    for b, n in enumerate(lengths_B.tolist()):
        kept = samples_BT[b, max(-lead, 0) : n - max(-trail, 0)]
        assert torch.equal(heard_BT[b, max(lead, 0) : max(lead, 0) + len(kept)], kept)
        if lead > 0:
            assert level_db(heard_BT[b, :lead]) - level_db(kept) == pytest.approx(-50, abs=6)


def test_trimming_leaves_most_of_a_short_recording() -> None:
    config = replace(OFF, trim_s=0.5)
    draws = draws_for(config, ["a"], lead_s_B=torch.tensor([-0.5]), trail_s_B=torch.tensor([-0.5]))
    for n, left in [(1, 1), (9, 9), (10, 8), (1000, 800)]:
        samples_BT, lengths_B = recordings(n)
        assert Augmentation(config, RATE_HZ).waveforms(samples_BT, lengths_B, draws)[1].tolist() == [left]


@pytest.mark.parametrize("snr_db", [-5.0, 10.0, 30.0])
def test_noise_has_the_drawn_distance_from_the_speech(snr_db: float) -> None:
    config = replace(OFF, noise=1.0)
    samples_BT, lengths_B = recordings(160_000, 150_000, 140_000)
    colours, ratios = torch.arange(3), torch.full((3,), snr_db)
    draws = draws_for(config, IDS[:3], noise_snr_db_B=ratios, colour_B=colours)
    heard_BT, _ = Augmentation(config, RATE_HZ).waveforms(samples_BT, lengths_B, draws)
    for b, n in enumerate(lengths_B.tolist()):
        noise = (heard_BT - samples_BT)[b, :n]
        assert level_db(samples_BT[b, :n]) - level_db(noise) == pytest.approx(snr_db, abs=1.0)
    assert level_db((heard_BT - samples_BT)[0]) == pytest.approx(level_db(samples_BT[0]) - snr_db, abs=0.1)


def test_other_voices_are_as_far_below_the_speech_as_drawn_and_begin_where_drawn() -> None:
    config = replace(OFF, voices=1.0)
    samples_BT, lengths_B = recordings(30_000, 15_000, 30_000)
    ratios, places = torch.tensor([6.0, 20.0, math.inf]), torch.tensor([0.5, 0.25, 0.0])
    draws = draws_for(config, IDS[:3], voices_snr_db_B=ratios, voices_B=places)
    heard_BT, heard_B = Augmentation(config, RATE_HZ, voices=MURMUR).waveforms(samples_BT, lengths_B, draws)
    assert torch.equal(heard_B, lengths_B) and torch.equal(heard_BT[2], samples_BT[2])
    for b, n in enumerate(lengths_B.tolist()[:2]):
        added = (heard_BT - samples_BT)[b, :n]
        begin = int(float(places[b]) * len(MURMUR))
        expected = MURMUR.repeat(3)[begin : begin + n]
        torch.testing.assert_close(added / added.norm(), expected / expected.norm(), atol=1e-5, rtol=1e-3)
        assert level_db(samples_BT[b, :n]) - level_db(added) == pytest.approx(float(ratios[b]), abs=0.3)
        assert not heard_BT[b, n:].any()
    with pytest.raises(ConfigError, match="no voices to add"):
        Augmentation(config, RATE_HZ)


def test_where_nobody_speaks_there_are_no_other_voices() -> None:
    draws = draw(replace(OFF, voices=1.0, silence=1.0), seed=1, epoch=0, utterance_ids=IDS)
    assert draws.silent_B.all() and draws.voices_snr_db_B.isinf().all()


def test_of_an_utterance_without_its_speech_the_noise_is_left() -> None:
    config = replace(OFF, noise=1.0, silence=0.5)
    samples_BT, lengths_B = recordings(16_000, 16_000, 16_000)
    ratios = torch.tensor([10.0, 10.0, math.inf])
    silent_B = torch.tensor([False, True, True])
    draws = draws_for(config, IDS[:3], noise_snr_db_B=ratios, silent_B=silent_B)
    heard_BT, _ = Augmentation(config, RATE_HZ).waveforms(samples_BT, lengths_B, draws)
    assert level_db(heard_BT[0]) > level_db(samples_BT[0])
    assert level_db(heard_BT[1]) == pytest.approx(level_db(samples_BT[1]) - 10, abs=1.5)
    assert abs(np.corrcoef(heard_BT[1], samples_BT[1])[0, 1]) < 0.05
    assert (heard_BT[2] == 0).all()


@pytest.mark.parametrize(("colour", "slope_db"), [(0, 0.0), (1, -3.0), (2, -6.0)])
def test_noise_falls_by_0_3_or_6_db_per_octave(colour: int, slope_db: float) -> None:
    tape = Augmentation(replace(OFF, noise=1.0), RATE_HZ).tape[colour, : 1 << 20].numpy()
    frames = tape.reshape(-1, 4096) * np.hanning(4096)
    power = (np.abs(np.fft.rfft(frames)) ** 2).mean(0)
    hz = np.fft.rfftfreq(4096, 1 / RATE_HZ)
    octaves = [power[(hz >= low) & (hz < 2 * low)].mean() for low in (100, 200, 400, 800, 1600, 3200)]
    steps_db = np.diff(10 * np.log10(octaves))
    np.testing.assert_allclose(steps_db, 10 * np.log10(2.0) * slope_db / 3.0103, atol=0.5)
    assert np.mean(tape**2) == pytest.approx(1, abs=1e-4)


def test_noise_of_two_utterances_is_unrelated_and_outlasts_the_tape() -> None:
    config = replace(OFF, noise=1.0)
    augmentation = Augmentation(config, RATE_HZ)
    draws = draws_for(config, ["a", "b"], colour_B=torch.tensor([0, 0]))
    short_BT = augmentation._excerpt(draws.colour_B, draws.tape_B, 50_000)
    assert abs(float((short_BT[0] * short_BT[1]).mean())) < 0.03
    start_B = torch.tensor([(1 << 20) - 5, 3])
    long_BT = augmentation._excerpt(draws.colour_B, start_B, (1 << 20) + 100)
    again = augmentation._excerpt(draws.colour_B, torch.zeros_like(start_B), 95)
    assert torch.equal(long_BT[0, 5:100], again[0]) and torch.equal(
        long_BT[:, :50], long_BT[:, 1 << 20 :][:, :50]
    )


@pytest.mark.parametrize("seconds", [0.2, 0.5])
def test_a_room_decays_by_60_db_in_its_reverberation_time(seconds: float) -> None:
    """Schroeder's backward integration of the response to a click, fitted between −5 and −35 dB."""
    config = replace(OFF, reverb=1.0, reverb_s=(0.1, 0.8))
    click_BT = torch.zeros(1, RATE_HZ)
    click_BT[0, 100] = 1.0
    direct_db = 6.0
    draws = draws_for(
        config, ["a"], reverb_s_B=torch.tensor([seconds]), direct_db_B=torch.tensor([direct_db])
    )
    response = apply(config, click_BT, draws)[0].double()
    assert response.square().sum() == pytest.approx(1, abs=1e-4) and response[:100].abs().max() < 1e-5
    tail = response[101:]
    assert 10 * math.log10(response[100] ** 2 / tail.square().sum()) == pytest.approx(direct_db, abs=1e-2)
    decay_db = 10 * tail.square().flip(0).cumsum(0).flip(0).log10().numpy()
    decay_db -= decay_db[0]
    fit = (decay_db < -5) & (decay_db > -35)
    slope = np.polyfit(np.arange(len(tail))[fit] / RATE_HZ, decay_db[fit], 1)[0]
    assert -60 / slope == pytest.approx(seconds, rel=0.1)


@pytest.mark.parametrize("point", range(1, 7))
def test_the_equaliser_changes_the_loudness_of_an_octave_as_drawn_without_delay(point: int) -> None:
    """Points stand an octave apart up to half the sample rate; between them the gain runs straight in dB."""
    config = replace(OFF, equaliser_db=12.0)
    hz = RATE_HZ / 2 * 2.0 ** (point - 6)
    db_BK = torch.linspace(-9, 9, 7)[None]
    draws = draws_for(config, ["a"], equaliser_db_BK=db_BK)
    if point == 6:
        hz *= 0.97  # a tone at half the sample rate has no sine
    sound_BT = tone(hz)
    heard_BT = apply(config, sound_BT, draws)
    middle = slice(2000, RATE_HZ - 2000)
    ratio = heard_BT[0, middle] @ sound_BT[0, middle] / sound_BT[0, middle].square().sum()
    assert 20 * math.log10(float(ratio)) == pytest.approx(float(db_BK[0, point]), abs=1.5)
    residue = heard_BT[0, middle] - ratio * sound_BT[0, middle]
    assert residue.square().mean() < 1e-4 * heard_BT[0, middle].square().mean()  # nothing but a gain


def test_a_telephone_passes_the_voice_band_undelayed_and_little_else() -> None:
    config = replace(OFF, telephone=1.0)
    draws = draws_for(config, ["a"], phone_hz_B2=torch.tensor([[300.0, 3400.0]]))
    inside = slice(500, -500)
    for hz in (600, 1000, 2000, 3000):
        heard = apply(config, tone(hz), draws)[0, inside]
        assert (heard - tone(hz)[0, inside]).abs().max() < 0.02
    for hz in (60, 4500, 7000):
        assert level_db(apply(config, tone(hz), draws)[0, inside]) - level_db(tone(hz)) < -30


def test_gain_is_a_factor_within_its_limits() -> None:
    config = replace(OFF, gain_db=6.0)
    samples_BT, _ = recordings(1_000)
    heard_BT = apply(config, samples_BT, draws_for(config, ["a"]))
    factor = heard_BT[0] / samples_BT[0]
    assert factor.std() < 1e-5 and 10 ** (-6 / 20) <= factor[0] <= 10 ** (6 / 20)


def test_at_another_tempo_the_same_frames_take_another_time() -> None:
    augmentation = Augmentation(replace(OFF, tempo=1.0), RATE_HZ)
    ramp_BTF = torch.arange(40.0)[None, :, None].repeat(3, 1, 2)
    frames_B, tempo_B = torch.tensor([40, 21, 1]), torch.tensor([0.5, 2.0, 1.7])
    draws = draws_for(augmentation.config, IDS[:3], tempo_B=tempo_B)
    changed_BTF, changed_B = augmentation.features(ramp_BTF, frames_B, draws)
    assert changed_B.tolist() == [80, 11, 1]
    assert changed_BTF[0, :80, 1].tolist() == [min(i / 2, 39) for i in range(80)]
    assert changed_BTF[1, :11, 0].tolist() == [2.0 * i for i in range(11)]
    assert changed_BTF[2, 0].tolist() == [0, 0]


@pytest.mark.parametrize(("pad_s", "trim_s"), [(0.3, 0.05), (0.0, 2.0)])
def test_how_long_an_utterance_will_be_heard_is_known_before(pad_s: float, trim_s: float) -> None:
    config = replace(OFF, speed=(0.8, 1.0, 1.25), pad_s=pad_s, trim_s=trim_s, tempo=0.5)
    samples_BT, lengths_B = recordings(*(5_000 + 1_777 * i for i in range(12)))
    draws = draw(config, seed=5, epoch=2, utterance_ids=IDS)
    _, after_B = Augmentation(config, RATE_HZ).waveforms(samples_BT, lengths_B, draws)
    how = {"seed": 5, "epoch": 2, "utterance_ids": IDS}
    known_B = heard_s(config, **how, lengths_s=lengths_B.numpy() / RATE_HZ)
    np.testing.assert_allclose(known_B * draws.tempo_B.numpy() * RATE_HZ, after_B.numpy(), atol=3)
    assert len(set(known_B)) == 12
    assert heard_s(OFF, **how, lengths_s=np.arange(12.0)).tolist() == list(range(12))


@pytest.mark.parametrize("frames", [1, 7, 40, 200])
def test_masks_are_zero_whole_and_within_their_limits(frames: int) -> None:
    config = replace(OFF, time_masks=2, time_mask_share=0.2, frequency_masks=1, frequency_mask_share=0.25)
    augmentation, ids = Augmentation(config, RATE_HZ), [str(i) for i in range(300)]
    features_BTF = torch.ones(300, 220, 80)
    draws = draws_for(config, ids)
    masked_BTF, _ = augmentation.features(features_BTF, torch.full((300,), frames), draws)
    assert set(masked_BTF.unique().tolist()) <= {0.0, 1.0} and (masked_BTF[:, frames:].amax(2) == 1).all()
    hidden_B = (masked_BTF.amax(2) == 0).sum(1)
    assert hidden_B.max() <= 2 * int(0.2 * frames)
    bands_BF = masked_BTF[:, frames:].amax(1) == 0
    runs_B = (bands_BF.int().diff(dim=1, prepend=torch.zeros(300, 1)) == 1).sum(1)
    assert bands_BF.sum(1).max() == 20 and runs_B.max() == 1
    if frames == 200:  # widths 0 to 40 are equally likely: two masks hide 40 frames on average, less overlap
        assert 30 < hidden_B.float().mean() < 40
        assert (masked_BTF[:, 0].amax(1) == 0).any() and (masked_BTF[:, 199].amax(1) == 0).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"speed": (0.1,)}, {"speed": (1.005,)}, {"noise": 1.5}, {"reverb": -0.1}, {"pad_s": -1.0},
        {"gain_db": -3.0}, {"time_masks": -1}, {"noise_snr_db": (10.0, 5.0)}, {"reverb_s": (0.0, 0.5)},
        {"warp": 0.9}, {"tempo": 1.5}, {"noise_snr_db": (5.0, 20.0, 30.0)}, {"reverb_s": (0.2,)},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"augmentation.{next(iter(wrong))}"):
        Augmentation(replace(OFF, **wrong), RATE_HZ)  # type: ignore[arg-type]
