"""What commands share: options, checks of these, and the model that they name. Nothing heavy is imported."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

FORMATS = ("txt", "vtt", "srt", "tsv", "json", "jsonl", "ctm")
"""Of transcripts; those of `asr.jobs.formats`, which is slow to import."""


def one_of(*names: str) -> Callable[[str | None], str | None]:
    """A check that an option, if it is given, has one of these values, before anything heavy is imported."""

    def check(given: str | None) -> str | None:
        if given is not None and given not in names:
            raise typer.BadParameter(f"{given!r}: expected {', '.join(names)}")
        return given

    return check


def choice(*names: str, help: str) -> Any:  # noqa: A002 (as typer calls it)
    """An option whose value is one of the names."""
    return typer.Option(help=help, callback=one_of(*names))


def are_formats(given: str) -> str:
    """The names of formats with commas between them, if there are such formats."""
    for name in given.split(","):
        one_of(*FORMATS, "all")(name.strip())
    return given


Model = Annotated[str, typer.Option("--model", "-m", help="A bundle, its folder or file; or english.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Lm = Annotated[
    str | None, typer.Option(help="ARPA model in place of the bundle's n-grams and LSTM, the default.")
]
Style = Annotated[str, choice("none", "basic", "upper", help="Normalisation: none, basic or upper.")]
Decoder = Annotated[
    str | None,
    choice("greedy", "beam", "pyctcdecode", help="greedy, beam or pyctcdecode; by default the bundle's."),
]
BeamWidth = Annotated[
    int | None,
    typer.Option(
        "--beam_width", "--beam-width", min=1, help="Prefixes kept in each frame; by default the bundle's."
    ),
]
Rescore = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Hypotheses that the bundle's LSTM judges anew, by default as many as it says; 0: none, faster.",
    ),
]
ScoringStyle = Annotated[
    str,
    choice("none", "basic", "upper", "english", help="Normalisation: none, basic, upper or english."),
]
Precision = Annotated[
    str,
    choice(
        *("float32", "bf16", "int8"),
        help="float32; bf16 or int8 are faster on many processors and may cost words.",
    ),
]
Recalled = Annotated[list[str] | None, typer.Option("--hotwords", help="A phrase whose recall is shown.")]
Plain = Annotated[bool, typer.Option("--plain", help="Lines have no ids, whatever they begin or end with.")]
OutputFormat = Annotated[
    str,
    typer.Option(
        *("--output_format", "--output-format", "-f"),
        help=f"{', '.join(FORMATS)} or all; several with commas.",
        callback=are_formats,
    ),
]
SampleRate = Annotated[
    int | None,
    typer.Option(
        *("--sample_rate", "--sample-rate"),
        min=1000,
        help="Hz of raw PCM given to --stream; by default the model's.",
    ),
]
Vad = Annotated[
    str,
    choice(
        *("energy", "silero"),
        help="What finds pauses in long audio: energy, or silero, which also finds noise.",
    ),
]
Hotwords = Annotated[list[str] | None, typer.Option("--hotwords", help="A phrase to prefer; repeatable.")]


def is_drawable(path: Path | None) -> Path | None:
    """The path, if a picture of its kind can be drawn: what follows takes minutes."""
    if path is not None and path.suffix.lower() not in (kinds := (".png", ".svg", ".pdf", ".jpg", ".jpeg")):
        raise typer.BadParameter(f"{path}: expected a name that ends in {', '.join(kinds)}")
    return path


def load_model(model: str, device: str, lm: str | None, precision: str = "float32") -> Any:
    """The recogniser in a bundle, with another language model if one is given."""
    from asr.recognizer import load

    recognizer = load(model, device=device, precision=precision)  # type: ignore[arg-type]
    if lm is not None:
        from asr.lm import load as load_lm

        recognizer.lm, recognizer.rescorer = load_lm(lm), None
        if recognizer.decoder.name == "greedy":
            recognizer.decoder.name = "beam"
        recognizer.alphabet = recognizer.alphabet.with_words(recognizer.lm.known_words)
    return recognizer
