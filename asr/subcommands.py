"""The command groups `asr lm …` and `asr lab …`, and what is done with a trained model.

Nothing heavy is imported.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from asr.errors import ConfigError
from asr.options import (
    Device,
    Hotwords,
    Json,
    Lm,
    Model,
    Style,
    is_drawable,
    load_model,
    one_of,
)


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
            "--output",
            "-o",
            help="Write there, not to the terminal (-); many as JSON or TextGrid need a folder.",
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


language_model = typer.Typer(help="Train, merge and measure language models.", no_args_is_help=True)


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


@language_model.command("mix")
def lm_mix(
    first: Annotated[str, typer.Argument(help="ARPA file, or a bundle that has n-grams; or english.")],
    second: Annotated[str, typer.Argument(help="Likewise.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="ARPA file (.gz compresses it).")],
    share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Weight of the second; by default 0.5.")
    ] = None,
    text: Annotated[str, typer.Option(help="Sentences, one a line, that choose the weight.")] = "",
    style: Style = "basic",
) -> None:
    """Merge two n-gram models into one, say one of books and one of your own text.

    It knows the words of both, and gives each n-gram the weighted mean of their probabilities.
    """
    from asr.jobs.language_model import mix as job

    if share is not None and text:
        raise typer.BadParameter("--share or --text: either chooses the weight")
    job(first, second, output, share=share, text=text, style=style)


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
