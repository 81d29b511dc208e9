"""Subtitles, TextGrids and label tracks, as the programs that write them do."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.captions import GAP_S, LONGEST_S, Cue, is_captions, read_captions
from asr.corpus.manifest import Utterance
from asr.errors import ManifestError
from asr.jobs.align import FORMATS as ALIGNED
from asr.jobs.cutting import Aligned
from asr.jobs.formats import FORMATS
from asr.transcript import Segment, Transcript, Word

SRT = """\
1
00:00:01,000 --> 00:00:02,500
<i>Good</i> morning,
{\\an8}all.

2
00:01:03,25 --> 00:01:04,000 X1:10 X2:20
[door slams]

3
01:00:00,000 --> 01:00:01,000
42

is the answer (laughs) &amp; no other
"""

VTT = """\
WEBVTT - a talk

NOTE 00:00 is the
beginning

STYLE
::cue { color: white }

intro
00:01.000 --> 00:02.500 align:start position:0%
<v.loud Ann Lee>Good <c.yellow>morning</c>, <00:00:01.500>all</v>

00:02.550 --> 00:03.000
<v Bob>me too

not a cue
"""

LONG = """\
File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0 
xmax = 5.5 
tiers? <exists> 
size = 3 
item []: 
    item [1]:
        class = "IntervalTier" 
        name = "ann" 
        xmin = 0 
        xmax = 5.5 
        intervals: size = 3 
        intervals [1]:
            xmin = 0 
            xmax = 1.25 
            text = "" 
        intervals [2]:
            xmin = 1.25 
            xmax = 2.5 
            text = "say ""aye"" 2 times" 
        intervals [3]:
            xmin = 2.5 
            xmax = 5.5 
            text = "" 
    item [2]:
        class = "TextTier" 
        name = "clicks" 
        xmin = 0 
        xmax = 5.5 
        points: size = 1 
        points [1]:
            number = 3 
            mark = "click" 
    item [3]:
        class = "IntervalTier" 
        name = "%s" 
        xmin = 0 
        xmax = 5.5 
        intervals: size = 1 
        intervals [1]:
            xmin = 2 
            xmax = 3 
            text = "yes" 
"""

SHORT = """\
File type = "ooTextFile"
Object class = "TextGrid"

0
2
<exists>
1
"IntervalTier"
"words"
0
2
3
0
0.5
"good"
0.5
1
"morning"
1.5
2
"all"
"""


def read(folder: Path, name: str, content: str | bytes) -> list[Cue]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_captions(path)


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_subrip_is_read_without_its_tags_numbers_and_sounds(tmp_path, ends, encoding):
    assert read(tmp_path, "a.srt", SRT.replace("\n", ends).encode(encoding)) == [
        Cue(1.0, 2.5, "Good morning, all."),
        Cue(3600.0, 3601.0, "42 is the answer & no other"),
    ]


def test_a_number_is_a_text_where_cues_are_not_numbered(tmp_path):
    srt = "00:00:01,000 --> 00:00:02,000\n42\n\n00:00:05,000 --> 00:00:06,000\n43\n"
    assert [cue.text for cue in read(tmp_path, "a.srt", srt)] == ["42", "43"]


def test_webvtt_names_speakers_and_has_notes_that_nobody_says(tmp_path):
    assert read(tmp_path, "a.vtt", VTT) == [
        Cue(1.0, 2.5, "Good morning, all", "Ann Lee"),
        Cue(2.55, 3.0, "me too", "Bob"),
    ]


def test_lines_that_roll_up_are_said_once(tmp_path):
    vtt = """\
WEBVTT
Kind: captions
Language: en

00:00:00.000 --> 00:00:02.000 align:start position:0%
 
good<00:00:00.500><c> morning</c>

00:00:02.000 --> 00:00:02.010 align:start position:0%
good morning
 

00:00:02.010 --> 00:00:04.000 align:start position:0%
good morning
to<00:00:02.500><c> you</c>

00:00:04.000 --> 00:00:04.010 align:start position:0%
to you
 

00:00:04.010 --> 00:00:05.000 align:start position:0%
to you
all
"""
    assert read(tmp_path, "a.vtt", vtt) == [Cue(0.0, 5.0, "good morning to you all")]


def test_a_line_that_is_said_twice_is_kept_twice(tmp_path):
    said = ["no", "no", "yes", "oh", "well"]
    cues = [f"00:00:0{k}.000 --> 00:00:0{k}.500\n{text}" for k, text in enumerate(said)]
    assert [cue.text for cue in read(tmp_path, "a.vtt", "WEBVTT\n\n" + "\n\n".join(cues))] == said


def test_lines_that_stay_while_the_next_is_said_end_where_that_starts(tmp_path):
    said = [(2 * k, 2 * k + 4, f"w{k}") for k in range(14)]
    srt = "".join(f"00:00:{a:02} --> 00:00:{b:02}\n{text}\n\n" for a, b, text in said)
    found = [(c.start_s, c.end_s, c.text) for c in read(tmp_path, "a.srt", srt)]
    first, rest = (" ".join(f"w{k}" for k in range(*ends)) for ends in ((10,), (10, 14)))
    assert found == [(0.0, 20.0, first), (20.0, 30.0, rest)]


def test_a_textgrid_gives_its_utterances_and_speakers(tmp_path):
    both = [Cue(1.25, 2.5, 'say "aye" 2 times', "ann"), Cue(2.0, 3.0, "yes", "bob")]
    assert read(tmp_path, "a.TextGrid", LONG % "bob") == both
    assert read(tmp_path, "a.TextGrid", (LONG % "bob").encode("utf-16")) == both
    assert read(tmp_path, "a.TextGrid", LONG % "ann - words") == [both[0]._replace(speaker=None)]
    assert read(tmp_path, "a.TextGrid", LONG % "phones") == [both[0]._replace(speaker=None)]


def test_words_without_a_pause_between_them_are_an_utterance(tmp_path):
    words = [Cue(0.0, 1.0, "good morning"), Cue(1.5, 2.0, "all")]
    assert read(tmp_path, "a.TextGrid", SHORT) == words
    assert read(tmp_path, "a.TextGrid", SHORT.replace("TextFile", "TextFile short")) == words
    assert read(tmp_path, "a.TextGrid", SHORT.replace("words", "ann - words")) == words
    for no_word in ("sp", "<unk>", "<p:>", "{SL}"):
        assert read(tmp_path, "a.TextGrid", SHORT.replace('"all"', f'"{no_word}"')) == words[:1]


def tiers(*names: str) -> str:
    """A TextGrid in the short format, with an interval in each tier."""
    rows = "".join(f'"IntervalTier"\n"{name}"\n0\n2\n1\n0\n{k}\n"t{k}"\n' for k, name in enumerate(names, 1))
    return f'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2\n<exists>\n{len(names)}\n{rows}'


def test_tiers_are_those_of_forced_aligners(tmp_path):
    mfa = tiers("ann - words", "ann - phones", "bob - words", "bob - phones")
    assert read(tmp_path, "a.TextGrid", mfa) == [Cue(0.0, 1.0, "t1", "ann"), Cue(0.0, 3.0, "t3", "bob")]
    assert read(tmp_path, "a.TextGrid", tiers("ORT-MAU", "KAN-MAU", "MAU")) == [Cue(0.0, 1.0, "t1")]
    assert read(tmp_path, "a.TextGrid", tiers("phone", "word")) == [Cue(0.0, 2.0, "t2")]


def test_a_label_track_may_have_decimal_commas_and_frequencies(tmp_path):
    track = "1.000000\t2.500000\tgood morning\n\\\t120.0\t3000.0\n4,5\t5,25\tall\n6.0\t6.0\n"
    assert read(tmp_path, "a.txt", track) == [Cue(1.0, 2.5, "good morning"), Cue(4.5, 5.25, "all")]


def test_whispers_table_is_in_milliseconds(tmp_path):
    table = "start\tend\ttext\n1000\t2500\tgood morning\n4500\t5250\tall\n"
    assert read(tmp_path, "a.tsv", table) == [Cue(1.0, 2.5, "good morning"), Cue(4.5, 5.25, "all")]


@pytest.mark.parametrize(
    ("name", "first", "is_one"),
    [
        ("a.txt", "good morning", False),
        ("a.txt", "1\t2 good morning", False),
        ("a.txt", "1.5\t2.5\tgood morning", True),
        ("a.txt", "1\t2\tgood morning", True),
        ("a.txt", "1.5\t2.5", True),
        ("a.txt", "101\t5", False),  # of Kaldi: id and text
        ("a.txt", "", False),
        ("a.tsv", "path\ttext", False),
        ("a.tsv", "start\tend\ttext", True),
        ("a.json", "1.5\t2.5\tgood morning", False),
        ("a.SRT", "", True),
    ],
)
def test_what_has_times_is_known_by_its_suffix_or_first_line(tmp_path, name, first, is_one):
    (tmp_path / name).write_text(first + "\n")
    assert is_captions(tmp_path / name) == is_one


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.srt", "1\n00:00:01,000 -> 00:00:02,000\nyes\n", "no times with a text"),
        ("a.srt", "1\n00:00:01,000 --> 2\nyes\n", "line 2: expected `00:00:01,000"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\n\xe9t\xe9\n", "line 3 is not text in UTF-8"),
        ("a.TextGrid", b"ooBinaryFile\x08TextGrid\0\0\xf0", "binary format: save it as a text file"),
        ("a.txt", "1.0\t2.0\tyes\n2.0 3.0 no\n", "line 2: expected start, end and text"),
        ("a.tsv", "start\tend\ttext\n1000\tlate\tyes\n", "line 2: expected start and end in milliseconds"),
        ("a.tsv", "start\tend\ttext\n\n1000\n", "line 3: expected start and end in milliseconds"),
        ("a.TextGrid", "hello", "no TextGrid"),
        ("a.TextGrid", SHORT.replace('"all"', ""), "ends before"),
        ("a.TextGrid", SHORT.replace("1.5", '"1.5"').replace("1.5", "late"), "damaged"),
    ],
)
def test_what_is_damaged_says_where(tmp_path, name, content, says):
    with pytest.raises(ManifestError, match=says):
        read(tmp_path, name, content)


def test_cues_are_joined_up_to_a_length_and_over_no_gap(tmp_path):
    edges = [(0, 8), (8 + GAP_S, 16), (16, 19.5), (19.5, 24), (24.5, 25)]
    track = "".join(f"{a:.3f}\t{b:.3f}\tw{k}\n" for k, (a, b) in enumerate(edges))
    found = read(tmp_path, "a.txt", track)
    assert [(c.start_s, c.end_s, c.text) for c in found] == [
        (0.0, 19.5, "w0 w1 w2"),
        (19.5, 24.0, "w3"),
        (24.5, 25.0, "w4"),
    ]
    assert all(c.end_s - c.start_s <= LONGEST_S for c in found)


def test_scripts_without_spaces_are_joined_without(tmp_path):
    said = ["（田中）今日は\n良い【拍手】", "天気 OK\nyes"]
    srt = "".join(f"{k}\n00:00:0{k},000 --> 00:00:0{k + 1},000\n{s}\n\n" for k, s in enumerate(said, 1))
    assert [cue.text for cue in read(tmp_path, "a.srt", srt)] == ["今日は良い天気 OK yes"]


WORDS = st.lists(st.text("abcé'", min_size=1, max_size=5), min_size=1, max_size=30)


@settings(max_examples=25)
@given(said=WORDS, gaps=st.lists(st.integers(0, 3000), min_size=30, max_size=30))
def test_what_we_write_as_subtitles_is_read_again(tmp_path_factory, said, gaps):
    words, at = [], 0
    for text, gap in zip(said, gaps, strict=False):
        words.append(Word(text, (at + gap) / 1000, (at + gap + 400) / 1000, 1.0))
        at += gap + 400
    segment = Segment(" ".join(said), words[0].start_s, words[-1].end_s, tuple(words))
    transcript = Transcript(segment.text, tuple(words), (segment,), -1.0)
    folder = tmp_path_factory.mktemp("written")
    for form in ("srt", "vtt", "tsv"):
        for by_word in (False, True):
            found = read(folder, f"a.{form}", FORMATS[form](transcript, name="a", words=by_word))
            assert " ".join(cue.text for cue in found) == segment.text
            assert (found[0].start_s, found[-1].end_s) == (segment.start_s, segment.end_s)
    one = Aligned(
        "a", Utterance("a", Path("a.wav"), at / 1000, segment.text), words, [1.0] * len(words), at / 1000
    )
    found = read(folder, "a.TextGrid", ALIGNED["textgrid"](one))
    assert " ".join(cue.text for cue in found) == segment.text
