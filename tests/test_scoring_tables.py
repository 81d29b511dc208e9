"""Scores, comparisons and rankings on the terminal and as JSON, from files."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from asr.cli import app
from asr.errors import ScoringError
from asr.jobs.compare import compare_files, show_comparison, tell_apart
from asr.jobs.score import recall, score_files, show_score, to_json
from asr.scoring import compare, rank, score
from asr.scoring.tables import print_comparison, print_score, print_table, ranking_table


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def files(folder: Path) -> tuple[Path, Path, Path]:
    texts = {
        "ref.trn": "the cat sat (ann-1)\na dog runs (bob-1)\nyes [sic] (bob-2)\n",
        "a.trn": "the bat sat (ann-1)\na runs (bob-1)\nyes [sic] (bob-2)\n",
        "b.trn": "yes [sic] (bob-2)\na dog runs (bob-1)\nthe cat sat down (ann-1)\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "ref.trn", folder / "a.trn", folder / "b.trn"


def test_a_score_is_printed_with_its_signature_and_its_worst_utterances(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, hypothesis, _ = files(tmp_path)
    show_score(*score_files(reference, hypothesis, hotwords=["cat", "dog runs"]), worst=1)
    printed = capsys.readouterr()
    for text in ("25.00%", "REF:  the CAT sat", "HYP:  the BAT sat", "cat → bat", "style:none|align:minimal"):
        assert text in printed.out
    assert "read as trn, trn; 3 utterances paired by id" in printed.err


def test_kinds_of_errors_that_do_not_occur_have_no_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_score(score(["one two", "three"], ["one too", "three"]), Console(width=120))
    printed = capsys.readouterr().out
    assert "taken for another" in printed and "missed" not in printed and "made up" not in printed


def test_numbers_are_whole_however_narrow_the_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    said, heard = ["a b c"] * 1234, ["a x c"] * 1234
    found = score(said, heard, speakers=["somebody", "nobody"] * 617, confidences=[(0.9, 0.8, 0.7)] * 1234)
    narrow = Console(width=20)
    print_score(found, narrow, recalls=recall(found, hotwords=["b"]))
    print_table(ranking_table(rank({"good": score(said, said), "bad": found})), narrow)
    print_comparison(compare(found, score(said, said)), narrow)
    printed = capsys.readouterr().out
    assert "…" not in printed and "33.33% – 33.33%" in printed and "3,702" in printed


def test_a_score_as_json_is_one_object_alone_on_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, hypothesis, _ = files(tmp_path)
    (tmp_path / "spk").write_text("ann-1 ann\nbob-1 bob\nbob-2 bob\n", encoding="utf-8")
    (tmp_path / "known.txt").write_text("the cat sat a runs yes [sic]", encoding="utf-8")
    wanted = {"hotwords": ["dog"], "vocabulary": tmp_path / "known.txt"}
    found = score_files(reference, hypothesis, utt2spk=tmp_path / "spk", alignment="sclite", **wanted)
    show_score(*found, as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert (data["wer"], data["substitutions"], data["deletions"], data["insertions"]) == (0.25, 1, 1, 0)
    assert (data["correct"], data["words"], data["sentences"]) == (6, 8, 3)
    bob = data["speakers"]["bob"]
    assert (bob["wer"], bob["deletions"], bob["words"], bob["sentences"]) == (0.2, 1, 5, 2)
    assert data["recall"]["dog"] == {"spoken": 1, "recognised": 0, "false_alarms": 0}
    assert data["recall"]["out of vocabulary"]["spoken"] == 1


def test_a_score_can_leave_a_report(tmp_path: Path) -> None:
    reference, hypothesis, _ = files(tmp_path)
    score_files(reference, hypothesis, report=tmp_path / "report.html")
    assert "a.trn" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_recall_that_was_asked_for_is_in_the_report_and_in_what_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, hypothesis, _ = files(tmp_path)
    (tmp_path / "known.txt").write_text("cat sat a runs yes [sic]", encoding="utf-8")
    words = ["score", str(reference), str(hypothesis), "--hotwords", "dog runs", "--report"]
    with pytest.raises(SystemExit, match="0"):
        app([*words, str(tmp_path / "r.html"), "--vocabulary", str(tmp_path / "known.txt")])
    page, printed = (tmp_path / "r.html").read_text(encoding="utf-8"), capsys.readouterr().out
    assert "<li>dog runs<span>0% (0 of 1; 0 false)" in page and "dog runs" in printed
    assert "<li>out of vocabulary<span>50% (1 of 2; 0 false)" in page and "out of vocabulary" in printed


def test_confidences_of_words_that_normalisation_splits_are_left_out_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"id": "1", "pred_text": "a b", "words": [["a", 0, 1, 0.9], ["b", 1, 2, 0.8]]},
        {"id": "2", "pred_text": "c/d", "words": [["c/d", 0, 1, 0.7]]},
    ]
    hypothesis, reference = tmp_path / "h.jsonl", tmp_path / "r.jsonl"
    hypothesis.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    reference.write_text('{"id": "1", "text": "a b"}\n{"id": "2", "text": "c d"}', encoding="utf-8")
    found, _ = score_files(reference, hypothesis, style="basic")
    assert [u.confidences for u in found.utterances] == [(0.9, 0.8), None]
    assert to_json(found)["ece"] == pytest.approx(0.15) and to_json(found)["nce"] is None
    assert to_json(score("a", "a"))["ece"] is None
    assert "without confidences: 1 utterance, whose" in capsys.readouterr().err


def test_a_comparison_is_printed_with_its_tests_and_where_systems_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare_files(*files(tmp_path))
    show_comparison(found, names=("old", "new"))
    printed = capsys.readouterr().out
    for text in ("new against old", "-12.50 points", "matched pairs", "McNemar", "2 of 3 utterances differ"):
        assert text in printed
    assert "not told apart" in printed and "test:mapsswe" in printed
    show_comparison(found, as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert data["difference"] == -0.125 and data["differing"] == 2


def test_files_of_one_name_are_told_apart_by_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = files(tmp_path)[1:]
    for folder, file in zip("ab", heard, strict=True):
        (tmp_path / folder / "out").mkdir(parents=True)
        file.rename(tmp_path / folder / "out" / "test.trn")
    words = ["compare", *(str(tmp_path / name) for name in ("ref.trn", "a/out/test.trn", "b/out/test.trn"))]
    with pytest.raises(SystemExit, match="0"):
        app(words)
    printed = capsys.readouterr().out
    assert "b/out/test.trn against a/out/test.trn" in printed
    assert "right only in a/out/test.trn: 0, only in b/out/test.trn: 1" in printed
    assert tell_apart(Path("a.txt"), Path("x/b.txt")) == ("a.txt", "b.txt")
    assert tell_apart(Path("a.txt"), Path("x/a.txt")) == ("a.txt", "x/a.txt")
    assert tell_apart(Path("x/a.txt"), Path("x/a.txt")) == ("x/a.txt", "x/a.txt")


def test_markup_in_names_of_systems_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(compare_files(*files(tmp_path)), names=("x[/b].txt", "[red]y"))
    printed = capsys.readouterr().out
    assert "right only in x[/b].txt: 0, only in [red]y: 1" in printed


def test_markup_in_transcripts_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=120)
    print_score(score(["[red]a[/] b"], ["[bold] b"], ids=["[x]"], speakers=["[y]"]), console)
    printed = capsys.readouterr().out
    assert "id: ([x])" in printed and "[red]a[/] → [bold]" in printed


def test_a_ranking_names_those_that_are_really_worse(capsys: pytest.CaptureFixture[str]) -> None:
    said = ["a b c"] * 50
    systems = {"bad": score(said, ["a x c"] * 50), "good": score(said, said)}
    Console(width=120).print(ranking_table(rank(systems)))
    lines = capsys.readouterr().out.splitlines()
    first, second = (next(line for line in lines if name in line) for name in ("good", "bad"))
    assert [cell.strip() for cell in first.split("│")[1:4]] == ["1", "good", "0.00%"]
    assert first.split("│")[5].strip() == "2" and second.split("│")[5].strip() == "none"


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("the cat", encoding="utf-8-sig")
    [found] = recall(score("the cat", "the cat"), vocabulary=tmp_path / "known.txt")
    assert found.spoken == 0


def test_an_unreadable_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match=r"nowhere.*expected a text"):
        recall(score("a", "a"), vocabulary=tmp_path / "nowhere")
