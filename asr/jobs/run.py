"""`asr run`: prepare → train → evaluate, each stage only if it is not done yet."""

import json
from pathlib import Path

from rich.table import Table

from asr import recognizer, scoring
from asr.jobs.console import output, say
from asr.jobs.evaluate import Evaluation, evaluate, write_hypotheses
from asr.jobs.prepare import Prepared, prepare
from asr.jobs.recipe import Recipe
from asr.jobs.train import train

RESULTS = "results.json"


def run(recipe: Recipe) -> Path:
    """The experiment folder, with the bundle, `results.json`, `report.html` and `curves.png` in it."""
    prepared = prepare(recipe)
    bundle = train(recipe, prepared)
    folder = Path(recipe.exp)
    results = _results(folder, bundle)
    for split in _scored(prepared):
        if split not in results:
            results[split] = _evaluate(prepared, split, bundle, folder)
            (folder / RESULTS).write_text(
                json.dumps({"bundle": _stamp(bundle), "splits": results}, indent=2) + "\n"
            )
    _print(results, recipe.name)
    say(f"model   {bundle}\ncurves  {folder / 'curves.png'}\nreport  {folder / 'report.html'}")
    return folder


def _scored(prepared: Prepared) -> list[str]:
    return [split for split in prepared.splits if split != "train"]


def _stamp(bundle: Path) -> str:
    import hashlib

    return hashlib.sha256((bundle / recognizer.FILE).read_bytes()).hexdigest()


def _results(folder: Path, bundle: Path) -> dict[str, dict[str, object]]:
    """Scores already computed with this very bundle."""
    file = folder / RESULTS
    if file.is_file():
        saved = json.loads(file.read_text())
        if saved["bundle"] == _stamp(bundle):
            return dict(saved["splits"])
    return {}


def _evaluate(prepared: Prepared, split: str, bundle: Path, folder: Path) -> dict[str, object]:
    model = recognizer.load(bundle)
    evaluation: Evaluation = evaluate(model, prepared.open(split).utterances)
    write_hypotheses(evaluation, folder / f"{split}.hypotheses.jsonl")
    scoring.write_report(
        evaluation.score, folder / ("report.html" if split == "test" else f"report-{split}.html")
    )
    return evaluation.score.to_json() | {"failed": len(evaluation.failed)}


def _print(results: dict[str, dict[str, object]], name: str) -> None:
    table = Table(title=f"{name}: word error rate")
    for column in ("split", "utterances", "words", "WER", "95 % interval", "CER", "sub", "del", "ins"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, r in results.items():
        low, high = r["wer_interval"]  # type: ignore[misc]
        table.add_row(
            split,
            f"{r['sentences']}",
            f"{r['words']}",
            f"{r['wer']:.2%}",
            f"{low:.2%} – {high:.2%}",
            f"{r['cer']:.2%}",
            *(f"{r[k]}" for k in ("substitutions", "deletions", "insertions")),
        )
    output.print(table)
