"""Scores, comparisons and rankings on a terminal; the first two end with their signature."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from asr.scoring import breakdown
from asr.scoring.alignment import AlignedUtterance, print_alignment
from asr.scoring.breakdown import Group, Recall
from asr.scoring.calibration import calibration_of
from asr.scoring.intervals import CONFIDENCE
from asr.scoring.significance import Comparison, Ranked
from asr.scoring.word_errors import Score

_COUNTS = ("words", "correct", "sub", "del", "ins")


def print_score(
    score: Score, console: Console, *, worst: int = 3, most: int = 10, recalls: Sequence[Recall] = ()
) -> None:
    """Print rates with their interval, counts, groups, the commonest errors, the worst utterances.

    Args:
        score: to be printed.
        console: to print on.
        worst: how many utterances to show with their alignment; 0 leaves out all details.
        most: rows of the longer tables.
        recalls: of out-of-vocabulary words and of hotwords, if asked for.
    """
    print_table(_rates(score), console)
    counts = (f"{score.sentences:,}", *_counts(score))
    print_table(_row(dict(zip(("utterances", *_COUNTS), counts, strict=True))), console)
    if worst:
        for title, groups in (
            ("speaker", breakdown.by_speaker(score)),
            ("length", breakdown.by_length(score)),
            ("duration", breakdown.by_duration(score)),
        ):
            if len(groups) > 1:
                print_table(_groups(title, groups, most), console)
        if score.errors:
            print_table(_errors(breakdown.word_errors(score), most), console)
    if recalls:
        print_table(_recalls(recalls), console)
    for utterance in breakdown.worst(score, worst):
        console.print()
        print_utterance(utterance, console)
    console.print(f"[dim]{escape(score.signature)}[/]", soft_wrap=True)


def print_table(table: Table, console: Console) -> None:
    """Print a table as wide as its cells, however narrow the console is: a number is never shortened."""
    options = console.options.update(max_width=10_000)
    table.width = Measurement.get(console, options, table).maximum
    console.print(table, crop=False)


def print_utterance(utterance: AlignedUtterance, console: Console) -> None:
    """Print REF, HYP and Eval lines as sclite does."""
    console.print(print_alignment(utterance, width=min(console.width, 120)), markup=False, no_wrap=True)


def print_comparison(
    comparison: Comparison, console: Console, *, differing: int = 3, names: Sequence[str] = ("A", "B")
) -> None:
    """Print both scores, their difference with its interval, the tests, and where they differ most."""
    c = comparison
    one, other = map(escape, names)
    table = Table(title=f"{other} against {one}", title_justify="left")
    for column in ("", *_COUNTS, "WER", f"{CONFIDENCE:.0%} interval"):
        table.add_column(column, justify="right" if column else "left")
    for name, score in zip(names, (c.a, c.b), strict=True):
        table.add_row(escape(name), *_counts(score), f"{score.wer:.2%}", _interval(score.wer_interval))
    print_table(table, console)
    verdict = "better" if c.difference < 0 else "worse"
    tests = Table(show_header=False, box=None, pad_edge=False)
    points = f"{100 * c.difference:+.2f} points of WER"
    tests.add_row("difference", f"{points}, {CONFIDENCE:.0%} interval {_points(c.difference_interval)}")
    m, n = c.matched_pairs, c.mcnemar
    tests.add_row("matched pairs", f"p = {_p(m.p)} (z = {m.z:.2f} in {m.segments} segments)")
    tests.add_row("McNemar", f"p = {_p(n.p)} (right only in {one}: {n.only_a}, only in {other}: {n.only_b})")
    told = f"[bold]{other} is {verdict}[/]" if c.is_significant else "[bold]not told apart[/]"
    tests.add_row("verdict", f"{told} at 5 % by the matched pairs test")
    print_table(tests, console)
    console.print(f"{len(c.differing)} of {c.a.sentences} utterances differ")
    for pair in c.differing[:differing]:
        for name, utterance in zip(names, pair, strict=True):
            console.print(f"\n[bold]{escape(name)}[/]")
            print_utterance(utterance, console)
    console.print(f"[dim]{escape(c.signature)}[/]", soft_wrap=True)


def ranking_table(ranking: Sequence[Ranked]) -> Table:
    """Runs from the best to the worst, as `asr.scoring.rank` gives them, each with those it really beats."""
    table = Table(title="runs by word error rate", title_justify="left")
    for column in ("rank", "run", "WER", f"{CONFIDENCE:.0%} interval", "really better than"):
        table.add_column(column, justify="right" if column in ("rank", "WER") else "left")
    place = {system.name: str(system.rank) for system in ranking}
    for system in ranking:
        beaten = ", ".join(place[name] for name in system.better_than)
        table.add_row(
            str(system.rank),
            escape(system.name),
            f"{system.score.wer:.2%}",
            _interval(system.score.wer_interval),
            beaten or "[dim]none[/]",
        )
    table.caption = "by the matched pairs test at 5 % over all pairs together (Holm)"
    table.caption_justify = "left"
    return table


def _rates(score: Score) -> Table:
    cells = {
        "WER": f"[bold]{score.wer:.2%}[/]",
        f"{CONFIDENCE:.0%} interval": _interval(score.wer_interval),
        "CER": f"{score.cer:.2%}",
        "SER": f"{score.ser:.2%}",
    }
    error, told = calibration_of(score)
    if error is not None:
        cells["ECE"] = f"{error:.2%}"
    if told is not None:
        cells["NCE"] = f"{told:.3f}"
    if score.real_time_factor is not None:
        cells["RTF"] = f"{score.real_time_factor:.3g}"
    return _row(cells)


def _row(cells: dict[str, str]) -> Table:
    table = Table()
    for name in cells:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(*cells.values())
    return table


def _groups(title: str, groups: Sequence[Group], most: int) -> Table:
    table = Table(title=f"by {title}", title_justify="left")
    for column in (title, "utterances", *_COUNTS, "WER"):
        table.add_column(column, justify="left" if column == title else "right")
    for group in groups[:most]:
        s = group.score
        table.add_row(escape(group.name), f"{s.sentences:,}", *_counts(s), f"{s.wer:.2%}")
    if len(groups) > most:
        table.caption, table.caption_justify = f"the worst {most} of {len(groups)}", "left"
    return table


def _errors(errors: breakdown.WordErrors, most: int) -> Table:
    confusions = [(f"{said} → {heard}", count) for (said, heard), count in errors.confusions]
    titled = {"taken for another": confusions, "missed": errors.deleted, "made up": errors.inserted}
    columns = {title: list(column) for title, column in titled.items() if column}
    table = Table(title="commonest errors", title_justify="left")
    for title in columns:
        table.add_column(title)
        table.add_column("", justify="right")
    for n in range(min(most, max(map(len, columns.values())))):
        cells = [(escape(c[n][0]), f"{c[n][1]:,}") if n < len(c) else ("", "") for c in columns.values()]
        table.add_row(*(text for cell in cells for text in cell))
    return table


def _recalls(recalls: Sequence[Recall]) -> Table:
    table = Table(title="recall", title_justify="left")
    for column in ("", "spoken", "recognised", "recall", "falsely written"):
        table.add_column(column, justify="right" if column else "left")
    for r in recalls:
        share = "–" if r.recall is None else f"{r.recall:.1%}"
        table.add_row(escape(r.name), f"{r.spoken:,}", f"{r.recognised:,}", share, f"{r.false_alarms:,}")
    return table


def _counts(score: Score) -> list[str]:
    counts = (score.words, score.correct, score.substitutions, score.deletions, score.insertions)
    return [f"{count:,}" for count in counts]


def _interval(bounds: tuple[float, float] | None) -> str:
    return "–" if bounds is None else f"{bounds[0]:.2%} – {bounds[1]:.2%}"


def _points(bounds: tuple[float, float] | None) -> str:
    return "–" if bounds is None else f"{100 * bounds[0]:+.2f} to {100 * bounds[1]:+.2f}"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"
