"""`asr score`: references and hypotheses in files → rates, counts and errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.errors import ScoringError
from asr.jobs.console import counted, output, say, warn
from asr.scoring import Score, breakdown, pairing, tables
from asr.scoring.alignment import Alignment
from asr.scoring.breakdown import Recall
from asr.scoring.calibration import calibration_of
from asr.scoring.report import write_report
from asr.scoring.styles import Style, word_splitter


def score_files(
    reference: Path,
    hypothesis: Path,
    *,
    style: Style = "none",
    alignment: Alignment = "minimal",
    utt2spk: Path | None = None,
    plain: bool = False,
    hotwords: Sequence[str] = (),
    vocabulary: Path | None = None,
    report: Path | None = None,
) -> tuple[Score, list[Recall]]:
    """The score of a file of hypotheses, and the recall of certain words.

    Prints which formats were read and what was left out.

    Args:
        reference, hypothesis: plain text, Kaldi's `id text`, trn, JSONL, STM, CTM or subtitles.
        style: normalisation of both sides.
        alignment: `minimal` or `sclite`.
        utt2spk: lines of id and speaker.
        plain: lines that look like texts have no ids, whatever they begin or end with, unless the
            suffix is trn.
        hotwords: words or phrases whose recall is wanted.
        vocabulary: a text with the words the model knows, for the recall of all other words.
        report: write a page with every error there.

    Raises:
        ScoringError: a file or line that is wrong, or files that do not belong together.
    """
    paired = pairing.read(reference, hypothesis, utt2spk=utt2spk, plain=plain)
    tell(paired, style)
    found = paired.score(style=style, alignment=alignment, confidences=_confidences(paired, style))
    recalls = recall(found, hotwords=hotwords, vocabulary=vocabulary)
    if report is not None:
        write_report(found, report, title=hypothesis.name, audio=paired.audio, recalls=recalls)
        say(f"report  {report}")
    return found, recalls


def show_score(
    found: Score, recalls: Sequence[Recall] = (), *, as_json: bool = False, worst: int = 3
) -> None:
    """Print a score, as tables or as one JSON object.

    Args:
        found, recalls: from `score_files`.
        as_json: print one JSON object instead.
        worst: utterances to show with their alignment; 0 leaves out the details.
    """
    if as_json:
        output.print_json(data=to_json(found, recalls))
    else:
        tables.print_score(found, output, worst=worst, recalls=recalls)


def recall(found: Score, *, hotwords: Sequence[str] = (), vocabulary: Path | None = None) -> list[Recall]:
    """Recall of hotwords, and of words not in the vocabulary text, under the score's normalisation."""
    split = word_splitter(found.style)
    recalls = breakdown.hotwords(found, [" ".join(split(phrase)) for phrase in hotwords])
    if vocabulary is not None:
        try:
            known = frozenset(split(vocabulary.read_text(encoding="utf-8-sig")))
        except (OSError, UnicodeDecodeError) as error:
            raise ScoringError(
                f"{vocabulary}: {error}; expected a text or a list of words, in UTF-8"
            ) from error
        recalls.append(breakdown.out_of_vocabulary(found, known))
    return recalls


def to_json(found: Score, recalls: Sequence[Recall] = ()) -> dict[str, Any]:
    """The score, its calibration (None without confidences), the scores of its groups, and the recalls."""
    groups = {
        "speakers": breakdown.by_speaker(found),
        "lengths": breakdown.by_length(found),
        "durations": breakdown.by_duration(found),
    }
    keys = ("wer", "substitutions", "deletions", "insertions", "words", "sentences")
    return {
        **found.to_json(),
        **dict(zip(("ece", "nce"), calibration_of(found), strict=True)),
        **{
            kind: {group.name: {key: getattr(group.score, key) for key in keys} for group in members}
            for kind, members in groups.items()
        },
        "recall": {
            r.name: {"spoken": r.spoken, "recognised": r.recognised, "false_alarms": r.false_alarms}
            for r in recalls
        },
    }


def _confidences(paired: pairing.Paired, style: Style) -> list[tuple[float, ...] | None]:
    """Confidences of each hypothesis, None where normalisation changes the number of words."""
    split = word_splitter(style)
    kept = [
        confidences if confidences is None or len(split(text)) == len(confidences) else None
        for text, confidences in zip(paired.hypotheses[0], paired.confidences[0], strict=True)
    ]
    if lost := sum(a is not b for a, b in zip(kept, paired.confidences[0], strict=True)):
        lacking = f"without confidences: {counted(lost, 'utterance')}"
        warn(f"{lacking}, whose words normalisation {style!r} joins or splits")
    return kept


def tell(paired: pairing.Paired, style: Style) -> None:
    """Print how the files were read, what was left out, and whether the texts differ in case throughout."""
    how = "line by line" if paired.ids is None else "by id"
    say(f"read as {', '.join(paired.formats)}; {counted(len(paired.references), 'utterance')} paired {how}")
    for note in paired.notes:
        warn(note)
    said, *heard = (
        {word for text in texts for word in text.split()} for texts in (paired.references, *paired.hypotheses)
    )
    if style == "none" and any(not said & words and said & {w.swapcase() for w in words} for words in heard):
        warn("no word of the references is in the hypotheses unless case is ignored: try --style basic")
