"""`asr evaluate`: a manifest and a bundle → scores with their errors."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from asr.corpus.folder import read_all
from asr.corpus.manifest import Utterance, check_ids
from asr.errors import AudioError, ScoringError
from asr.files import whole_file
from asr.jobs.console import counting, output, say, warn
from asr.jobs.score import to_json as groups_to_json
from asr.recognizer import Recognizer
from asr.scoring import Score, score_spoken
from asr.scoring.report import write_report as write_page
from asr.scoring.tables import print_score
from asr.text import normalise
from asr.transcript import Transcript


@dataclass(frozen=True)
class Evaluation:
    """Scores of a manifest, its transcripts, and the utterances that could not be read."""

    score: Score
    utterances: list[Utterance]
    transcripts: list[Transcript]
    failed: dict[str, str]
    """Utterance id → why its audio could not be read; these are not in the score."""
    seconds: float
    """Wall time for reading, recognising and decoding."""

    @property
    def audio_s(self) -> float:
        """Seconds of audio that were recognised."""
        return sum(t.duration_s for t in self.transcripts)


def evaluate(model: Recognizer, manifest: Path | list[Utterance], **settings: Any) -> Evaluation:
    """Transcribe and score every utterance; unreadable ones are listed, not scored.

    Args:
        model: a loaded recogniser.
        manifest: a manifest, table or folder of recordings with their texts; or utterances.
        settings: `decoder` and the settings of `Recognizer.decode`.

    Raises:
        ScoringError: no utterance could be read.
        CorpusError: there are no utterances.
    """
    utterances = read_all(manifest) if isinstance(manifest, Path) else manifest
    check_ids(utterances, place=manifest if isinstance(manifest, Path) else "the utterances")
    failed: dict[str, str] = {}
    began = time.monotonic()
    order = sorted(range(len(utterances)), key=lambda i: utterances[i].duration_s or 0.0)
    done: dict[int, Transcript] = {}
    with counting("recognising", "utterances") as progress:
        readable: list[int] = []

        def samples() -> Iterator[np.ndarray]:
            for i in order:
                try:
                    loaded = utterances[i].read(model.rate_hz)
                except AudioError as error:
                    failed[utterances[i].id] = str(error)
                    continue
                readable.append(i)
                yield loaded

        for n, transcript in enumerate(model.transcribe_many(samples(), **settings)):
            done[readable[n]] = transcript
            progress(len(done), len(utterances) - len(failed))
    for name, why in failed.items():
        warn(f"{name} is not in the score: {why}")
    kept = sorted(done)
    if not kept:
        raise ScoringError(
            f"none of the {len(utterances)} utterances could be read: "
            f"{next(iter(failed.values()), 'the manifest is empty')}"
        )
    chosen, transcripts = [utterances[i] for i in kept], [done[i] for i in kept]
    score = score_spoken(
        [normalise(u.text, model.style) for u in chosen],
        [" ".join(w.text for w in t.words) for t in transcripts],
        alphabet=model.alphabet,
        ids=[u.id for u in chosen],
        speakers=[u.speaker for u in chosen] if all(u.speaker for u in chosen) else None,
        durations_s=[t.duration_s for t in transcripts],
        confidences=[[w.confidence for w in t.words] for t in transcripts],
        processing_s=(seconds := time.monotonic() - began),
    )
    score = replace(score, style=model.style)  # in which both sides are already
    return Evaluation(score, chosen, transcripts, failed, seconds)


def show(evaluation: Evaluation, *, as_json: bool = False, report: Path | None = None) -> None:
    """Print the scores, as a table or as one JSON object; `report` is for a page with every error."""
    if as_json:
        output.print_json(data=groups_to_json(evaluation.score) | to_json(evaluation))
    else:
        print_score(evaluation.score, output)
        speed = evaluation.audio_s / evaluation.seconds
        times = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"  # 0.55 is not real time
        say(f"{evaluation.audio_s:,.0f} s of audio in {evaluation.seconds:.1f} s ({times} × real time)")
    if report is not None:
        write_report(evaluation, report, title=report.stem)
        say(f"report  {report}")


def write_report(evaluation: Evaluation, page: Path, **shown: Any) -> None:
    """Write the page with every error, which plays the recordings; `shown`: as for `asr.scoring.report`."""
    write_page(
        evaluation.score,
        page,
        audio={u.id: u.audio_filepath for u in evaluation.utterances},
        starts_s={u.id: u.start_s for u in evaluation.utterances},
        **shown,
    )


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """The scores and the number of utterances that could not be read."""
    return {**evaluation.score.to_json(), "failed": len(evaluation.failed)}


def write_hypotheses(evaluation: Evaluation, path: Path) -> None:
    """Write a JSON line per utterance: id, reference, hypothesis, duration, words, times, confidences."""
    with whole_file(path) as file:
        for u, t in zip(evaluation.utterances, evaluation.transcripts, strict=True):
            words = [[w.text, w.start_s, w.end_s, w.confidence] for w in t.words]
            line = {
                "id": u.id,
                "audio_filepath": str(u.audio_filepath),
                "duration": t.duration_s,
                **({} if u.start_s is None else {"offset": u.start_s}),
                **({"speaker": u.speaker} if u.speaker else {}),
                "text": u.text,
                "pred_text": t.text,
                "words": words,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
