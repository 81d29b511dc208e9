"""CSV and TSV files with a header → utterances.

Columns are found by common names (`AUDIO`, `TEXT`, …), in any case and order, with blanks for underscores.
White space around a field is not part of it. A path is relative to the table's folder, or to `clips` in it.
TSV is taken literally, without quoting; in CSV a field may be quoted, and the separator is the one of , ; |
and tab that is most frequent in the header.
"""

import csv
import io
import os
import re
from pathlib import Path

from asr.corpus.manifest import Utterance, find_file, flawed_line, name_by_path, refuse_if_all_flawed
from asr.errors import ManifestError

AUDIO = ("audio_filepath", "path", "file", "filename", "file_name", "wav", "wav_filename", "audio")
TEXT = ("text", "transcript", "transcription", "sentence")
SPEAKER = ("speaker", "speaker_id", "client_id")
ID = ("id", "utterance_id")


def read_table(path: Path) -> list[Utterance]:
    """The utterances of a CSV or TSV file, in its order, with absolute paths and unknown durations.

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
    dialect = (
        {"quoting": csv.QUOTE_NONE}
        if tsv
        else {"quoting": csv.QUOTE_MINIMAL, "strict": True, "skipinitialspace": True}
    )
    rows = csv.reader(io.StringIO(content, newline=""), delimiter=separator, **dialect)  # type: ignore[arg-type]
    utterances = []
    try:
        columns = [re.sub(r"[ -]", "_", name.strip().lower()) for name in next(rows, [])]
        audio, text = _column(path, columns, AUDIO), _column(path, columns, TEXT)
        speaker, name = _find(columns, SPEAKER), _find(columns, ID)
        for fields in rows:
            row = [field.strip() for field in fields]
            if not any(row):
                continue
            if len(row) != len(columns):
                why = (
                    f"{path}, line {rows.line_num}: {len(row)} fields, expected {len(columns)} "
                    f"({', '.join(columns)}): {separator.join(row)[:160]}"
                )
                utterances.append(flawed_line(path, rows.line_num, ManifestError(why)))
                continue
            utterances.append(
                Utterance(
                    id=row[name] if name is not None else "",
                    audio_filepath=_located(path.parent, row[audio]),
                    duration_s=0.0,
                    text=row[text],
                    speaker=(row[speaker] or None) if speaker is not None else None,
                )
            )
    except csv.Error as error:
        raise ManifestError(f"{path}, line {rows.line_num}: {error}") from error
    refuse_if_all_flawed(utterances)
    return name_by_path(utterances)


def _column(path: Path, columns: list[str], names: tuple[str, ...]) -> int:
    found = _find(columns, names)
    if found is None:
        raise ManifestError(
            f"{path}, line 1: the columns are {', '.join(columns) or 'none'}; "
            f"one of {', '.join(names)} was expected"
        )
    return found


def _find(columns: list[str], names: tuple[str, ...]) -> int | None:
    return next((columns.index(name) for name in names if name in columns), None)


def _located(folder: Path, name: str) -> Path:
    home = os.path.expanduser(name)  # noqa: PTH111 (a Path's knows no `~name.wav`)
    direct = find_file(os.path.abspath(folder / home))  # noqa: PTH100 (keeps symbolic links)
    clip = find_file(str(folder.absolute() / "clips" / name))
    is_there = os.path.exists  # unlike a Path's, it takes names that are too long
    return clip if not is_there(direct) and is_there(clip) else direct
