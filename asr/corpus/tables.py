"""CSV and TSV files with a header → utterances.

Columns are found by common names (`COLUMNS`), in any case and order, with blanks for underscores.
With an `offset` (0 if the field is empty) and a `duration` or an `end` (s), a row is a part of a longer
recording; where all of these are empty, it is the whole.
White space around a field is not part of it. A path is relative to the table's folder, or to `clips` in it.
TSV is taken literally, without quoting; in CSV a field may be quoted, and the separator is the one of , ; |
and tab that is most frequent in the header, or the one that a first line `sep=;` names, as Excel's does.
Where it is `;`, numbers may have a decimal comma.
"""

import csv
import io
import math
import os
import re
from pathlib import Path

from asr.corpus.manifest import Utterance, find_file, flawed_line, name_by_path, refuse_if_all_flawed
from asr.errors import ManifestError

COLUMNS = {
    "audio": (
        *("audio_filepath", "path", "file", "filename", "file_name", "wav", "wav_filename"),
        *("audio_file", "audio"),
    ),
    "text": ("text", "transcript", "transcription", "sentence"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "id": ("id", "utterance_id"),
    "offset": ("offset", "start", "start_time"),
    "duration": ("duration",),
    "end": ("end", "end_time"),
}
"""Names of what a table may hold. Audio and text are needed, and a duration or an end beside offsets."""
_EXCEL = re.compile(r'"?sep=([^\s"]|\t)"?\r?\n', re.IGNORECASE)


def read_table(path: Path) -> list[Utterance]:
    """The utterances of a CSV or TSV file, in its order, with absolute paths; only parts have durations.

    Raises:
        ManifestError: no such file, missing columns, broken quotes, or no row has as many fields as the
            header; a single such row becomes an utterance with a flaw.
    """
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; expected a table of recordings") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not text in UTF-8: {error}") from error
    tsv = path.suffix.lower() == ".tsv"
    separator = "\t" if tsv else max(",;|\t", key=content.partition("\n")[0].count)
    if named := _EXCEL.match(content):
        separator = named[1]
    rows = csv.reader(
        io.StringIO(content, newline=""),
        delimiter=separator,
        quoting=csv.QUOTE_NONE if tsv else csv.QUOTE_MINIMAL,
        strict=not tsv,
        skipinitialspace=not tsv,
    )
    utterances = []
    try:
        if named:
            next(rows)
        columns = [re.sub(r"[ -]", "_", name.strip().lower()) for name in next(rows, [])]
        at = _find(path, columns)
        for fields in rows:
            row = [field.strip() for field in fields]
            if not any(row):
                continue
            try:
                if len(row) != len(columns):
                    raise ValueError(f"{len(row)} fields, expected {len(columns)} ({', '.join(columns)})")
                fields_of = {what: row[k] for what, k in at.items()}
                utterances.append(_utterance(fields_of, path.parent, comma=separator == ";"))
            except ValueError as error:
                why = f"{path}, line {rows.line_num}: {error}: {separator.join(row)[:160]}"
                utterances.append(flawed_line(path, rows.line_num, ManifestError(why)))
    except csv.Error as error:
        raise ManifestError(f"{path}, line {rows.line_num}: {error}") from error
    refuse_if_all_flawed(utterances)
    return name_by_path(utterances)


def _utterance(row: dict[str, str], folder: Path, *, comma: bool) -> Utterance:
    """Raises ValueError if no recording is named, or its part is not given by possible numbers of seconds."""
    if not row["audio"]:
        raise ValueError("no recording is named")
    start_s, duration_s = _part(row, comma=comma) if "offset" in row else (None, 0.0)
    return Utterance(
        id=row.get("id", ""),
        audio_filepath=_located(folder, row["audio"]),
        duration_s=duration_s,
        text=row["text"],
        speaker=row.get("speaker") or None,
        start_s=start_s,
    )


def _part(row: dict[str, str], *, comma: bool) -> tuple[float | None, float]:
    """Where the row's part of its recording starts, and how long it is; (None, 0) for all of it.

    Raises:
        ValueError: fields that are no numbers of seconds, or impossible ones.
    """
    given = {what: row[what] for what in ("offset", "duration", "end") if row.get(what)}
    if not given:
        return None, 0.0
    seconds = {what: float(text.replace(",", ".") if comma else text) for what, text in given.items()}
    start_s = seconds.get("offset", 0.0)
    if seconds.keys() == {"offset"}:
        raise ValueError(f"offset {start_s} without a duration or an end")
    duration_s = seconds["duration"] if "duration" in seconds else seconds["end"] - start_s
    if not (0 <= start_s < math.inf and 0 < duration_s < math.inf):
        raise ValueError(f"offset {start_s} and duration {duration_s} are impossible")
    return start_s, duration_s


def _find(path: Path, columns: list[str]) -> dict[str, int]:
    """Which column holds what."""
    at = {}
    for what, names in COLUMNS.items():
        if found := [columns.index(name) for name in names if name in columns]:
            at[what] = found[0]
        elif what in ("audio", "text") or (what == "end" and "offset" in at and "duration" not in at):
            names = (*COLUMNS["duration"], *names) if what == "end" else names
            raise ManifestError(
                f"{path}, line 1: the columns are {', '.join(columns) or 'none'}; "
                f"one of {', '.join(names)} was expected"
            )
    return at


def _located(folder: Path, name: str) -> Path:
    home = os.path.expanduser(name)  # noqa: PTH111 (a Path's knows no `~name.wav`)
    direct = find_file(os.path.abspath(folder / home))  # noqa: PTH100 (keeps symbolic links)
    clip = find_file(str(folder.absolute() / "clips" / name))
    is_there = os.path.exists  # unlike a Path's, it takes names that are too long
    return clip if not is_there(direct) and is_there(clip) else direct
