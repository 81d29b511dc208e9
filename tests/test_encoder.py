"""The encoder against torch's packed sequences, against itself in another batch, and block by block."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from asr.encoder import Encoder, EncoderConfig
from asr.errors import ConfigError
from asr.regularisation import MaskedBatchNorm

CELLS = ["rnn", "gru", "lstm"]
SMALL = EncoderConfig(layers=2, width=12, dropout=0.0, channels=4)
LENGTHS = [23, 1, 7, 13, 22, 2]


def make(**settings: object) -> Encoder:
    torch.manual_seed(0)
    return Encoder(replace(SMALL, **settings), 10, 5).eval()  # type: ignore[arg-type]


def runs(encoder: Encoder) -> list[nn.RNNBase]:
    """The recurrent runs of all layers, both directions of the first layer first."""
    return [module for module in encoder.modules() if isinstance(module, nn.RNNBase)]


def frames(lengths: list[int] = LENGTHS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(lengths), max(lengths), 10, generator=generator), torch.tensor(lengths)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
@pytest.mark.parametrize(("subsampling", "factor"), [("stack", 1), ("stack", 3), ("conv", 3), ("conv", 4)])
def test_padding_and_company_change_nothing(
    cell: str, bidirectional: bool, norm: str, subsampling: str, factor: int
) -> None:
    encoder = make(
        cell=cell, bidirectional=bidirectional, norm=norm, subsampling=subsampling, factor=factor,
        projection=9, residual=True,
    )  # fmt: skip
    features_BTF, lengths_B = frames()
    encoder.train()(features_BTF, lengths_B)  # gives the batch norm statistics of its own
    encoder.eval()
    garbage_BTF = torch.where(torch.arange(23)[:, None] < lengths_B[:, None, None], features_BTF, math.nan)
    together_BTV, out_B = encoder(garbage_BTF, lengths_B)
    for b, n in enumerate(LENGTHS):
        alone_BTV, alone_B = encoder(features_BTF[b : b + 1, :n], lengths_B[b : b + 1])
        assert out_B[b] == alone_B[0] == alone_BTV.shape[1] == math.ceil(n / factor)
        torch.testing.assert_close(together_BTV[b, : out_B[b]], alone_BTV[0], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_outputs_and_gradients_are_those_of_torchs_packed_sequences(cell: str, bidirectional: bool) -> None:
    encoder = make(cell=cell, bidirectional=bidirectional, factor=1)
    theirs = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[cell](
        10, 12, num_layers=2, batch_first=True, bidirectional=bidirectional
    )
    pairs = {}
    for name, parameter in encoder.named_parameters():
        if name.startswith("layers"):
            _, layer, _, direction, weight = name.split(".")
            other = weight.replace("l0", f"l{layer}") + ("_reverse" if direction == "1" else "")
            theirs.get_parameter(other).data.copy_(parameter.data)
            pairs[name] = other
    features_BTF, lengths_B = frames()
    packed = pack_padded_sequence(features_BTF, lengths_B, batch_first=True, enforce_sorted=False)
    hidden_BTH, _ = pad_packed_sequence(theirs(packed)[0], batch_first=True)
    expected_BTV = encoder.output(hidden_BTH).log_softmax(-1)
    ours_BTV, _ = encoder(features_BTF, lengths_B)
    inside_BT1 = (torch.arange(23) < lengths_B[:, None])[..., None]
    torch.testing.assert_close(ours_BTV * inside_BT1, expected_BTV * inside_BT1, atol=1e-6, rtol=1e-5)
    ((ours_BTV - 1).square() * inside_BT1).sum().backward()
    ((expected_BTV - 1).square() * inside_BT1).sum().backward()
    for name, other in pairs.items():
        torch.testing.assert_close(
            encoder.get_parameter(name).grad, theirs.get_parameter(other).grad, atol=1e-3, rtol=1e-4
        )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
@pytest.mark.parametrize(
    ("subsampling", "factor"), [("stack", 1), ("stack", 3), ("conv", 1), ("conv", 3), ("conv", 4)]
)
def test_block_by_block_gives_what_the_whole_gives(
    cell: str, norm: str, subsampling: str, factor: int
) -> None:
    encoder = make(
        cell=cell, norm=norm, subsampling=subsampling, factor=factor, bidirectional=False, residual=True
    )
    features_BTF, lengths_B = frames([23, 23])
    whole_BTV, _ = encoder(features_BTF, lengths_B)
    filled_BTF = nn.functional.pad(features_BTF, (0, 0, 0, -23 % factor))
    for groups in (1, 2, 5):
        state, parts = None, []
        for block_BTF in filled_BTF.split(groups * factor, dim=1):
            block_BTV, state = encoder.step(block_BTF, state)
            parts.append(block_BTV)
        torch.testing.assert_close(torch.cat(parts, 1), whole_BTV, atol=2e-6, rtol=1e-5)


def test_a_step_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match="bidirectional=false"):
        make().step(torch.zeros(1, 3, 10))
    for wrong in (0, 4):
        with pytest.raises(ConfigError, match="multiple of factor=3"):
            make(bidirectional=False).step(torch.zeros(1, wrong, 10))


@pytest.mark.parametrize("subsampling", ["stack", "conv"])
def test_every_frame_reaches_its_own_output_and_none_before(subsampling: str) -> None:
    """With one direction, output n depends on all frames of groups 0 to n and on no later one."""
    encoder = make(subsampling=subsampling, bidirectional=False, factor=3)
    features_BTF = frames([12])[0].requires_grad_()
    for output in range(4):
        log_probs_BTV, _ = encoder(features_BTF, torch.tensor([12]))
        (gradient_BTF,) = torch.autograd.grad(log_probs_BTV[0, output, 1], features_BTF)
        reached_T = gradient_BTF[0].abs().sum(1) > 0
        assert reached_T[: 3 * output + 3].all() and not reached_T[3 * output + 3 :].any()


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("subsampling", ["stack", "conv"])
def test_outputs_are_the_frames_divided_by_the_factor_rounded_up(subsampling: str, factor: int) -> None:
    encoder = make(subsampling=subsampling, factor=factor)
    assert encoder.frames_per_output == factor
    for n in range(1, 18):
        log_probs_BTV, out_B = encoder(torch.zeros(1, n, 10), torch.tensor([n]))
        assert out_B.tolist() == [math.ceil(n / factor)] == [log_probs_BTV.shape[1]]
        assert encoder.output_lengths(torch.tensor([n])).tolist() == out_B.tolist()


def test_a_batchs_gradient_is_the_sum_of_its_utterances_gradients() -> None:
    encoder, (features_BTF, lengths_B) = make(subsampling="conv", norm="layer"), frames()

    def gradient(rows: slice) -> Tensor:
        encoder.zero_grad()
        log_probs_BTV, out_B = encoder(features_BTF[rows, : int(lengths_B[rows].max())], lengths_B[rows])
        for row_TV, n in zip(log_probs_BTV, out_B.tolist(), strict=True):
            row_TV[:n, 2].sum().backward(retain_graph=True)
        return torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])

    singles = sum(gradient(slice(b, b + 1)) for b in range(len(LENGTHS)))
    torch.testing.assert_close(gradient(slice(None)), singles, atol=1e-4, rtol=1e-4)


def test_masked_batch_norm_is_torchs_on_the_true_frames_alone() -> None:
    features_BTF, lengths_B = frames()
    inside_BT1 = (torch.arange(23) < lengths_B[:, None])[..., None]
    ours, theirs = MaskedBatchNorm(10), nn.BatchNorm1d(10)
    for _ in range(3):
        features_BTF = features_BTF * 1.5 + 0.3
        true_NF = features_BTF[inside_BT1[..., 0]]
        torch.testing.assert_close(ours(features_BTF, inside_BT1)[inside_BT1[..., 0]], theirs(true_NF))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(
        ours.eval()(features_BTF, inside_BT1)[inside_BT1[..., 0]], theirs.eval()(true_NF)
    )


def test_log_probs_are_float32_and_sum_to_one_under_autocast() -> None:
    for cell in CELLS:
        encoder = make(cell=cell, norm="batch", projection=8, subsampling="conv")
        with torch.autocast("cpu", torch.bfloat16):
            log_probs_BTV, _ = encoder(*frames())
        assert log_probs_BTV.dtype == torch.float32
        torch.testing.assert_close(log_probs_BTV.logsumexp(-1), torch.zeros(6, 8), atol=1e-5, rtol=0)
        torch.testing.assert_close(log_probs_BTV[0], encoder(*frames())[0][0], atol=0.1, rtol=0.1)


@pytest.mark.parametrize("value", [1.0, 5.0])
def test_the_forget_gate_starts_with_the_configured_bias(value: float) -> None:
    """An LSTM without input keeps sigmoid(bias) of its cell from one frame to the next."""
    run = runs(make(forget_bias=value))[3]
    with torch.no_grad():
        for name, weight in run.named_parameters():
            if "weight" in name:
                weight.zero_()
        run.get_parameter("bias_ih_l0")[:12] = -100.0  # input gate shut
        run.get_parameter("bias_hh_l0")[:12] = 0.0
        _, (_, cell_1BH) = run(torch.zeros(1, 1, 24), (torch.zeros(1, 1, 12), torch.ones(1, 1, 12)))
    torch.testing.assert_close(cell_1BH, torch.full((1, 1, 12), 1 / (1 + math.exp(-value))))


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_orthogonal_start_makes_the_matrix_of_every_gate_orthogonal(cell: str, gates: int) -> None:
    for run in runs(make(cell=cell, orthogonal=True)):
        for gate_HH in run.get_parameter("weight_hh_l0").chunk(gates):
            torch.testing.assert_close(gate_HH @ gate_HH.T, torch.eye(12), atol=1e-5, rtol=0)


def test_residual_passes_the_input_of_a_silent_layer() -> None:
    features_BTF, lengths_B = frames()
    shallow, deep = make(layers=1), make(layers=3, residual=True)
    missing = deep.load_state_dict(shallow.state_dict(), strict=False).missing_keys
    with torch.no_grad():
        for name in missing:
            deep.get_parameter(name).zero_()  # an LSTM of zeros gives zeros
    torch.testing.assert_close(deep(features_BTF, lengths_B)[0], shallow(features_BTF, lengths_B)[0])


def test_the_intermediate_output_reads_its_layer_only() -> None:
    encoder = make(layers=3, intermediate_layer=2)
    features_BTF, lengths_B = frames()
    last_BTV, middle_BTV, out_B = encoder.with_intermediate(features_BTF, lengths_B)
    plain_BTV, plain_B = encoder(features_BTF, lengths_B)
    assert torch.equal(last_BTV, plain_BTV) and torch.equal(out_B, plain_B)
    torch.testing.assert_close(middle_BTV.logsumexp(-1), torch.zeros(6, 8), atol=1e-5, rtol=0)
    middle_BTV[..., 1].sum().backward()
    reached = {name.split(".")[1] for name, p in encoder.named_parameters() if p.grad is not None}
    assert reached == {"0", "1", "weight", "bias"} and encoder.output.weight.grad is None
    with pytest.raises(ConfigError, match="intermediate_layer"):
        make().with_intermediate(features_BTF, lengths_B)


def test_dropout_acts_in_training_only() -> None:
    encoder, given = make(dropout=0.5), frames()
    assert torch.equal(encoder(*given)[0], encoder(*given)[0])
    encoder.train()
    assert not torch.equal(encoder(*given)[0], encoder(*given)[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"cell": "lsmt"}, {"norm": "group"}, {"subsampling": "pool"}, {"layers": 0}, {"width": 0},
        {"factor": 0}, {"projection": -1}, {"dropout": 1.0}, {"intermediate_layer": 2}, {"channels": 0},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        make(**wrong)
    with pytest.raises(ConfigError, match="outputs=1"):
        Encoder(SMALL, 10, 1)
