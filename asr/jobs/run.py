"""`asr run`: prepare → train → language model and tuning → evaluate; stages already done are skipped."""

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from asr.bundle import FILE
from asr.errors import ConfigError
from asr.files import sha256_of, whole_file
from asr.jobs.console import output, say
from asr.jobs.emissions import Emissions
from asr.jobs.evaluate import evaluate, to_json, write_hypotheses, write_report
from asr.jobs.inheritance import keeps_language_model
from asr.jobs.language_model import check_language_model, digests, model_of_recipe, rescorer_of_recipe
from asr.jobs.members import check_training, train_all
from asr.jobs.prepare import Prepared, development_split, prepare
from asr.jobs.recipe import Recipe
from asr.jobs.settings import build, to_fields
from asr.jobs.train import CURVES, TUNED, write_recipe
from asr.jobs.tune import calibrate, plot, tell, tune
from asr.recognizer import Recognizer, load
from asr.scoring.tables import print_table
from asr.training import history
from asr.training.distributed import Ranks

RESULTS = "results.json"


def run(recipe: Recipe) -> Path:
    """The experiment folder, with the bundle, `results.json`, a report and `curves.png` in it.

    Raises:
        ConfigError: settings of language model or training that cannot work, before anything is done.
        BundleError: there is no model to start from.
    """
    check_language_model(recipe)
    check_training(recipe)
    prepared = prepare(recipe)
    bundle = train_all(recipe, prepared)
    folder = Path(recipe.exp)
    if not Ranks().is_first:
        return folder
    if _tuned_for(folder) != _decoding(recipe):
        _tune(recipe, prepared, bundle, folder)
    stamp = sha256_of(bundle / FILE)
    results = _known_results(prepared, folder, stamp)
    if missing := [split for split in prepared.splits if split != "train" and split not in results]:
        model = load(bundle)
        for split in missing:
            results[split] = _evaluate(prepared, split, model, folder)
            with whole_file(folder / RESULTS) as file:
                file.write(json.dumps({"bundle": stamp, "splits": results}, indent=2) + "\n")
    _print(results, recipe.name)
    page = _report(folder, "test" if "test" in results else next(iter(results)))
    say(f"model   {bundle}\ncurves  {folder / CURVES}\nreport  {page}")
    return folder


def _decoding(recipe: Recipe) -> dict[str, Any]:
    """The recipe's decoding settings, which may be changed after training, and the files they name."""
    fields = to_fields(recipe)
    files = digests(recipe)
    return {name: fields[name] for name in ("decoder", "lm")} | ({"files": files} if files else {})


def _tuned_for(folder: Path) -> dict[str, Any] | None:
    """The decoding settings that the bundle was tuned for; None if it was not tuned, or they are unknown."""
    file = folder / TUNED
    asked = json.loads(file.read_text(encoding="utf-8")).get("asked") if file.is_file() else None
    if asked is None:
        return None
    parts = {name: asked[name] for name in ("decoder", "lm")}
    with suppress(ConfigError):  # settings that no longer exist: tuned for others, then
        filled = to_fields(build(Recipe, parts))  # settings that were added since had their defaults
        parts = {name: filled[name] for name in parts}
    return asked | parts


def _tune(recipe: Recipe, prepared: Prepared, bundle: Path, folder: Path) -> None:
    """Tune the recipe's language model, if any, and calibrate confidences, on the development split.

    The weights of a language model that was there before training are those of the recipe. `tuning.json` is
    written last, after the bundle, so that a killed run only has to repeat this.
    """
    model, facts = load(bundle), {"asked": _decoding(recipe)}
    model.decoder, model.lm, model.rescorer = dataclasses.replace(recipe.decoder), None, None
    utterances = prepared.open(development_split(prepared)).utterances
    if (found := model_of_recipe(recipe, prepared, model.alphabet)) is not None:
        model.lm = found
        model.alphabet = model.alphabet.with_words(found.known_words)
        say(f"language model of order {found.order} with {len(found.vocabulary):,} words")
        model.rescorer = None if model.streams else rescorer_of_recipe(recipe, prepared)
        if not keeps_language_model(recipe):
            tuning = tune(model, utterances)
            tell(tuning)
            if tuning.trials:
                plot(tuning, folder / "tuning.png")
            facts |= tuning.to_json()
        elif model.decoder.prior_weight:
            model.decoder.prior = Emissions(model, utterances).prior()
    calibration = calibrate(model, utterances)
    model.save(bundle)
    write_recipe(recipe)
    facts["calibration"] = calibration.to_json()
    with whole_file(folder / TUNED) as file:
        file.write(json.dumps(facts) + "\n")


def _known_results(prepared: Prepared, folder: Path, stamp: str) -> dict[str, dict[str, Any]]:
    """Scores already computed with exactly this bundle, on exactly these recordings and texts."""
    file = folder / RESULTS
    if not file.is_file():
        return {}
    saved = json.loads(file.read_text(encoding="utf-8"))
    splits = saved["splits"].items() if saved["bundle"] == stamp else ()
    return {
        split: result
        for split, result in splits
        if split in prepared.splits and result.get("corpus") == prepared.open(split).fingerprint
    }


def _evaluate(prepared: Prepared, split: str, model: Recognizer, folder: Path) -> dict[str, Any]:
    corpus = prepared.open(split)
    done = evaluate(model, corpus.utterances)
    write_hypotheses(done, folder / f"{split}.hypotheses.jsonl")
    page = _report(folder, split)
    lines = history.read(folder / history.FILE)
    write_report(done, page, title=f"{folder.name}: {split}", history=lines)
    return to_json(done) | {"corpus": corpus.fingerprint}


def _report(folder: Path, split: str) -> Path:
    return folder / ("report.html" if split == "test" else f"report-{split}.html")


def _print(results: dict[str, dict[str, Any]], name: str) -> None:
    table = Table(title=f"{name}: word error rate", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("split", "utts", "words", "WER", "95 % interval", "CER", "sub", "del", "ins"):
        table.add_column(column, justify="left" if column == "split" else "right", no_wrap=True)
    for split, r in results.items():
        interval = " – ".join(f"{100 * rate:.2f}" for rate in r["wer_interval"] or ())
        counts = (str(r[k]) for k in ("substitutions", "deletions", "insertions"))
        rates = (f"{r['wer']:.2%}", interval, f"{r['cer']:.2%}")
        table.add_row(split, f"{r['sentences']:,}", f"{r['words']:,}", *rates, *counts)
    print_table(table, output)
