"""The `asr` command: parses, calls a job, shows errors without a traceback; nothing heavy is imported."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from asr import __version__
from asr.errors import AsrError, visible
from asr.options import (
    BeamWidth,
    Decoder,
    Device,
    Hotwords,
    Json,
    Lm,
    Model,
    OutputFormat,
    Plain,
    Precision,
    Recalled,
    Rescore,
    SampleRate,
    ScoringStyle,
    Vad,
    choice,
    load_model,
)
from asr.subcommands import align, combine, export, laboratory, language_model, tune

app = typer.Typer(
    name="asr",
    help="Train your own speech recogniser, transcribe with it, know how good it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
app.add_typer(language_model, name="lm")
app.add_typer(laboratory, name="lab")

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE [KEY=VALUE]...",
        help="A recipe, or your manifest or folder of recordings; and values that differ. "
        "Without one the recipes are named.",
    ),
]
Multirun = Annotated[bool, typer.Option("-m", "--multirun", help="Sweep over values given with commas.")]
_state = {"debug": False}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    _state["debug"] = debug


@app.command()
def run(words: Words = None, multirun: Multirun = False) -> None:
    """Prepare, train and evaluate a recipe; skips what is done."""
    _stage("run", words, multirun)


@app.command()
def prepare(words: Words = None, multirun: Multirun = False) -> None:
    """Pack the corpus of a recipe, a manifest or a folder, and print where."""
    _stage("prepare", words, multirun)


@app.command()
def train(words: Words = None, multirun: Multirun = False) -> None:
    """Prepare and train a recipe; resumes an interrupted run."""
    _stage("train", words, multirun)


def _stage(stage: str, words: list[str] | None, multirun: bool) -> None:
    from asr.jobs import stages

    words = words or []
    if multirun:
        stages.sweep(stage, words)
    else:
        stages.single(stage, words)


def _decoding(
    decoder: str | None,
    lm: str | None,
    beam_width: int | None,
    hotwords: list[str] | None,
    rescore: int | None,
) -> dict[str, Any]:
    settings = {"beam_width": beam_width, "hotwords": hotwords, "rescore": rescore}
    for name, value in {"lm": lm, **settings}.items():
        if decoder == "greedy" and value:
            raise typer.BadParameter(f"--decoder greedy has no use for --{name}: leave it out, or take beam")
    return {"decoder": decoder, **settings}


@app.command()
def transcribe(
    model: Model,
    audio: Annotated[
        list[str] | None, typer.Argument(help="Files, folders, patterns, or - for standard input.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output_dir", "--output-dir", "-o", help="Write files there, and resume.")
    ] = None,
    output_format: OutputFormat = "txt",
    word_timestamps: Annotated[
        bool,
        typer.Option("--word_timestamps", "--word-timestamps", help="Words' times: srt, vtt, tsv, json(l)."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do again what is there.")] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print words of one source, say -, while they are said.")
    ] = False,
    microphone: Annotated[bool, typer.Option("--microphone", help="Listen to the microphone.")] = False,
    sample_rate: SampleRate = None,
    decoder: Decoder = None,
    lm: Lm = None,
    beam_width: BeamWidth = None,
    hotwords: Hotwords = None,
    rescore: Rescore = None,
    device: Device = "cpu",
    precision: Precision = "float32",
    vad: Vad = "energy",
) -> None:
    """Print the transcripts of recordings, or write them as files."""
    settings: dict[str, Any] = _decoding(decoder, lm, beam_width, hotwords, rescore)
    if sample_rate is not None and not (stream and audio == ["-"]):
        raise typer.BadParameter("--sample_rate is for --stream of -; all else states its own")
    if stream or microphone:
        if len(audio or []) != (not microphone) or output_dir is not None or vad != "energy":
            raise typer.BadParameter("--stream takes one file or -, --microphone none; both print; no --vad")
        if output_format not in ("txt", "jsonl"):
            raise typer.BadParameter(f"--output_format {output_format}: a stream is written as txt or jsonl")
        from asr.jobs.listen import listen

        place = None if microphone or not audio else audio[0]
        opened = load_model(model, device, lm, precision)
        listen(opened, place, rate_hz=sample_rate, output_format=output_format, **settings)
        return
    if output_dir == Path("-"):
        raise typer.BadParameter("--output_dir -: expected a folder; without one, standard output is taken")
    if not audio:
        raise typer.BadParameter("which recordings? Files, folders, patterns, or - for standard input")
    from asr.jobs.transcribe import transcribe as job

    files = {"output_dir": output_dir, "output_format": output_format, "word_timestamps": word_timestamps}
    opened = load_model(model, device, lm, precision)
    if job(opened, audio, overwrite=overwrite, vad=vad, **files, **settings):  # type: ignore[arg-type]
        raise typer.Exit(1)


@app.command()
def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="Listen there; by default to this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0: any free one.")] = 8000,
    token: Annotated[
        str, typer.Option(envvar="ASR_TOKEN", help="Clients must send it as bearer token.")
    ] = "",
    name: Annotated[
        str | None, typer.Option(help="What clients call it; else its experiment's name.")
    ] = None,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; one more gets 503.")] = 64,
    upload_mb: Annotated[
        int, typer.Option("--upload_mb", "--upload-mb", min=1, help="Largest upload in MiB.")
    ] = 100,
    longest_s: Annotated[
        float, typer.Option("--longest_s", "--longest-s", min=1, help="Longest upload in seconds of sound.")
    ] = 4 * 3600.0,
    decoder: Decoder = None,
    lm: Lm = None,
    beam_width: BeamWidth = None,
    hotwords: Hotwords = None,
    rescore: Rescore = None,
    device: Device = "cpu",
    precision: Precision = "float32",
) -> None:
    """Serve OpenAI's transcription API, streams, and a web page."""
    from asr.jobs.serve import default_name
    from asr.jobs.serve import serve as job

    limits = {"host": host, "port": port, "token": token, "waiting": waiting, "upload_mb": upload_mb}
    limits |= {"longest_s": longest_s}
    settings = _decoding(decoder, lm, beam_width, hotwords, rescore)
    job(load_model(model, device, lm, precision), name=name or default_name(model), **limits, **settings)  # type: ignore[arg-type]


@app.command()
def evaluate(
    manifest: Annotated[Path, typer.Argument(help="Recordings and texts: a manifest, table, folder.")],
    model: Model,
    decoder: Decoder = None,
    lm: Lm = None,
    beam_width: BeamWidth = None,
    hotwords: Hotwords = None,
    rescore: Rescore = None,
    device: Device = "cpu",
    precision: Precision = "float32",
    report: Annotated[Path | None, typer.Option(help="Write a page with every error.")] = None,
    json: Json = False,
) -> None:
    """Word error rate of a model on a manifest, with its interval.

    ECE: calibration error, NCE: normalised cross-entropy, RTF: processing time / duration.
    """
    from asr.jobs import evaluate as jobs

    settings = _decoding(decoder, lm, beam_width, hotwords, rescore)
    done = jobs.evaluate(load_model(model, device, lm, precision), manifest, **settings)
    jobs.show(done, as_json=json, report=report)
    if done.failed:
        raise typer.Exit(1)


@app.command()
def score(
    reference: Annotated[Path, typer.Argument(help="Plain or Kaldi text, trn, JSONL, STM, CTM, SRT, VTT.")],
    hypothesis: Annotated[Path, typer.Argument(help="The same, from any recogniser.")],
    style: ScoringStyle = "none",
    alignment: Annotated[
        str, choice("minimal", "sclite", help="minimal, or sclite for its weights.")
    ] = "minimal",
    utt2spk: Annotated[Path | None, typer.Option(help="Lines of utterance id and speaker.")] = None,
    plain: Plain = False,
    worst: Annotated[int, typer.Option(min=0, help="Utterances shown with their alignment.")] = 3,
    hotwords: Recalled = None,
    vocabulary: Annotated[Path | None, typer.Option(help="Text of the words the model knows.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with every error.")] = None,
    json: Json = False,
) -> None:
    """Word error rate of hypotheses in a file, from any recogniser."""
    from asr.jobs import score as jobs

    settings: dict[str, Any] = {"style": style, "alignment": alignment, "utt2spk": utt2spk, "report": report}
    settings |= {"hotwords": hotwords or (), "vocabulary": vocabulary, "plain": plain}
    found, recalls = jobs.score_files(reference, hypothesis, **settings)
    jobs.show_score(found, recalls, as_json=json, worst=worst)


@app.command()
def compare(
    reference: Annotated[Path, typer.Argument(help="As for score.")],
    hypothesis_a: Annotated[Path, typer.Argument(metavar="HYP_A")],
    hypothesis_b: Annotated[Path, typer.Argument(metavar="HYP_B")],
    style: ScoringStyle = "none",
    plain: Plain = False,
    differing: Annotated[int, typer.Option(min=0, help="Utterances shown where they differ most.")] = 3,
    json: Json = False,
) -> None:
    """Test whether one recogniser is significantly better."""
    from asr.jobs import compare as jobs

    how: dict[str, Any] = {"style": style, "plain": plain}
    found = jobs.compare_files(reference, hypothesis_a, hypothesis_b, **how)
    names = jobs.tell_apart(hypothesis_a, hypothesis_b)
    jobs.show_comparison(found, as_json=json, differing=differing, names=names)


for command in (tune, align, export, combine):
    app.command()(command)


@app.command()
def doctor(
    experiment: Annotated[Path | None, typer.Argument(help="Folder of an experiment.")] = None,
) -> None:
    """Diagnose a training run, or, without one, this installation."""
    from asr.jobs import doctor as jobs

    if experiment is not None:
        jobs.show_experiment(experiment)
    elif not jobs.show_installation():
        raise typer.Exit(1)


def main() -> None:
    """Entry point: exit status 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C."""
    if "OMP_WAIT_POLICY" not in os.environ:  # else torch's threads keep cores busy for others to wait for
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by >&-: no file that is opened may take its place
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what the terminal cannot show stops nothing
    try:
        app()
    except AsrError as error:
        _fail(error)
    except SystemExit as leaving:
        if leaving.code == 130 and _goes_on(sys.argv):  # by Ctrl-C
            typer.secho("What is done is kept; the same command goes on.", err=True)
        raise
    except OSError as error:
        if not (is_full := error.errno in (errno.ENOSPC, errno.EDQUOT)) and error.filename is None:
            raise
        hint = "; free some space and run again" if is_full else ""
        _fail(f"{error.filename or 'standard output or a file that is written'}: {error.strerror}{hint}")


def _goes_on(words: list[str]) -> bool:
    """Whether a command that is stopped and given again does not begin anew."""
    command, *rest = [word for word in words[1:] if word != "--debug"] or [""]
    if command == "transcribe":
        return any(word.startswith(("-o", "--output_dir", "--output-dir")) for word in rest)
    return command in ("run", "train", "prepare") or (command == "lm" and "--recurrent" in rest)


def _fail(error: Any) -> None:
    if _state["debug"]:
        raise
    style: dict[str, Any] = {} if os.environ.get("NO_COLOR") else {"fg": "red", "bold": True}
    typer.secho("error: ", **style, nl=False, err=True)
    typer.echo(visible(str(error)), err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
