"""The `asr` command: parses, calls a job, shows errors without a traceback; nothing heavy is imported."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from asr import __version__
from asr.errors import AsrError

app = typer.Typer(
    name="asr",
    help="Train your own speech recogniser, transcribe with it, know how good it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)

Words = Annotated[
    list[str],
    typer.Argument(metavar="RECIPE [KEY=VALUE]...", help="A recipe, and values that differ from it."),
]
Multirun = Annotated[bool, typer.Option("-m", "--multirun", help="Sweep over values given with commas.")]
Model = Annotated[str, typer.Option("--model", "-m", help="A bundle: its folder or file.")]
Decoder = Annotated[
    str | None, typer.Option(help="greedy, beam or pyctcdecode; the bundle's own choice if not given.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")]

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
def run(words: Words, multirun: Multirun = False) -> None:
    """Prepare, train and evaluate a recipe; stages already done are skipped."""
    _stage("run", words, multirun)


@app.command()
def prepare(words: Words, multirun: Multirun = False) -> None:
    """Turn a recipe's corpus, or your own MANIFEST or folder, into a packed corpus."""
    _stage("prepare", words, multirun)


@app.command()
def train(words: Words, multirun: Multirun = False) -> None:
    """Prepare and train a recipe; an interrupted run goes on where it was."""
    _stage("train", words, multirun)


def _stage(stage: str, words: list[str], multirun: bool) -> None:
    from asr.jobs import stages

    if multirun:
        stages.sweep(stage, words)
    else:
        stages.single(stage, words)


@app.command()
def transcribe(
    audio: Annotated[list[str], typer.Argument(help="Files, folders, or - for standard input.")],
    model: Model,
    decoder: Decoder = None,
    device: Device = "cpu",
) -> None:
    """Print what is said in each recording, one line a file."""
    from asr.jobs.transcribe import transcribe as job
    from asr.recognizer import load

    failed = job(load(model, device=device), audio, decoder=decoder)
    if failed:
        raise typer.Exit(1)


@app.command()
def evaluate(
    manifest: Annotated[Path, typer.Argument(help="JSONL with audio_filepath, duration, text.")],
    model: Model,
    decoder: Decoder = None,
    device: Device = "cpu",
    report: Annotated[Path | None, typer.Option(help="Write a page with every error.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Word error rate of a bundle on a manifest, with its interval and its errors."""
    from asr.jobs import evaluate as jobs
    from asr.recognizer import load

    done = jobs.evaluate(load(model, device=device), manifest, decoder=decoder)
    jobs.show(done, as_json=json, report=report)
    if done.failed:
        raise typer.Exit(1)


def main() -> None:
    """Entry point: exit status 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C."""
    try:
        app()
    except AsrError as error:
        _fail(error)
    except KeyboardInterrupt:
        typer.secho("stopped; what is done is kept, the same command goes on", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _fail(error: Any) -> None:
    if _state["debug"]:
        raise error
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(str(error), err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
