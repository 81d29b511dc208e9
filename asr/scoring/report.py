"""One self-contained page with everything about a score: it opens from disk, without any network.

The numbers and pictures are plain HTML and SVG; the list of utterances is data that a script in the page
sorts, filters and searches. Recordings are linked relative to the page and stay where they are.
"""

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from asr.errors import ScoringError
from asr.files import whole_file
from asr.scoring import breakdown, charts
from asr.scoring.alignment import AlignedUtterance
from asr.scoring.breakdown import Recall
from asr.scoring.calibration import calibration_of, judged_words, reliability
from asr.scoring.intervals import CONFIDENCE, RESAMPLES
from asr.scoring.word_errors import Score

_ALIGNMENTS = {
    "minimal": "Words are set against each other with as few edits as possible.",
    "sclite": "Words are set against each other as NIST's sclite does it.",
}
_MOST_WORDS = 100
"""Rows of the lists of confusions, deleted and inserted words."""


def write_report(
    score: Score,
    path: Path,
    *,
    title: str | None = None,
    audio: Mapping[str, Path] | None = None,
    starts_s: Mapping[str, float | None] | None = None,
    history: Sequence[dict[str, Any]] = (),
    recalls: Sequence[Recall] = (),
) -> None:
    """Write the page; the file appears when it is complete.

    Args:
        score: what the page shows.
        path: of the page, HTML.
        title: of the page.
        audio: recordings by utterance id; those that exist can be played.
        starts_s: by id, where in its recording the utterance starts; None for those that are all of it.
        history: the JSON lines of a training run, for its curves.
        recalls: of out-of-vocabulary words and of hotwords.

    Raises:
        ScoringError: the page cannot be written.
    """
    page = files("asr.scoring") / "page"
    parts = {name: (page / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    text = Template(parts["html"]).substitute(
        title=escape(title or "Word errors"),
        facts=_facts(score),
        headline=_headline(score),
        cards=_cards(score, recalls, history),
        alignment=_ALIGNMENTS[score.alignment],
        interval_note=f"Intervals are {CONFIDENCE:.0%} bootstrap intervals from {RESAMPLES:,} resamples of "
        f"{'speakers' if score.blocks else 'utterances'}.",
        signature=escape(score.signature),
        css=parts["css"],
        js=parts["js"],
        data=_data(score, audio or {}, starts_s or {}, Path(path).parent),
    )
    with whole_file(Path(path), error=ScoringError) as file:
        file.write(text)


def _facts(score: Score) -> str:
    said = [f"{score.sentences:,} utterances", f"{score.words:,} words"]
    if score.duration_s:
        said.append(_duration(score.duration_s))
    if speakers := len({u.speaker for u in score.utterances if u.speaker is not None}):
        said.append(f"{speakers:,} speakers")
    return "".join(f"<span>{escape(fact)}</span>" for fact in said)


def _headline(score: Score) -> str:
    s = score
    kinds = [
        ("ok", "recognised", s.correct),
        ("sub", "substituted", s.substitutions),
        ("del", "deleted", s.deletions),
        ("ins", "inserted", s.insertions),
    ]
    stack = "".join(f'<i class="{kind}" style="flex:{n} 0 0"></i>' for kind, _, n in kinds if n)
    legend = "".join(
        f'<span><i class="{kind}"></i><b>{n:,}</b> {name} ({n / max(s.words, 1):.1%})</span>'
        for kind, name, n in kinds
    )
    numbers = [(f"{s.cer:.2%}", "character errors"), (f"{s.ser:.1%}", "sentences with errors")]
    numbers.append((f"{s.errors:,}", "word errors"))
    error, _ = calibration_of(s)
    if error is not None:
        numbers.append((f"{error:.1%}", "calibration error"))
    if s.real_time_factor:
        numbers.append((f"{s.real_time_factor:.3g}", "real-time factor"))
    shown = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in numbers)
    return (
        f'<div><div class="wer-name">Word error rate</div><div class="wer">{100 * s.wer:.2f}'
        f'<small>%</small></div>{_interval(s)}</div><div><div class="stack">{stack}</div>'
        f'<div class="legend">{legend}</div><div class="numbers">{shown}</div></div>'
    )


def _interval(score: Score) -> str:
    if score.wer_interval is None:
        return ""
    low, high = score.wer_interval
    end = max(1.25 * high, 1.25 * score.wer, 0.01)
    within = f"left:{100 * low / end:.2f}%;width:{100 * (high - low) / end:.2f}%"
    return (
        f'<div class="wer-interval">{low:.2%} to {high:.2%} ({CONFIDENCE:.0%} interval)</div>'
        f'<div class="range"><b style="{within}"></b><i style="left:{100 * score.wer / end:.2f}%"></i></div>'
        f'<div class="ends"><span>0</span><span>{end:.1%}</span></div>'
    )


def _cards(score: Score, recalls: Sequence[Recall], history: Sequence[dict[str, Any]]) -> str:
    cards = []
    if len(speakers := breakdown.by_speaker(score)) > 1:
        note = "Worst first; the line is the interval over the speaker's utterances."
        cards.append(_card("Speakers", note, charts.bars(speakers, find="speaker:")))
    lengths, durations = breakdown.by_length(score), breakdown.by_duration(score)
    if len(lengths) > 1 or len(durations) > 1:
        note = f"By words of the reference{' and by seconds' if durations else ''}."
        shown = "".join(charts.bars(groups) for groups in (lengths, durations) if groups)
        cards.append(_card("Length", note, f'<div class="groups">{shown}</div>'))
    error, told = calibration_of(score)
    if error is not None:
        bins = reliability(*judged_words(score))
        note = (
            f"Share of right words against the confidence they were given; on the dashed line they agree. "
            f"Expected calibration error {error:.1%} over {sum(b.words for b in bins):,} words"
        )
        note += (
            "." if told is None else f"; normalised cross-entropy {told:.2f} (1: they know which are right)."
        )
        cards.append(_card("Calibration", note, charts.calibration(bins)))
    if recalls:
        cards.append(_card("Recall", "Of the words that were asked for.", _recalls(recalls)))
    if curves := charts.training(history):
        cards.append(_card("Training", "", f'<div class="curves">{curves}</div>', wide=True))
    if score.errors:
        note = "Click one to see where it happened."
        cards.append(_card("Commonest errors", note, _errors(score), wide=True))
    return "\n".join(cards)


def _card(title: str, note: str, body: str, *, wide: bool = False) -> str:
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section class="card{" wide" if wide else ""}"><h2>{escape(title)}</h2>{said}{body}</section>'


def _errors(score: Score) -> str:
    errors = breakdown.word_errors(score)
    confusions = [(f"{said}→{heard}", f"{said} → {heard}", n) for (said, heard), n in errors.confusions]
    columns = (
        ("Taken for another", confusions),
        ("Missed", [(f"−{word}", word, n) for word, n in errors.deleted]),
        ("Made up", [(f"+{word}", word, n) for word, n in errors.inserted]),
    )
    out = []
    for title, words in columns:
        rows = "".join(
            f'<li><button type="button" data-find="{escape(find)}">{escape(shown)}</button>'
            f"<span>{count:,}</span></li>"
            for find, shown, count in words[:_MOST_WORDS]
        )
        head = f"{title} ({sum(count for _, _, count in words):,})"
        out.append(f'<div><h3>{head}</h3><ul class="words">{rows or "<li>none</li>"}</ul></div>')
    return f'<div class="trio">{"".join(out)}</div>'


def _recalls(recalls: Sequence[Recall]) -> str:
    rows = "".join(
        f"<li>{escape(r.name)}<span>{'–' if r.recall is None else f'{r.recall:.0%}'} "
        f"({r.recognised:,} of {r.spoken:,}; {r.false_alarms:,} false)</span></li>"
        for r in recalls
    )
    return f'<ul class="words">{rows}</ul>'


def _data(score: Score, audio: Mapping[str, Path], starts_s: Mapping[str, float | None], folder: Path) -> str:
    utterances = [_utterance(u, audio.get(u.id), starts_s.get(u.id), folder) for u in score.utterances]
    text = json.dumps({"utterances": utterances}, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")  # "</script>" in a transcript must not end the data


def _utterance(
    u: AlignedUtterance, audio: Path | None, start_s: float | None, folder: Path
) -> dict[str, Any]:
    part = "" if start_s is None else f"#t={start_s:.2f},{start_s + (u.duration_s or 0):.2f}"
    return {
        "id": u.id,
        "speaker": u.speaker,
        "s": None if u.duration_s is None else round(u.duration_s, 2),
        "n": len(u.reference),
        "S": u.substitutions,
        "D": u.deletions,
        "I": u.insertions,
        "t": [said if said == heard else (said, heard) for said, heard in u.pairs()],
        "c": None if u.confidences is None else [round(c, 3) for c in u.confidences],
        "a": None if audio is None or not audio.is_file() else _link(audio, folder) + part,
    }


def _link(audio: Path, folder: Path) -> str:
    try:
        return quote(Path(os.path.relpath(audio, folder)).as_posix())
    except ValueError:  # another drive
        return audio.resolve().as_uri()


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s of audio"
    return f"{seconds / 60:.0f} min of audio" if seconds < 7200 else f"{seconds / 3600:.1f} h of audio"
