"""Fine-tuning: what is taken over from a bundle, what is new, and what stays."""

import dataclasses

import pytest
import torch

from asr.encoder import EncoderConfig
from asr.errors import ConfigError
from asr.features import FeaturesConfig
from asr.recognizer import Recognizer
from asr.text import Alphabet
from asr.training.finetuning import freeze, moved_back, start_from

FEATURES = FeaturesConfig(rate_hz=8000, bands=24)
ENCODER = EncoderConfig(layers=2, width=8, factor=2)


def build(symbols: str, *, seed: int, **changes: object) -> Recognizer:
    features = dataclasses.replace(FEATURES, edge_s=changes.pop("edge_s", 0.0))  # type: ignore[arg-type]
    encoder = dataclasses.replace(ENCODER, **changes)  # type: ignore[arg-type]
    return Recognizer.build(Alphabet(list(symbols)), features=features, encoder=encoder, seed=seed)


def test_only_the_rows_of_new_symbols_are_new(tmp_path):
    base, new, fresh = build(" abc", seed=1), build(" xcb", seed=2, dropout=0.4), build(" xcb", seed=2)
    count, taken = start_from(new, str(base.save(tmp_path)))
    assert count == 4 and taken["output.bias"].isnan().tolist() == [False, False, True, False, False]
    mine, theirs, untouched = (r.encoder.state_dict() for r in (new, base, fresh))
    for name in mine:
        if not name.startswith("output"):
            assert torch.equal(mine[name], theirs[name]), name
    for name in ("output.weight", "output.bias"):
        for ours, other in ((0, 0), (1, 1), (3, 4), (4, 3)):  # blank, space, c, b
            assert torch.equal(mine[name][ours], theirs[name][other])
        assert torch.equal(mine[name][2], untouched[name][2])


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_weights_move_back_to_where_they_started(share, tmp_path):
    base, tuned, after = build(" abc", seed=1), build(" xcb", seed=2), build(" xcb", seed=2)
    _, taken = start_from(after, str(base.save(tmp_path)))
    begun, before = base.encoder.state_dict(), tuned.encoder.state_dict()
    found = moved_back(before, taken, share)
    for name in found:
        if not name.startswith("output"):
            expected = (1 - share) * before[name] + share * begun[name]
            torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-7)
    for name in ("output.weight", "output.bias"):
        assert torch.equal(found[name][2], before[name][2])  # x
        expected = (1 - share) * before[name][3] + share * begun[name][4]
        torch.testing.assert_close(found[name][3], expected, rtol=0, atol=1e-7)


def test_a_model_that_has_diverged_is_no_beginning(tmp_path):
    base = build(" abc", seed=1)
    with torch.no_grad():
        base.encoder.output.bias[1] = torch.nan
    with pytest.raises(ConfigError, match="it has diverged"):
        start_from(build(" abc", seed=2), str(base.save(tmp_path)))


def test_another_shape_is_refused_with_the_settings_to_give(tmp_path):
    base = build(" abc", seed=1)
    start_from(build(" abc", seed=1, edge_s=0.12), str(base.save(tmp_path)))
    with pytest.raises(ConfigError, match=r"add encoder\.layers=2, or begin anew"):
        start_from(build(" abc", seed=1, layers=3), str(base.save(tmp_path)))


def test_frozen_parameters_are_chosen_by_name():
    encoder = build(" abc", seed=1).encoder
    freeze(encoder, ["layers.0.*"])
    for name, p in encoder.named_parameters():
        assert p.requires_grad != name.startswith("layers.0."), name
    with pytest.raises(ConfigError, match=r"'layer\.1' matches no parameter; there are layers\.0"):
        freeze(encoder, ["layer.1"])
    with pytest.raises(ConfigError, match="leaves nothing"):
        freeze(encoder, ["*"])
