"""Decoding block by block against decoding the whole, and what is settled against what comes."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import asr.lm
from asr.decoding import BeamDecoder, Hypothesis, agreement, greedy, occurrence
from asr.decoding.occurrence import Heard
from asr.decoding.stream import BeamStream, GreedyStream, Progress, StreamDecoder
from asr.errors import DecodingError
from asr.pronunciation import Lexicon
from asr.text import Alphabet

WORDS = Alphabet([" ", "a", "b"])
LM = asr.lm.train(["a b", "a a b", "b a", "ab b", "a"], order=3)
SPLITS = [(1,), (3,), (7, 1), (20, 0, 5), (1000,)]
BEAMS: dict[str, dict[str, object]] = {
    "plain": {},
    "narrow": {"beam_width": 2},
    "language model": {"lm": LM, "alpha": 0.8},
    "lexicon": {"lexicon": ["ab", "b", "aab"]},
    "language model and lexicon": {"lm": LM, "lexicon": ["ab", "b", "a"], "beam_width": 8},
    "hotwords": {"hotwords": {"ab": 3.0, "b a": 2.0}},
}


def emissions(seed: int, frames: int = 60, outputs: int = 4) -> Tensor:
    """Log-probabilities with runs of one output, sure of some frames and not of others."""
    rng = np.random.default_rng(seed)
    heard = np.repeat(rng.integers(0, outputs, frames), rng.integers(1, 4, frames))[:frames]
    logits = rng.normal(size=(frames, outputs))
    logits[np.arange(frames), heard] += rng.uniform(0, 6, frames)
    return torch.from_numpy(logits).log_softmax(-1).float()


def feed(stream: StreamDecoder, log_probs_TV: Tensor, sizes: tuple[int, ...]) -> list[Progress]:
    said, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= len(log_probs_TV):
            return said
        said.append(stream.feed(log_probs_TV[at : at + size]))
        at += size
    raise AssertionError


def check_settled(said: list[Progress], end: Hypothesis) -> None:
    for now in said:
        assert end.tokens[: now.settled] == now.hypothesis.tokens[: now.settled]
        assert len(now.hypothesis.tokens) >= now.settled
    settled = [now.settled for now in said]
    assert settled == sorted(settled)


@pytest.mark.parametrize("sizes", SPLITS)
def test_the_best_path_in_blocks_is_that_of_the_whole(sizes: tuple[int, ...]) -> None:
    for seed in range(20):
        log_probs_TV, stream = emissions(seed), GreedyStream()
        said = feed(stream, log_probs_TV, sizes)
        [whole] = greedy(log_probs_TV[None], [60])
        end = stream.finish()
        assert (end.tokens, end.frames, end.confidences) == (whole.tokens, whole.frames, whole.confidences)
        assert end.log_prob == pytest.approx(whole.log_prob, abs=1e-4)
        check_settled(said, end)
        for now in said:  # of the best path not even frames and confidence change
            assert end.frames[: now.settled] == now.hypothesis.frames[: now.settled]
            assert end.confidences[: now.settled] == now.hypothesis.confidences[: now.settled]
        assert said[-1].settled >= len(end.tokens) - 1


@pytest.mark.parametrize("sizes", SPLITS)
@pytest.mark.parametrize("name", BEAMS)
def test_a_beam_in_blocks_finds_what_it_finds_in_the_whole(name: str, sizes: tuple[int, ...]) -> None:
    decoder = BeamDecoder(WORDS, threads=1, **BEAMS[name])  # type: ignore[arg-type]
    for seed in range(20):
        log_probs_TV, stream = emissions(seed), BeamStream(decoder)
        said = feed(stream, log_probs_TV, sizes)
        [whole], end = decoder.decode(log_probs_TV[None], [60]), stream.finish()
        check_settled(said, end)
        if end != whole:  # the beam had lost the best path, which is better than all that is left
            assert name == "narrow"
            [best_path] = greedy(log_probs_TV[None], [60])
            assert whole.tokens == best_path.tokens and whole.score > end.score


@pytest.mark.parametrize("name", BEAMS)
def test_most_of_a_beam_is_settled_before_the_end(name: str) -> None:
    decoder = BeamDecoder(WORDS, threads=1, **BEAMS[name])  # type: ignore[arg-type]
    shares = []
    for seed in range(10):
        stream = BeamStream(decoder)
        said = feed(stream, emissions(seed, frames=200), (200,))
        shares.append(said[-1].settled / len(stream.finish().tokens))
    assert np.mean(shares) > 0.7


@pytest.mark.parametrize("name", ["plain", "language model and lexicon"])
def test_settled_words_are_judged_once_among_their_neighbours(name: str, monkeypatch) -> None:
    """However long the segment is; the final confidences, by all of it and what came later, are similar."""
    decoder, sampled = BeamDecoder(WORDS, threads=1, **BEAMS[name]), []  # type: ignore[arg-type]
    sample = agreement.drawn

    def counted(*given):
        sampled.append(sample(*given))
        return sampled[-1]

    monkeypatch.setattr(agreement, "drawn", counted)
    stream = BeamStream(decoder)
    said = feed(stream, emissions(0, frames=1500), (10,))
    told: list[float] = []
    for now in said:
        words = [w.confidence for w in now.hypothesis.words(WORDS)[: now.settled_words(WORDS)]]
        assert words[: len(told)] == told, "what was told stays"
        told = words
    lengths = [np.diff(ends, prepend=0).mean() for _, ends in sampled]
    assert max(lengths[-40:]) < 1.5 * max(lengths[40:80])
    end = [w.confidence for w in stream.finish().words(WORDS)]
    assert len(told) > 100 and np.corrcoef(told, end[: len(told)])[0, 1] > 0.9


@pytest.mark.parametrize("name", ["plain", "language model and lexicon", "narrow"])
def test_what_is_settled_is_not_located_again(name: str, monkeypatch) -> None:
    """However long the segment is; and all is as if the frames so far were the whole."""
    decoder, located = BeamDecoder(WORDS, threads=1, **BEAMS[name]), []  # type: ignore[arg-type]
    log_probs_TV, advance = (4 * emissions(3, frames=1200)).log_softmax(-1), occurrence._advance

    def counted(y_TV, tokens, masses, begins, moves, place, limit):
        now, moves = advance(y_TV, tokens, masses, begins, moves, place, limit)
        located.append(now.frame - place.frame)
        return now, moves

    monkeypatch.setattr(occurrence, "_advance", counted)
    said = feed(BeamStream(decoder), log_probs_TV, (10,))
    assert max(located[-40:]) < 1.5 * max(located[40:80])
    for n, now in enumerate(said, 1):
        hypothesis, heard = now.hypothesis, Heard(decoder.weighed(log_probs_TV[: 10 * n]))
        alone = hypothesis.log_prob, hypothesis.frames, hypothesis.confidences
        assert alone == heard.locate(np.array(hypothesis.tokens, np.int64))


def test_settled_words_keep_their_confidence_while_nothing_may_be_written() -> None:
    """Inside a word of the lexicon nothing can be judged: the utterance cannot end there."""
    alphabet = Alphabet([" ", "a", "b"])
    stream = BeamStream(BeamDecoder(alphabet, lexicon=["ab", "ba"], beam_width=1))
    log_probs_TV = (torch.eye(4)[[2, 3, 1, 3, 2, 1, 2, 0]] * 0.6 + 0.1).log()
    first, second = (stream.feed(block) for block in log_probs_TV.split([5, 3]))
    assert [now.settled_words(alphabet) for now in (first, second)] == [1, 2]
    told, kept = (now.hypothesis.words(alphabet)[0].confidence for now in (first, second))
    assert kept == told != pytest.approx(0.7)  # 0.7 by its outputs alone


@pytest.mark.parametrize("space", [" ", "c"])
def test_words_are_settled_with_what_ends_them(space: str) -> None:
    alphabet = Alphabet(["a", "b", space])
    said = Progress(Hypothesis((1, 2, 3, 1), ((0, 1),) * 4, (1.0,) * 4, -1.0, -1.0), 0)
    for settled, words, text in [(0, 0, ""), (1, 0, "a"), (2, 0, "ab"), (3, 1, "ab"), (4, 1, "ab a")]:
        now = Progress(said.hypothesis, settled)
        expected = text if space == " " else "abca"[:settled]
        assert now.settled_text(alphabet) == expected
        assert now.settled_words(alphabet) == (words if space == " " else settled)


def test_subwords_settle_a_word_with_the_next_one() -> None:
    alphabet = Alphabet.from_texts(["abba cab dad"] * 3, subwords=12)
    tokens = tuple(alphabet.encode("cab dad"))
    second = next(i for i, token in enumerate(tokens) if i and alphabet.word_starts[token])
    said = Hypothesis(tokens, ((0, 1),) * len(tokens), (1.0,) * len(tokens), -1.0, -1.0)
    assert Progress(said, second).settled_words(alphabet) == 0
    assert Progress(said, second + 1).settled_words(alphabet) == 1
    assert "cab dad".startswith(Progress(said, second + 1).settled_text(alphabet))


def test_phones_are_text_when_their_word_is_complete() -> None:
    alphabet = Alphabet([" ", "t", "uː"], lexicon=Lexicon({"two": [("t", "uː")]}))
    said = Hypothesis((2, 3, 1, 2), ((0, 1),) * 4, (1.0,) * 4, -1.0, -1.0)
    assert [Progress(said, n).settled_text(alphabet) for n in range(5)] == ["", "", "", "two", "two"]
    assert [Progress(said, n).settled_words(alphabet) for n in range(5)] == [0, 0, 0, 1, 1]


HOMOPHONES = {"aye": [["a"]], "eye": [["a"]], "bee": [["b"], ["b", "a"]], "be": [["b"]], "abba": [["a", "b"]]}
SAID = asr.lm.train(["aye bee", "eye be abba", "be eye", "bee aye aye", "eye", "abba be aye"] * 2, order=3)


@pytest.mark.parametrize("hotwords", [(), {"be eye": 4.0}])
@pytest.mark.parametrize("lm", [None, SAID])
def test_a_homophone_is_settled_as_soon_as_nothing_can_change_it(lm, hotwords) -> None:
    decoder = BeamDecoder(WORDS, lm, lexicon=HOMOPHONES, hotwords=hotwords, threads=1)
    shares = []
    for seed in range(20):
        stream = BeamStream(decoder)
        said = feed(stream, emissions(seed, frames=120), (7,))
        end = stream.finish()
        assert end == decoder.decode(emissions(seed, frames=120)[None], [120])[0]
        check_settled(said, end)
        texts = [now.settled_text(WORDS) for now in said]
        for text, now in zip(texts, said, strict=True):
            words = now.settled_words(WORDS)
            assert text.split() == list(end.orthography[:words])
        shares.append(len(texts[-1].split()) / max(len(end.orthography), 1))
    assert np.mean(shares) > (0.7 if lm is None else 0.5)


@pytest.mark.parametrize("make", [GreedyStream, lambda: BeamStream(BeamDecoder(WORDS))])
def test_blocks_that_are_no_distributions_are_refused(make: Callable[[], StreamDecoder]) -> None:
    with pytest.raises(DecodingError, match="time, outputs"):
        make().feed(emissions(0)[None])
    with pytest.raises(DecodingError, match="not normalised"):
        make().feed(torch.zeros(3, 4))


def surely(alphabet: Alphabet, *heard: str | dict[str, float]) -> Tensor:
    """Frames in which a symbol (`_` is the blank) is heard for sure, or several with their probabilities."""
    names = ["_", *alphabet.symbols]
    frames = torch.full((len(heard), alphabet.size), 1e-12)
    for t, frame in enumerate(heard):
        for symbol, p in (frame if isinstance(frame, dict) else {frame: 1.0}).items():
            frames[t, names.index(symbol)] = p
    return (frames / frames.sum(1, keepdim=True)).log()


def test_a_word_is_settled_when_all_that_is_alive_can_only_become_it() -> None:
    alphabet = Alphabet(list(" abcd"))
    decoder = BeamDecoder(alphabet, lexicon=["abcd", "bad", "cab"], threads=1)
    half = surely(alphabet, "a", "b", "c", {"d": 0.5, "_": 0.5}, *"____")
    assert [decoder.begin().settled()] == [()]
    search = decoder.begin()
    search.advance(half)
    assert search.agreed() == (2, 3, 4)  # `abc` and `abcd` are alive
    assert search.settled() == (2, 3, 4, 5)
    stream = BeamStream(decoder)
    said = feed(stream, torch.cat([half, surely(alphabet, *"__ ", *"cab_")]), (1,))
    check_settled(said, stream.finish())
    assert [now.settled for now in said[:4]] == [0, 0, 0, 4]  # four tokens have no place in three frames
    assert said[-1].settled_text(alphabet) == "abcd cab"


def test_sound_that_breaks_off_ends_with_the_word_that_was_inevitable() -> None:
    alphabet = Alphabet(list(" abcd"))
    decoder = BeamDecoder(alphabet, lexicon=["abcd", "abba", "cab"], threads=1)
    for heard, text in (("cab_ abc__", "cab abcd"), ("cab_ ab___", "cab"), ("cab_ a____", "cab")):
        log_probs_TV, stream = surely(alphabet, *heard), BeamStream(decoder)
        [whole] = decoder.decode(log_probs_TV[None], [len(heard)])
        said = feed(stream, log_probs_TV, (1,))
        assert stream.finish() == whole
        assert whole.text(alphabet) == text
        check_settled(said, whole)


def test_a_word_that_another_one_goes_on_from_is_not_settled_before_its_end() -> None:
    alphabet = Alphabet(list(" abcd"))
    decoder = BeamDecoder(alphabet, lexicon=["ab", "abcd", "bad"], threads=1)
    search = decoder.begin()
    search.advance(surely(alphabet, "a", "b", "_", "_"))
    assert search.settled() == ()
    search.advance(surely(alphabet, "c", "_"))
    assert search.settled() == (2, 3, 4, 5)
    assert [best.tokens for best in search.finish(search.settled())] == [(2, 3, 4, 5)]


def test_pieces_of_words_can_be_written_in_several_ways_and_so_nothing_is_foreseen() -> None:
    alphabet = Alphabet.from_texts(["abc ab bc", "abc bcd"], subwords=12)
    piece = next(symbol for symbol in alphabet.symbols if symbol == "▁a")
    search = BeamDecoder(alphabet, lexicon=["abc"], threads=1).begin()
    search.advance(surely(alphabet, piece, *"____"))
    assert search.agreed() and search.settled() == ()
