"""`asr align`: recordings and their texts → word times as CTM, JSON or TextGrid, or a recording per word."""

import errno
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from asr import audio
from asr.captions import SUFFIXES, is_captions, read_captions
from asr.corpus.folder import MANIFESTS, read_all
from asr.corpus.manifest import Utterance
from asr.ctc import align, as_said, group_words
from asr.errors import AlphabetError, AudioError, ConfigError, CtcError, TextError
from asr.files import whole_file
from asr.jobs import formats
from asr.jobs.console import counting, warn
from asr.jobs.cutting import Aligned, Cutting, cut
from asr.recognizer import Recognizer
from asr.text import normalise
from asr.transcript import Clock, Transcript, Word

DOUBTFUL_FIT = 0.05
"""Fits below this are told: mostly something else is said. None of 190 LibriSpeech sentences and strings of
digits that are said has a lower one, by a model of such speech, and most others have."""
_SUFFIXES = "|".join(map(re.escape, (*SUFFIXES, ".text", ".lab", ".trn")))
_NAME = re.compile(rf".*\S({_SUFFIXES})|(~|\.{{0,2}}/)\S*", re.IGNORECASE)
"""What nobody says, but is a name of a file."""
_STDOUT = Path("-")


def align_words(model: Recognizer, samples: np.ndarray, text: str) -> tuple[list[Word], list[float]]:
    """The words of the text with their times and confidence, and how well each fits: see `Aligned`.

    Args:
        samples: mono float32 (n,) at the model's rate.

    Raises:
        AlphabetError: characters the model was not trained on.
        CtcError: the text is too long for the recording.
    """
    log_probs_BTV, _ = model.log_probs([samples])
    text = normalise(text, model.style)
    alphabet = model.alphabet.with_words(text.split())
    log_probs_TV = log_probs_BTV[0].float().cpu()
    tokens = align(log_probs_TV, as_said(log_probs_TV, text, alphabet))
    most = [float(log_probs_TV[t.start_frame : t.end_frame, t.token].max()) for t in tokens]
    likely = [replace(token, confidence=log_prob) for token, log_prob in zip(tokens, most, strict=True)]
    spans, fits = group_words(tokens, alphabet), [s.confidence for s in group_words(likely, alphabet)]
    if alphabet.lexicon is not None:  # phones do not tell how a word is written
        spans = [replace(span, text=word) for span, word in zip(spans, text.split(), strict=True)]
    clock = Clock(model.frame_s, len(samples) / model.rate_hz, model.edges)
    times = [(clock.at(s.start_frame), clock.at(s.end_frame)) for s in spans]
    return [Word(s.text, *at, round(s.confidence, 4)) for s, at in zip(spans, times, strict=True)], fits


def of_recording(
    model: Recognizer, recording: str, text: str, *, form: str, output: Path | None, cutting: Cutting | None
) -> None:
    """Align one recording; write its words to a file or print them, or cut it, or both.

    Raises:
        AudioError, AlphabetError, CtcError: as for `audio.read` and `align_words`.
        ConfigError: an empty text, or standard input that is to be cut.
        CorpusError: a file cannot be written.
    """
    if cutting is not None and recording == "-":
        raise ConfigError("standard input cannot be cut, as it is read but once: save it and name the file")
    if not normalise(text, model.style).strip():
        raise ConfigError(f"the text of {recording} is empty: expected the words that are said in it")
    samples = audio.read(recording, model.rate_hz)
    words, fits = align_words(model, samples, text)
    name, duration_s = Path(recording).stem, len(samples) / model.rate_hz
    one = Aligned(name, Utterance(name, Path(recording), duration_s, text), words, fits, duration_s)
    _doubt([one])
    if cutting is not None:
        cut([one._replace(name=_names([name])[0])], cutting, joint=model.alphabet.joint)
    rendered = FORMATS[form](one)
    if output is not None:
        _write(output, rendered)
    elif cutting is None:
        print(rendered, end="")


def of_manifest(
    model: Recognizer, manifest: Path, *, form: str, output: Path | None, cutting: Cutting | None
) -> dict[str, str]:
    """Align all utterances; write or print their words, or cut them, or both.

    Of a part of a longer recording, times count from where the part starts.

    Returns:
        By id, why utterances could not be aligned; a warning is printed for each.

    Raises:
        CorpusError: no readable manifest, table or folder of recordings and their texts; or a file cannot be
            written.
        ConfigError: a format with a file per utterance but no folder, or two ids that give the same file
            name.
    """
    if manifest.suffix.lower() not in MANIFESTS and not manifest.is_dir():
        raise ConfigError(
            f"{manifest} without a text: expected a manifest ({', '.join(MANIFESTS)}), a folder, or a text"
        )
    is_printed = output == _STDOUT or (output is None and cutting is None)
    if form != "ctm" and is_printed:
        raise ConfigError(f"many recordings as {form} are many files: name a folder with --output")
    aligned, failed = align_all(model, read_all(manifest))
    if cutting is not None:
        cut(aligned, cutting, joint=model.alphabet.joint)
    if output is not None:
        write(aligned, output, form=form)
    elif cutting is None:
        print(_ctm(aligned), end="")
    return failed


def align_all(model: Recognizer, utterances: Sequence[Utterance]) -> tuple[list[Aligned], dict[str, str]]:
    """The aligned utterances, and by id why the others cannot be aligned.

    Raises:
        ConfigError: two ids that give the same file name.
    """
    done: list[Aligned] = []
    failed: dict[str, str] = {}
    names = _names([u.id for u in utterances])
    with counting("aligning", "utterances") as progress:
        for name, utterance in zip(names, utterances, strict=True):
            try:
                samples = utterance.read(model.rate_hz)
                words, fits = align_words(model, samples, utterance.text)
                done.append(Aligned(name, utterance, words, fits, len(samples) / model.rate_hz))
            except (AudioError, AlphabetError, CtcError) as error:
                failed[utterance.id] = str(error)
            progress(len(done) + len(failed), len(utterances))
    for id_, why in failed.items():
        warn(f"{id_} is not aligned: {why}")
    _doubt(done)
    return done, failed


def _doubt(aligned: Sequence[Aligned]) -> None:
    """Warn of texts that probably are not what is said: an alignment forces any text onto any sound."""
    if doubtful := [a for a in aligned if a.fit() < DOUBTFUL_FIT]:
        shown = ", ".join(f"{a.utterance.id} ({a.fit():.3f})" for a in doubtful[:5])
        more = f" and {len(doubtful) - 5} more" if len(doubtful) > 5 else ""
        warn(f"the text may not be what is said, as the sound hardly fits it (0 to 1): {shown}{more}")


def write(aligned: Sequence[Aligned], output: Path, *, form: str) -> None:
    """Write one CTM for all utterances, or a folder with a file for each.

    Raises:
        CorpusError: a file cannot be written.
    """
    if form == "ctm":
        _write(output, _ctm(aligned))
        return
    suffix = "TextGrid" if form == "textgrid" else form
    for a in aligned:
        _write(output / f"{a.name}.{suffix}", FORMATS[form](a))


def _write(path: Path, text: str) -> None:
    if path == _STDOUT:
        print(text, end="")
        return
    with whole_file(path) as file:
        file.write(text)


def _ctm(aligned: Sequence[Aligned]) -> str:
    return "".join(map(to_ctm, aligned))


def _names(ids: Sequence[str]) -> list[str]:
    """The ids as file names.

    Raises:
        ConfigError: two ids give the same name.
    """
    names = [re.sub(r"[^\w.-]", "_", name) for name in ids]
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise ConfigError(
            f"two utterances would be written as {twice!r}: give them ids that differ in letters"
        )
    return names


def read_text(text_or_file: str) -> str:
    """The text itself, or the content of the file of that name, of subtitles without their times.

    Raises:
        ManifestError: subtitles that are damaged.
        ConfigError: what looks like the name of a file, but is none.
        TextError: a file that is not in UTF-8.
    """
    path = Path(text_or_file)
    try:
        if path.exists() and not path.is_dir():
            if is_captions(path):
                return " ".join(cue.text for cue in read_captions(path))
            return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not in UTF-8 ({error.reason}, byte {error.start}); convert it") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # it is a text
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if _NAME.fullmatch(text_or_file):
        raise ConfigError(f"{text_or_file}: no such file; expected a text, or a file with it")
    return text_or_file


def to_ctm(aligned: Aligned) -> str:
    """NIST's CTM: recording, channel, start, duration, word, confidence."""
    return formats.to_ctm(Transcript("", tuple(aligned.words)), name=aligned.name)


def to_json(aligned: Aligned) -> str:
    """One object with the recording, its duration, how well its text fits, and its words.

    A word has the keys of `asr transcribe -f json`; `confidence`, the older name, is its probability, which
    rates its times. `fit` rates whether it is said at all.
    """
    lines = [
        formats.word_dict(word) | {"confidence": word.confidence, "fit": aligned.fit(range(i, i + 1))}
        for i, word in enumerate(aligned.words)
    ]
    facts = {"audio": aligned.name, "duration": aligned.duration_s, "fit": aligned.fit(), "words": lines}
    return json.dumps(facts, ensure_ascii=False, indent=2) + "\n"


def to_textgrid(aligned: Aligned) -> str:
    """Praat's TextGrid with one tier of words; pauses are empty intervals."""
    words, duration_s = aligned.words, aligned.duration_s
    intervals: list[tuple[float, float, str]] = []
    at = 0.0
    for w in words:
        if w.start_s > at:
            intervals.append((at, w.start_s, ""))
        intervals.append((max(w.start_s, at), w.end_s, w.text))
        at = w.end_s
    if at < duration_s or not intervals:
        intervals.append((at, duration_s, ""))
    head = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {duration_s}",
        "tiers? <exists>",
        "size = 1",
        "item []:",
        "    item [1]:",
        '        class = "IntervalTier"',
        '        name = "words"',
        "        xmin = 0",
        f"        xmax = {duration_s}",
        f"        intervals: size = {len(intervals)}",
    ]
    for i, (start_s, end_s, text) in enumerate(intervals, 1):
        quoted = text.replace('"', '""')
        head += [
            f"        intervals [{i}]:",
            f"            xmin = {start_s}",
            f"            xmax = {end_s}",
            f'            text = "{quoted}"',
        ]
    return "\n".join([*head, ""])


FORMATS: dict[str, Callable[[Aligned], str]] = {"ctm": to_ctm, "json": to_json, "textgrid": to_textgrid}
