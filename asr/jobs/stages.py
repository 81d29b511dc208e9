"""The commands that take a recipe, alone or as a Hydra sweep."""

import sys
from collections.abc import Sequence
from typing import Any

from asr.errors import AsrError, ConfigError
from asr.jobs import recipe as recipes


def single(stage: str, words: Sequence[str]) -> None:
    """Run one stage of the recipe that the words describe."""
    _job(stage)(recipes.compose(words))


def _job(stage: str) -> Any:
    if stage == "prepare":
        from asr.jobs.prepare import prepare

        return prepare
    if stage == "train":
        from asr.jobs.prepare import prepare
        from asr.jobs.train import train

        return lambda recipe: train(recipe, prepare(recipe))
    from asr.jobs.run import run

    return run


class _Job:
    """One job of a sweep, in a form that launchers can send to another machine."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __call__(self, config: Any) -> float | None:
        recipe = recipes.from_hydra(config)
        result = _job(self.stage)(recipe)
        return _development_wer(result) if self.stage != "prepare" else None


def _development_wer(folder: Any) -> float | None:
    from asr.recognizer import load

    bundle = folder if folder.name == "model" else folder / "model"
    return float(load(bundle).trained_on["dev_wer"])


def sweep(stage: str, words: Sequence[str]) -> None:
    """Hydra's multirun over values given with commas; each job has its own experiment folder.

    Raises:
        ConfigError: the overrides are wrong.
        AsrError: what the first failing job raised.
    """
    import hydra

    overrides = recipes.hydra_overrides(words)
    recipes.register()
    arguments = sys.argv
    sys.argv = [arguments[0], "--multirun", *overrides]
    try:
        task = _Job(stage)
        hydra.main(config_path=str(recipes.home() / "conf"), config_name="config", version_base="1.3")(
            lambda config: task(config)
        )()
    except AsrError:
        raise
    except SystemExit as error:
        if error.code:
            raise ConfigError("the sweep failed, see above") from error
    finally:
        sys.argv = arguments
