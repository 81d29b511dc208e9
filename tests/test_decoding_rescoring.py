"""Hypotheses ranked anew by a second language model: exactly, and only where that is possible."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import soundfile
import torch
from test_decoding_beam import (
    LM,
    UNPRUNED,
    WORDS,
    best_by_brute_force,
    random_log_probs,
)
from tone_model import spoken, tone_model
from tones import RATE_HZ

import asr
import asr.lm
from asr.corpus.manifest import Utterance
from asr.decoding import BeamDecoder, Hypothesis
from asr.decoding.rescoring import Rescoring
from asr.errors import DecodingError
from asr.jobs.emissions import Emissions
from asr.lm import RecurrentConfig, RecurrentModel, Steps
from asr.lm.automaton import advance
from asr.lm.mixture import AFTER
from asr.recognizer import Recognizer


class Opinion:
    """A sentence model with an opinion on every text, letter by letter: words of even length are better."""

    def steps(self, sentences: Sequence[str]) -> list[Steps]:
        return [self._read(sentence) for sentence in sentences]

    def _read(self, sentence: str) -> Steps:
        ln = [-1.0 - 3 * (len(word) % 2) * (i == 0) for word in sentence.split() for i in range(len(word))]
        return Steps(np.array([*range(1, len(ln) + 1), AFTER]), np.array([*ln, -0.5]))

    def ln(self, sentence: str) -> float:
        return float(self._read(sentence).ln.sum())


OPINION = Opinion()


def mean_ln(text: str, share: float) -> float:
    """ln of the product over the words, and the end, of the mean of both models' probabilities."""
    state, total = LM.start_state, 0.0
    for word in [*text.split(), ""]:
        state, log10 = advance(LM.arrays, state, LM.word_id(word) if word else LM.end_id)
        theirs = math.exp(-len(word) - 3 * (len(word) % 2)) if word else math.exp(-0.5)
        total += math.log((1 - share) * 10**log10 + share * theirs)
    return total


def ranked(count: int, share: float, **settings: float) -> BeamDecoder:
    rescoring = Rescoring(OPINION, count, share, LM)
    return BeamDecoder(WORDS, LM, unknown_penalty=0.0, rescoring=rescoring, **UNPRUNED, **settings)


@pytest.mark.parametrize(("alpha", "share"), [(0.5, 0.0), (0.5, 0.5), (1.5, 0.7), (1.0, 1.0)])
def test_of_all_texts_the_best_by_both_models_is_found(alpha, share):
    def score(text: str) -> float:
        return alpha * mean_ln(text, share) + len(text.split())

    changed = 0
    for seed in range(12):
        log_probs_TV = random_log_probs(5, 4, seed)
        every = best_by_brute_force(WORDS, log_probs_TV, score)
        [found] = ranked(500, share, alpha=alpha).decode(log_probs_TV[None], [5])
        best, *_ = every.values()
        assert every[found.text(WORDS)] == pytest.approx(best, abs=1e-5)
        assert found.score == pytest.approx(best, abs=1e-4)
        assert found.sentence_log_prob == OPINION.ln(found.text(WORDS))
        plain = BeamDecoder(WORDS, LM, unknown_penalty=0.0, alpha=alpha, **UNPRUNED)
        changed += found.text(WORDS) != plain.decode(log_probs_TV[None], [5])[0].text(WORDS)
    assert (changed > 0) == (share > 0)


def test_only_the_best_of_the_beam_are_judged_and_lists_are_in_the_new_order():
    log_probs_BTV = random_log_probs(8, 4, 1)[None]
    plain = BeamDecoder(WORDS, LM).decode(log_probs_BTV, [8], n_best=20)[0]
    first = max(plain[:4], key=lambda h: h.score + 0.5 * (h_opinion(h) - h.lm_log_prob))
    decoder = BeamDecoder(WORDS, LM, alpha=0.5, rescoring=Rescoring(OPINION, 4, 1.0, LM))
    assert decoder.decode(log_probs_BTV, [8])[0].text(WORDS) == first.text(WORDS)
    several = decoder.decode(log_probs_BTV, [8], n_best=20)[0]
    assert {h.text(WORDS) for h in several} == {h.text(WORDS) for h in plain}
    assert [h.score for h in several] == sorted((h.score for h in several), reverse=True)
    assert len(decoder.decode(log_probs_BTV, [8], n_best=2)[0]) == 2


def h_opinion(hypothesis: Hypothesis) -> float:
    return OPINION.ln(hypothesis.text(WORDS))


def test_neither_threads_nor_the_batch_change_anything_and_confidences_are_there():
    rows = [random_log_probs(12, 4, seed) for seed in range(6)]
    alone = [ranked(6, 0.5).decode(row[None], [12])[0] for row in rows]
    for threads in (1, 3):
        decoder = BeamDecoder(
            WORDS,
            LM,
            unknown_penalty=0.0,
            rescoring=Rescoring(OPINION, 6, 0.5, LM),
            threads=threads,
            **UNPRUNED,
        )
        together = decoder.decode(torch.stack(rows), [12] * 6)
        assert together == alone
    assert all(h.word_confidences is not None for h in alone if h.tokens)


def test_an_utterance_that_ends_within_a_word_keeps_the_words_before():
    alphabet, said = asr.Alphabet([" ", "a", "b", "c", "d"]), "ab cd ab c"
    sharp_TV = torch.full((len(said), alphabet.size), -7.0)
    for t, symbol in enumerate(said):
        sharp_TV[t, alphabet.symbols.index(symbol) + 1] = 0.0
    given = sharp_TV.log_softmax(1)[None], [len(said)]
    settings = {"lexicon": ["ab", "cd"], "beam_width": 1}
    [single] = BeamDecoder(alphabet, **settings).decode(*given)
    [several] = BeamDecoder(alphabet, **settings).decode(*given, n_best=5)
    [rescored] = BeamDecoder(alphabet, rescoring=Rescoring(OPINION, 4, 0.5), **settings).decode(*given)
    assert single.text(alphabet).startswith("ab cd ab")
    assert several[0].text(alphabet) == rescored.text(alphabet) == single.text(alphabet)


def test_a_model_without_an_lstm_cannot_be_asked_to_rescore(model):
    heard = model.log_probs([spoken("ab", seed=1)])
    model.rescorer = None
    with pytest.raises(DecodingError, match="has no LSTM to judge hypotheses"):
        model.decode(*heard, rescore=8)


@pytest.mark.parametrize(("count", "share"), [(1, 0.5), (4, -0.1), (4, 1.1), (4, math.nan)])
def test_settings_that_make_no_sense_are_refused(count, share):
    with pytest.raises(DecodingError, match="rescore"):
        Rescoring(OPINION, count, share)


@pytest.fixture(scope="module")
def contrary() -> RecurrentModel:
    """A small model of a language in which words are long."""
    text = ["abcd dcba", "aabb ccdd", "abcd abcd", "dcba"] * 8
    config = RecurrentConfig(pieces=30, width=16, epochs=3, learning_rate=0.02)
    return asr.lm.train_recurrent(text, config, device="cpu")


@pytest.fixture
def model(contrary, tmp_path) -> Recognizer:
    tone_model().save(tmp_path)
    made = asr.load(tmp_path)
    made.lm, made.rescorer = asr.lm.train(["ab c", "a d", "dab a", "abc d"], order=2), contrary
    made.decoder.name, made.decoder.rescore, made.decoder.rescore_share = "beam", 8, 0.5
    return made


def test_a_bundle_keeps_its_rescorer_and_calls_may_do_without(model, tmp_path):
    model.save(tmp_path / "kept")
    loaded, wave = asr.load(tmp_path / "kept"), spoken("ab c", seed=3)
    heard = model.log_probs([wave])
    [rescored] = loaded.decode(*heard)
    assert rescored == model.decode(*heard)[0]
    expected = model.rescorer.log_probs([rescored.text(model.alphabet)])[0]
    assert rescored.sentence_log_prob == pytest.approx(expected, abs=1e-5)
    assert loaded.transcribe(wave) == model.transcribe(wave)
    other = asr.lm.train(["d d", "ab"], order=2)
    for settings in ({"rescore": 0}, {"rescore_share": 0.0}, {"lm": other}):
        assert loaded.decode(*heard, **settings)[0].sentence_log_prob is None


def test_a_small_bundle_keeps_its_language_models_with_fewer_bits(model, tmp_path):
    loaded = asr.load(model.save(tmp_path, small=True))
    small = loaded.rescorer.state_dict()
    for name, weights in model.rescorer.state_dict().items():
        step = weights.flatten(1).abs().amax(1) / 127 if weights.dim() > 1 else torch.zeros(len(weights))
        assert ((small[name] - weights).reshape(len(weights), -1).abs().amax(1) <= step * 0.501).all()
    assert not torch.equal(small["embedding"], model.rescorer.embedding)
    for ours, theirs in (
        (model.lm.log10_probs, loaded.lm.log10_probs),
        (model.lm.backoffs, loaded.lm.backoffs),
    ):
        assert (np.abs(theirs - ours) <= 2**-11 * np.abs(ours)).all() and theirs.dtype == np.float32
    assert not (loaded.lm.log10_probs == model.lm.log10_probs).all()


def test_in_bfloat16_the_rescorer_judges_nearly_alike(model, tmp_path):
    model.save(tmp_path)
    whole, lowered = (asr.load(tmp_path, precision=precision).rescorer for precision in ("int8", "bf16"))
    texts = ["abcd dcba", "aabb", "dcba abcd ccdd"]
    assert (whole.log_probs(texts) == model.rescorer.log_probs(texts)).all()
    differences = np.abs(lowered.log_probs(texts) - whole.log_probs(texts))
    assert 0 < differences.max() < 0.2


def test_the_other_decoder_is_not_rescored(model):
    for package in ("pyctcdecode", "kenlm"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    heard = model.log_probs([spoken("ab c", seed=3)])
    assert model.decode(*heard, decoder="pyctcdecode")[0].sentence_log_prob is None


def test_a_model_that_streams_is_not_rescored(contrary):
    streaming = tone_model(bidirectional=False)
    settings = {"lm": None, "decoder": "beam"}
    streaming.rescorer, streaming.decoder.rescore = contrary, 8
    try:
        wave = spoken("ab c d", seed=2)
        *_, last = streaming.stream([wave], **settings)
        assert last.transcript is not None
        assert last.transcript == streaming.transcribe(wave, **settings)
        assert streaming.decode(*streaming.log_probs([wave]), **settings)[0].sentence_log_prob is None
    finally:
        streaming.rescorer, streaming.decoder.rescore = None, 0


def test_tuning_scores_each_share_as_recognition_will(model, tmp_path):
    texts, utterances = ["ab c", "a d", "abc d", "dab a"], []
    for i, text in enumerate(texts):
        wave = spoken(text, seed=i) + 0.1 * np.random.default_rng(i).standard_normal(
            len(spoken(text, seed=i))
        )
        soundfile.write(tmp_path / f"{i}.wav", wave, RATE_HZ)
        utterances.append(
            Utterance(
                audio_filepath=str(tmp_path / f"{i}.wav"),
                duration_s=len(wave) / RATE_HZ,
                text=text,
                id=str(i),
            )
        )
    emissions, shares = Emissions(model, utterances), (0.0, 0.4, 1.0)
    for share, score in zip(shares, emissions.rescored(model.rescorer, shares, 8), strict=True):
        whole = emissions.score(rescore=8, rescore_share=share)
        assert (score.wer, score.errors) == (whole.wer, whole.errors)
    assert emissions.score(rescore=8, rescore_share=0.0).errors == emissions.score().errors
