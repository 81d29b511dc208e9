"""Hypotheses ranked by each member of an ensemble: against every path, and from samples to transcripts."""

import dataclasses

import numpy as np
import pytest
import torch
from test_decoding_beam import UNPRUNED, all_labellings, random_log_probs
from test_decoding_rescoring import OPINION
from tone_model import spoken, tone_model

import asr
from asr.decoding import BeamDecoder, Hypothesis
from asr.decoding.committee import ranked
from asr.decoding.rescoring import Rescoring
from asr.errors import ConfigError, DecodingError
from asr.jobs.combine import combine
from asr.jobs.emissions import Emissions
from asr.precision import lower
from asr.recognizer import Recognizer, load

LETTERS = asr.Alphabet(["a", "b", "c"])


def members_of(frames: int, seed: int, count: int = 3) -> torch.Tensor:
    """(1, T, M, 4) random log-probabilities."""
    return torch.stack([random_log_probs(frames, 4, 10 * seed + m) for m in range(count)], 1)[None]


def by_all_paths(heard_1TMV: torch.Tensor) -> dict[tuple[int, ...], float]:
    """For each labelling the mean over the members of ln p, the sum over its paths one by one."""
    each = [all_labellings(log_probs_TV) for log_probs_TV in heard_1TMV[0].unbind(1)]
    return {tokens: float(np.mean([member[tokens] for member in each])) for tokens in each[0]}


@pytest.mark.parametrize("frames", [1, 2])
def test_the_best_for_all_members_is_found_exactly(frames):
    changed = 0
    for seed in range(40):
        heard = members_of(frames, seed)
        expected = by_all_paths(heard)
        decoder = BeamDecoder(LETTERS, **UNPRUNED)
        [found] = decoder.decode(heard, [frames], n_best=20)
        assert {h.tokens: h.log_prob for h in found} == pytest.approx(expected, abs=1e-6)
        assert [h.log_prob for h in found] == sorted((h.log_prob for h in found), reverse=True)
        [best] = decoder.decode(heard, [frames])
        assert best.tokens == found[0].tokens == max(expected, key=expected.__getitem__)
        changed += best.tokens != decoder.decode(heard.mean(2).log_softmax(-1), [frames])[0].tokens
    assert changed > (0 if frames == 2 else -1)


def test_members_that_write_the_same_at_different_times_are_understood():
    def member(at: int) -> torch.Tensor:
        probs_TV = torch.full((8, 4), 0.05)
        probs_TV[:, 0] = 0.85
        probs_TV[at], probs_TV[at + 1] = torch.tensor([[0.05, 0.85, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05]])
        return probs_TV.log()

    heard = torch.stack([member(0), member(3), member(6)], 1)[None]
    decoder = BeamDecoder(LETTERS)
    assert decoder.decode(heard.mean(2).log_softmax(-1), [8])[0].tokens != (1, 2)
    assert decoder.decode(heard, [8])[0].tokens == (1, 2)


def test_a_narrow_beam_finds_as_many_candidates():
    heard = members_of(7, 5)
    found = [BeamDecoder(LETTERS, beam_width=width).decode(heard, [7], n_best=12)[0] for width in (1, 64)]
    assert found[0] == found[1] and len(found[0]) == 12


def test_the_rest_of_the_score_is_kept_and_the_sentence_model_judges_afterwards():
    heard = members_of(5, 3)
    hot = {"hotwords": {"ab": 2.0, "c": 0.7}}
    [found] = BeamDecoder(LETTERS, **hot).decode(heard, [5], n_best=8)
    assert len({h.bonus for h in found}) > 1
    assert all(h.score == pytest.approx(h.log_prob + h.bonus) for h in found)
    rescored = BeamDecoder(LETTERS, rescoring=Rescoring(OPINION, 16, 1.0), alpha=0.5, **hot)
    [anew] = rescored.decode(heard, [5], n_best=8)
    assert all(h.score == pytest.approx(h.log_prob + h.bonus + 0.5 * h.sentence_log_prob) for h in anew)
    assert [h.tokens for h in anew] != [h.tokens for h in found]


def test_neither_threads_nor_the_batch_nor_padding_change_anything():
    rows = [members_of(n, n)[0] for n in (9, 4, 7)]
    together = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)
    alone = [BeamDecoder(LETTERS).decode(row[None], [len(row)])[0] for row in rows]
    for threads in (1, 3):
        assert BeamDecoder(LETTERS, threads=threads).decode(together, [9, 4, 7]) == alone
    assert all(h.word_confidences for h in alone if h.tokens)


def test_a_hypothesis_without_any_path_comes_last():
    heard = [np.array([[0.0, 1.0]])]
    impossible = Hypothesis((), (), (), -np.inf, -np.inf)
    likely = Hypothesis((1,), ((0, 1),), (1.0,), -0.5, -0.4)
    assert ranked([impossible, likely], heard) == [
        dataclasses.replace(likely, log_prob=0.0, score=pytest.approx(0.1)),
        impossible,
    ]


def test_a_member_that_is_broken_is_named():
    heard = members_of(4, 1)
    heard[0, 2, 1] = torch.nan
    with pytest.raises(DecodingError, match="frame 2 of utterance 0 holds NaN"):
        BeamDecoder(LETTERS).decode(heard, [4])


def pair(*, by_member: bool, bidirectional: bool = True) -> Recognizer:
    """The model of tones twice."""
    one = tone_model(bidirectional=bidirectional)
    both = combine([one, one])
    both.decoder = dataclasses.replace(both.decoder, name="beam", by_member=by_member)
    return both


def test_two_equal_members_are_understood_as_one_in_short_and_long_recordings(tmp_path):
    one, both = tone_model(), pair(by_member=True)
    short, long = spoken("ab cad", seed=1), spoken("abc dab " * 40, seed=2)
    assert len(long) > 40 * one.rate_hz
    for wave in (short, long):
        mine, theirs = (model.transcribe(wave, decoder="beam") for model in (one, both))
        assert theirs.text == mine.text
        assert theirs.log_prob == pytest.approx(mine.log_prob, rel=1e-2)  # of 16 texts, not of one
        assert [w.start_s for w in theirs.words] == [w.start_s for w in mine.words]
    assert [t.text for t in both.n_best(short, 3)] == [t.text for t in one.n_best(short, 3)]
    assert both.transcribe(short, decoder="greedy").text == one.transcribe(short).text
    both.save(tmp_path)
    assert load(tmp_path).decoder.by_member
    assert load(tmp_path).transcribe(short) == both.transcribe(short)
    assert load(tmp_path, precision="bf16").emissions([short])[0].dim() == 4


def test_outputs_are_those_of_the_mean_and_each_is_for_the_decoder():
    both, wave = pair(by_member=True), spoken("ab", seed=1)
    heard, lengths_B = both.emissions([wave])
    log_probs_BTV, same_B = both.log_probs([wave])
    assert heard.shape[2] == 2 and torch.equal(lengths_B, same_B)
    torch.testing.assert_close(log_probs_BTV, heard.mean(2).log_softmax(-1))
    torch.testing.assert_close(pair(by_member=False).emissions([wave])[0], log_probs_BTV)
    lowered = lower(both.encoder, "bf16")
    features_BTF, frames_B = both.features(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    assert lowered.each(features_BTF, frames_B)[0].dim() == 4


def test_models_that_stream_take_the_mean_and_hear_once():
    streaming, wave = pair(by_member=True, bidirectional=False), spoken("ab")
    heard = streaming.emissions([wave])[0]
    assert streaming.streams and heard.dim() == 3
    streaming.decoder = dataclasses.replace(streaming.decoder, warps=(0.8, 1.2))
    assert torch.equal(streaming.emissions([wave])[0], heard)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("by_member", [False, True])
def test_each_warp_is_heard_as_by_a_member_of_its_own(members: int, by_member: bool, tmp_path):
    model = tone_model() if members == 1 else pair(by_member=by_member)
    warps = (0.97, 1.0, 1.02)
    decoder = dataclasses.replace(model.decoder, name="beam", by_member=by_member, warps=warps)
    model = dataclasses.replace(model, decoder=decoder)
    waves = [spoken("ab cad", seed=1), spoken("ca", seed=2)]
    expected = []
    for warp in warps:
        for alone, wave in enumerate(waves):
            warped = model.features(
                torch.from_numpy(wave)[None], torch.tensor([len(wave)]), torch.tensor([warp])
            )
            expected.append((alone, model.encoder(*warped)[0][0]))
    heard, lengths_B = model.emissions(waves)
    log_probs_BTV, _ = model.log_probs(waves)
    assert heard.dim() == (4 if by_member else 3)
    for row, n in enumerate(lengths_B.tolist()):
        apart_TWV = torch.stack([one_TV for alone, one_TV in expected if alone == row], 1)
        mean_TV = apart_TWV.mean(1).log_softmax(-1)
        torch.testing.assert_close(log_probs_BTV[row, :n], mean_TV, atol=1e-4, rtol=0)
        if by_member:
            each_TWV = apart_TWV.repeat_interleave(members, 1)
            torch.testing.assert_close(heard[row, :n], each_TWV, atol=1e-4, rtol=0)
    assert model.transcribe(waves[0]).text == "ab cad"
    model.save(tmp_path)
    assert load(tmp_path).decoder.warps == warps
    assert load(tmp_path).transcribe(waves[0]) == model.transcribe(waves[0])


def test_warps_that_are_no_factors_are_refused():
    for wrong in ((1.0, 0.0), (-1.0,), (3.0,), (float("nan"),)):
        with pytest.raises(ConfigError, match=r"decoder\.warps"):
            dataclasses.replace(tone_model().decoder, warps=wrong)


def test_a_decoder_is_tuned_on_what_the_members_hear(tone_manifest):
    from asr.corpus.manifest import read_manifest

    utterances = read_manifest(tone_manifest("dev", 4, seed=3))
    theirs, means = (Emissions(pair(by_member=by), utterances) for by in (True, False))
    assert theirs.batches[0][0].dim() == 4
    assert theirs.prior() == pytest.approx(means.prior(), abs=1e-6)
    assert theirs.wrong_outputs() == means.wrong_outputs()
    assert theirs.score().wer == theirs.score(decoder="greedy").wer
