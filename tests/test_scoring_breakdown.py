"""Where the errors are: groups, words, worst utterances, rare words and hotwords."""

from asr.scoring import score
from asr.scoring.breakdown import (
    by_duration,
    by_length,
    by_speaker,
    hotwords,
    out_of_vocabulary,
    word_errors,
    worst,
)


def test_groups_by_speaker_add_up_and_the_worst_comes_first() -> None:
    found = score(
        ["a b", "c d", "e f", "g"],
        ["a b", "c x", "x y", "g h"],
        speakers=["ann", "bob", "cy", "ann"],
        durations_s=[1.0, 2.0, 4.9, 50.0],
    )
    groups = by_speaker(found)
    assert [(g.name, g.score.errors, g.score.words) for g in groups] == [
        ("cy", 2, 2),
        ("bob", 1, 2),
        ("ann", 1, 3),
    ]
    assert sum(g.score.errors for g in groups) == found.errors
    assert [(g.name, g.score.sentences) for g in by_duration(found)] == [
        ("0–2 s", 1),
        ("2–5 s", 2),
        ("40 s or more", 1),
    ]


def test_groups_by_length_are_ranges_of_reference_words() -> None:
    lengths = [0, 1, 2, 3, 5, 6, 10, 11, 40, 41, 99]
    found = score([" ".join("a" * n) for n in lengths], [""] * len(lengths))
    assert [(g.name, g.score.sentences) for g in by_length(found)] == [
        ("0 words", 1),
        ("1–2 words", 2),
        ("3–5 words", 2),
        ("6–10 words", 2),
        ("11–20 words", 1),
        ("21–40 words", 1),
        ("41 words or more", 2),
    ]


def test_without_speakers_or_durations_there_are_no_such_groups() -> None:
    assert by_speaker(score("a", "a")) == by_duration(score("a", "a")) == []


def test_errors_are_counted_by_word_the_commonest_first() -> None:
    found = word_errors(score(["a b c", "a b", "d"], ["x b", "x b y", "d y y"]))
    assert found.confusions == [(("a", "x"), 2)]
    assert found.deleted == [("c", 1)]
    assert found.inserted == [("y", 3)]


def test_the_worst_utterances_have_most_errors_then_the_highest_rate() -> None:
    found = score(["a b c d", "a", "b c", "d"], ["a b c x", "x", "x y", "d"])
    assert [u.id for u in worst(found)] == ["3", "2", "1"]
    assert [u.id for u in worst(found, 1)] == ["3"]


def test_words_outside_the_vocabulary_are_looked_for_in_the_references() -> None:
    found = out_of_vocabulary(score(["a zebra b", "zebra gnu"], ["a zebra x", "zeb gnu"]), ["a", "b"])
    assert (found.spoken, found.recognised, found.recall) == (3, 2, 2 / 3)
    assert out_of_vocabulary(score("a", "a"), {"a"}).recall is None


def test_hotwords_are_recognised_whole_or_not() -> None:
    found = score(
        ["call new york now", "new york new york", "york is new", "call"],
        ["call new york now", "new york knew york", "new york is new", "call new york"],
    )
    new_york, call, absent = hotwords(found, ["new york", "call", "paris"])
    assert (new_york.spoken, new_york.recognised, new_york.false_alarms) == (3, 2, 2)
    assert (new_york.recall, new_york.precision) == (2 / 3, 0.5)
    assert (call.spoken, call.recognised, call.false_alarms) == (2, 2, 0)
    assert (absent.recall, absent.precision) == (None, None)


def test_words_with_an_insertion_between_them_are_not_the_phrase() -> None:
    (found,) = hotwords(score("new york", "new big york"), ["new york"])
    assert (found.spoken, found.recognised, found.false_alarms) == (1, 0, 0)
