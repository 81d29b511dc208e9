"""The command groups `asr lm …` and `asr lab …`, what is done with a trained model, and what commands share.

Nothing heavy is imported.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from asr.errors import ConfigError

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


def tune(
    manifest: Annotated[Path, typer.Argument(help="The development set: a manifest, table or folder.")],
    model: Model,
    lm: Lm = None,
    rescorer: Annotated[
        Path | None, typer.Option(help="LSTM of `asr lm train --recurrent`, to rescore the beam's best.")
    ] = None,
    hotwords: Hotwords = None,
    device: Device = "cpu",
    picture: Annotated[
        Path | None, typer.Option("--output", "-o", help="Draw the surface.", callback=is_drawable)
    ] = None,
) -> None:
    """Tune the weights and the width of the beam on a manifest.

    The best are stored in the bundle, so that `asr transcribe` uses them.
    """
    from asr.jobs.tune import tune_bundle

    settings: dict[str, Any] = {"rescorer": rescorer, "hotwords": hotwords or (), "picture": picture}
    if tune_bundle(load_model(model, device, lm), manifest, bundle=model, **settings):
        raise typer.Exit(1)


def align(
    audio: Annotated[str, typer.Argument(help="A recording; or a manifest, table or folder of many.")],
    model: Model,
    text: Annotated[
        str | None, typer.Argument(help="What is said in the recording: the text, or a file with it.")
    ] = None,
    output_format: Annotated[
        str,
        typer.Option(
            "--output_format",
            "--output-format",
            "-f",
            help="ctm, json or textgrid.",
            callback=one_of("ctm", "json", "textgrid"),
        ),
    ] = "ctm",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write there, not to the terminal; many as JSON or TextGrid need a folder."
        ),
    ] = None,
    cut: Annotated[
        Path | None,
        typer.Option(
            help="Write each word as a recording of its own to this folder, with words.jsonl, a manifest."
        ),
    ] = None,
    longest_s: Annotated[
        float | None,
        typer.Option(
            "--longest_s",
            "--longest-s",
            min=1,
            help="Cut at the longest pauses instead, so that no recording lasts longer: utterances.jsonl.",
        ),
    ] = None,
    per_word: Annotated[
        int, typer.Option("--per_word", "--per-word", min=0, help="Cut at most so many of a word; 0: all.")
    ] = 0,
    device: Device = "cpu",
) -> None:
    """Find when each word of a known text is spoken."""
    from asr.jobs import align as jobs

    if cut is None and (longest_s is not None or per_word):
        raise typer.BadParameter("--longest_s and --per_word are for recordings: name a folder with --cut")
    if longest_s is not None and per_word:
        raise typer.BadParameter("--longest_s cuts utterances: leave out --per_word")
    cutting = None if cut is None else jobs.Cutting(cut, per_word, longest_s)
    read = None if text is None else jobs.read_text(text)
    recognizer = load_model(model, device, None)
    if read is None:
        failed = jobs.of_manifest(recognizer, Path(audio), form=output_format, output=output, cutting=cutting)
        raise typer.Exit(1 if failed else 0)
    jobs.of_recording(recognizer, audio, read, form=output_format, output=output, cutting=cutting)


def export(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file: .onnx, .safetensors (int8).")],
    form: Annotated[
        str | None, typer.Option("--format", "-f", help="onnx or int8.", callback=one_of("onnx", "int8"))
    ] = None,
) -> None:
    """Write features and encoder as one ONNX graph, or the bundle in 8 bits."""
    from asr.jobs.export import export as job

    job(load_model(model, "cpu", None), output, form=form, source=model)


def combine(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Bundles of the same outputs; or transcripts, .ctm, .jsonl, .json."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new bundle, or file.")],
) -> None:
    """Make an ensemble of models, or vote on transcripts."""
    from asr.jobs.vote import SUFFIXES, vote_files

    are_transcripts = [Path(model).suffix.lower() in SUFFIXES for model in models]
    if not all(are_transcripts) and (any(are_transcripts) or output.suffix.lower() in SUFFIXES):
        raise ConfigError(
            f"{', '.join(models)}: expected either transcripts ({', '.join(SUFFIXES)}) or models"
        )
    if all(are_transcripts):
        vote_files([Path(model) for model in models], output)
    else:
        from asr.jobs.combine import combine_bundles

        combine_bundles(models, output)


language_model = typer.Typer(help="Train and measure language models.", no_args_is_help=True)


@language_model.command("train")
def lm_train(
    context: typer.Context,
    text: Annotated[list[str], typer.Argument(help="Files with a sentence a line, or -.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="ARPA file (.gz compresses it, - is stdout), or .safetensors."),
    ],
    order: Annotated[int, typer.Option(min=1, max=6, help="Longest n-gram.")] = 4,
    cutoffs: Annotated[str, typer.Option(help="Counts left out for each order, as 0,0,1.")] = "0",
    vocabulary: Annotated[str, typer.Option(help="Further words: a list, a lexicon, or cmudict.")] = "",
    style: Style = "basic",
    recurrent: Annotated[
        bool, typer.Option("--recurrent", help="Train an LSTM, for `asr tune --rescorer`.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the LSTM.")] = 12,
    width: Annotated[int, typer.Option(min=1, help="Units of the LSTM.")] = 512,
) -> None:
    """Train an interpolated modified Kneser-Ney model, or an LSTM.

    An LSTM is written as safetensors. It resumes if it is stopped.
    """
    from asr.jobs import language_model as jobs

    for name in ("order", "cutoffs", "vocabulary") if recurrent else ("epochs", "width"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{name} is {'not ' if recurrent else ''}for an LSTM (--recurrent)")
    if recurrent:
        jobs.train_recurrent(text, output, style=style, epochs=epochs, width=width)
    else:
        jobs.train(text, output, order=order, cutoffs=cutoffs, style=style, vocabulary=vocabulary)


@language_model.command("perplexity")
def lm_perplexity(
    model: Annotated[Path, typer.Argument(help="ARPA file, or the .safetensors of an LSTM.")],
    text: Annotated[str, typer.Argument(help="A sentence a line, or -.")],
    style: Style = "basic",
    json: Json = False,
) -> None:
    """How well a model predicts a text."""
    from asr.jobs.language_model import perplexity as job

    job(model, text, style=style, as_json=json)


laboratory = typer.Typer(help="The theory, runnable: gradients, memory, the lattice.", no_args_is_help=True)
Picture = Annotated[
    Path, typer.Option("--output", "-o", help="The picture: PNG, SVG, PDF or JPEG.", callback=is_drawable)
]


@laboratory.command("gradients")
def lab_gradients(
    output: Picture = Path("gradients.png"),
    longest: Annotated[int, typer.Option(min=10, help="Longest sequence, in frames.")] = 10_000,
) -> None:
    """Time and memory of BPTT and RTRL against the length of the sequence."""
    from asr.jobs import lab

    lab.gradients(output, longest=longest)


@laboratory.command("gradient-flow")
def lab_gradient_flow(
    output: Picture = Path("gradient-flow.png"),
    model: Annotated[str | None, typer.Option("--model", "-m", help="A bundle; else fresh cells.")] = None,
    audio: Annotated[str | None, typer.Option(help="A recording for the model; else noise.")] = None,
) -> None:
    """How far back a gradient reaches, in RNN, GRU and LSTM or in your own model."""
    from asr.jobs import lab

    if audio is not None and model is None:
        raise typer.BadParameter("--audio is a recording for a model: name one with --model")
    lab.gradient_flow(output, load_model(model, "cpu", None) if model else None, audio)


@laboratory.command("memory")
def lab_memory(
    output: Picture = Path("memory.png"),
    updates: Annotated[int, typer.Option(min=1, help="Of each cell, at most; README: 1500.")] = 1000,
) -> None:
    """Which cells learn to recall a symbol after a long gap; takes about ten minutes."""
    from asr.jobs import lab

    lab.memory(output, updates=updates)


@laboratory.command("lattice")
def lab_lattice(
    audio: Annotated[str, typer.Argument(help="A recording.")],
    text: Annotated[str, typer.Argument(help="What is said in it.")],
    model: Model,
    output: Picture = Path("lattice.png"),
) -> None:
    """Draw the CTC lattice of a text: occupancy, best path, and the text's exact probability."""
    from asr.jobs import lab

    lab.lattice(load_model(model, "cpu", None), audio, text, output)
