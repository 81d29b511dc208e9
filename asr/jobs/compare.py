"""`asr compare`: two files of hypotheses for the same references → whether one is significantly better."""

from collections.abc import Sequence
from pathlib import Path

from asr.jobs.console import output
from asr.jobs.score import tell
from asr.scoring import Comparison, compare, pairing, tables
from asr.scoring.styles import Style


def compare_files(
    reference: Path, hypothesis_a: Path, hypothesis_b: Path, *, style: Style = "none", plain: bool = False
) -> Comparison:
    """Both scores, with significance tests of their difference; arguments as for `score_files`.

    Raises:
        ScoringError: a file or line that is wrong, or files that do not belong together.
    """
    paired = pairing.read(reference, hypothesis_a, hypothesis_b, plain=plain)
    tell(paired, style)
    return compare(paired.score(0, style=style), paired.score(1, style=style))


def tell_apart(one: Path, other: Path) -> tuple[str, str]:
    """What tells two files apart: their names, with as many of their folders as it takes.

    >>> tell_apart(Path("exp/a/test.txt"), Path("exp/b/test.txt"))
    ('a/test.txt', 'b/test.txt')
    """
    for count in range(1, max(len(one.parts), len(other.parts))):
        tails = [Path(*path.parts[-count:]) for path in (one, other)]
        if tails[0] != tails[1]:
            return str(tails[0]), str(tails[1])
    return str(one), str(other)


def show_comparison(
    found: Comparison, *, as_json: bool = False, differing: int = 3, names: Sequence[str] = ("A", "B")
) -> None:
    """Print a comparison, as tables with the utterances that differ most, or as one JSON object."""
    if as_json:
        output.print_json(data=found.to_json())
    else:
        tables.print_comparison(found, output, differing=differing, names=names)
