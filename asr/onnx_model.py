"""A model as one ONNX graph, from samples to log-probabilities: written here, and run by onnxruntime.

Conventions. The file's metadata hold, under the key `asr`, the JSON header of a bundle, so alphabet and
decoder settings are included. A language model is a file beside it: `x.lm.safetensors` for `x.onnx`.

A model that needs the whole recording has the inputs `samples` (B, T) float32 and `lengths` (B,) int64, in
samples, and the outputs `log_probs` (B, outputs, V) and `output_lengths` (B,).

A model that streams passes its state from call to call: inputs `state_0` …, zero at first, outputs
`next_state_0` …. With w, h and f for the metadata's `window_samples`, `hop_samples` and `frames_per_output`,
a stream is w / 2 zeros, the audio, w / 2 zeros. For n outputs pass the next w + (n f − 1) h samples of it;
the next call starts n f h samples later. `lengths` says how many of the samples come before the zeros at the
end; the last call is padded with further zeros. Every h f samples of audio give an output, rounded up.
"""

import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from asr import bundle, ensemble
from asr.encoder import Encoder
from asr.errors import AlphabetError, BundleError, ConfigError, how_to_install
from asr.excerpts import Excerpts, stretches
from asr.features import Features
from asr.files import whole_file
from asr.lm import NGramModel, RecurrentModel
from asr.streaming import obstacles
from asr.subsampling import State

OPSET = 17
"""ONNX operator set, supported by onnxruntime since 2022."""


class Model(bundle.Model, Protocol):
    """A recogniser, perhaps with a language model."""

    lm: NGramModel | None
    rescorer: RecurrentModel | None


class Whole(nn.Module):
    """Samples of whole utterances → log-probabilities."""

    def __init__(self, features: Features, encoder: Encoder) -> None:
        super().__init__()
        self.features, self.encoder = features, encoder

    def forward(self, samples_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, ...]:
        """log_probs_BTV and their lengths."""
        log_probs: tuple[Tensor, Tensor] = self.encoder(*self.features(samples_BT, lengths_B))
        return log_probs


class Stream(Whole):
    """The next samples of streams and their state so far → log-probabilities and the new state."""

    def forward(self, samples_BT: Tensor, lengths_B: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """log_probs_BTV and the new state; without a given state, the streams begin."""
        features_BTF, _ = self.features.step(samples_BT, lengths_B)
        log_probs_BTV, state = self.encoder.step(features_BTF, state or None)
        return log_probs_BTV, *state


def lm_file(file: Path) -> Path:
    """The path of the language model of an ONNX file."""
    return file.with_name(f"{file.stem}.lm.safetensors")


@torch.no_grad()
def write(model: Model, file: Path) -> None:
    """Write the model to the file, whole or not at all, and its language model beside it.

    Raises:
        ConfigError: the package onnx is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError(f"writing ONNX needs the package onnx: {how_to_install('export')}") from error
    streams = not obstacles(model.features, model.encoder)
    module = (Stream if streams else Whole)(model.features, model.encoder).eval()
    exported = onnx.load_from_string(_graph(module))
    described = bundle.describe(model) | {
        "lm": model.lm is not None or model.rescorer is not None,
        "window_samples": model.features.fft_samples,
        "hop_samples": model.features.hop_samples,
        "frames_per_output": model.encoder.frames_per_output,
    }
    exported.producer_name, exported.producer_version = "asr", described["version"]
    onnx.helper.set_model_props(exported, {"asr": json.dumps(described, ensure_ascii=False, sort_keys=True)})
    onnx.checker.check_model(exported)
    if described["lm"]:
        bundle.write(lm_file(file), bundle.pack_lm(model.lm, model.rescorer), described)
    with whole_file(file, "wb", error=BundleError) as out:
        out.write(exported.SerializeToString())


def _graph(module: Whole) -> bytes:
    """The ONNX model without metadata, with batch and time left open."""
    window, hop = module.features.fft_samples, module.features.hop_samples
    samples_BT = torch.zeros(2, window + (2 * module.encoder.frames_per_output - 1) * hop)
    arguments: tuple[Tensor, ...] = (samples_BT, torch.tensor([samples_BT.shape[1], window]))
    inputs = {"samples": {0: "batch", 1: "samples"}, "lengths": {0: "batch"}}
    outputs = {"log_probs": {0: "batch", 1: "outputs"}}
    if isinstance(module, Stream):
        _, *state = module(*arguments)
        arguments = (*arguments, *state)
        inputs |= {f"state_{i}": _batch_axis(part) for i, part in enumerate(state)}
        outputs |= {f"next_state_{i}": _batch_axis(part) for i, part in enumerate(state)}
    else:
        outputs["output_lengths"] = {0: "batch"}
    with warnings.catch_warnings(), TemporaryDirectory() as folder:
        # torch deprecates its tracing exporter, but it needs no other package and supports LSTMs
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            arguments,
            Path(folder) / "model.onnx",
            input_names=[*inputs],
            output_names=[*outputs],
            dynamic_axes=inputs | outputs,
            opset_version=OPSET,
            dynamo=False,
        )
        return (Path(folder) / "model.onnx").read_bytes()


def _batch_axis(state: Tensor) -> dict[int, str]:
    """The batch axis: a convolution's held frames are (B, …), a recurrent layer's state is (1, B, H)."""
    return {1 if state.dim() == 3 else 0: "batch"}


def read(file: Path) -> dict[str, Any]:
    """The parts of the recogniser in the file, as arguments of `Recognizer`.

    Raises:
        BundleError: no such file, one that is truncated or foreign, or its language model is missing.
        ConfigError: the package onnxruntime is missing.
    """
    session = _session(file)
    metadata = session.get_modelmeta().custom_metadata_map
    if "asr" not in metadata:
        raise BundleError(f"{file}: an ONNX model, but not one of this toolkit")
    try:
        header = bundle.read_header(metadata["asr"], file)
        parts, with_lm = bundle.parts(header), header["lm"]
        features = Features(parts["features"]).eval()
        with torch.device("meta"):  # sizes without weights
            encoder = ensemble.build(parts["encoder"], features.outputs, parts["alphabet"].size)
    except (ValueError, KeyError, TypeError, AlphabetError) as error:
        raise BundleError(f"{file}: its description is damaged ({error})") from error
    runtime = OnnxModel(session, features, encoder)
    lm, rescorer = _language_models(lm_file(file)) if with_lm else (None, None)
    more = {"encoder": encoder, "runtime": runtime, "lm": lm, "rescorer": rescorer}
    return parts | {"features": features} | more


def _session(file: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"running ONNX needs the package onnxruntime: {how_to_install('export')}"
        ) from error
    if not file.is_file():
        raise BundleError(f"{file}: no model there; asr export writes one")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no other common base
        raise BundleError(f"{file}: truncated, or no ONNX model ({error})") from error


def _language_models(file: Path) -> tuple[NGramModel | None, RecurrentModel | None]:
    if not file.is_file():
        raise BundleError(
            f"{file}: the language model of {file.name.removesuffix('.lm.safetensors')}.onnx belongs here: "
            "copy both"
        )
    return bundle.unpack_lm(bundle.read(file)[1])


class OnnxModel:
    """Runs an exported recogniser, in place of one with weights.

    Args:
        session: of onnxruntime, as `read` opens it.
        features, encoder: of the same settings, for their sizes; the encoder's weights are not used.
    """

    def __init__(self, session: Any, features: Features, encoder: Encoder) -> None:
        self._session, self._features, self._encoder = session, features, encoder
        self._states = [i for i in session.get_inputs() if i.name.startswith("state_")]

    def log_probs(self, given: Excerpts) -> tuple[Tensor, Tensor]:
        """log_probs_BTV and lengths_B of the pieces, which start at whole outputs.

        The graph goes from samples to outputs, so the encoder too sees the surroundings of the pieces.
        """
        out_B = self._encoder.output_lengths(self._features.output_lengths(given.sizes_B))
        skip_B = given.before_B // (self._features.hop_samples * self._encoder.frames_per_output)
        return stretches(self._whole(given.samples_BT, given.lengths_B), skip_B, out_B), out_B

    def _whole(self, samples_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """log_probs_BTV of the given samples, context included."""
        if not self._states:
            given = {"samples": samples_BT.numpy(), "lengths": lengths_B.numpy()}
            return torch.from_numpy(self._session.run(None, given)[0])
        front, factor = self._features, self._encoder.frames_per_output
        out_B = self._encoder.output_lengths(front.output_lengths(lengths_B))
        half, size = front.fft_samples // 2, samples_BT.shape[1]
        windows = front.fft_samples + (int(out_B.max()) * factor - 1) * front.hop_samples
        padded_BT = functional.pad(samples_BT, (half, max(0, windows - half - size)))[:, :windows]
        return self.step(padded_BT, (lengths_B + half).clamp(max=windows), None)[0]

    def step(self, samples_BT: Tensor, lengths_B: Tensor, state: State | None) -> tuple[Tensor, State]:
        """log_probs_BTV of the next block of streams, and the new state; arguments as for `Features.step`.

        Raises:
            ConfigError: the model needs the whole recording.
        """
        if not self._states:
            raise ConfigError("this model was exported for whole recordings: it cannot recognise blocks")
        given = {"samples": samples_BT.numpy(), "lengths": lengths_B.numpy()}
        for i, wanted in enumerate(self._states):
            shape = [len(samples_BT) if isinstance(size, str) else size for size in wanted.shape]
            given[wanted.name] = np.zeros(shape, np.float32) if state is None else state[i].numpy()
        log_probs_BTV, *after = self._session.run(None, given)
        return torch.from_numpy(log_probs_BTV), tuple(map(torch.from_numpy, after))
