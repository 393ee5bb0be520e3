"""Rates by depth: which weights of either network get which rate and which decay."""

from typing import Any

import pytest
import torch
from helpers_ast import FEW, TINY
from helpers_models import recogniser

from speechexp.ast_network import build_network
from speechexp.errors import UserError
from speechexp.optim import adamw, cosine


class Tagger(torch.nn.Module):
    """Holds the network as a module of ours does."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        network = {**TINY, "num_hidden_layers": layers}
        self.network = build_network(FEW, False, network, window_seconds=0.5).network


def groups_of(module: torch.nn.Module, **settings: Any) -> dict[str, tuple[float, float]]:
    """Return each weight's rate and decay, for a peak rate of 1."""
    optimizer = adamw(module, lr=1.0, weight_decay=0.1, **settings)
    found = {
        id(weight): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
    return {name: found[id(weight)] for name, weight in module.named_parameters() if weight.requires_grad}


AST = "network.audio_spectrogram_transformer"


def test_of_an_ast_matrices_decay_but_positions_tokens_and_the_head_do_not() -> None:
    found = groups_of(Tagger())

    assert {rate for rate, _ in found.values()} == {1.0}
    for name in (
        f"{AST}.layers.0.attention.q_proj.weight",
        f"{AST}.embeddings.patch_embeddings.projection.weight",
    ):
        assert found[name][1] == 0.1
    spared = [
        f"{AST}.embeddings.{part}" for part in ("position_embeddings", "cls_token", "distillation_token")
    ]
    spared += ["network.classifier.dense.weight", f"{AST}.layers.0.mlp.fc1.bias", f"{AST}.layernorm.weight"]
    assert all(found[name][1] == 0.0 for name in spared)


def test_with_layer_decay_the_rate_falls_from_the_top_layer_to_the_embeddings() -> None:
    found = groups_of(Tagger(), layer_decay=0.5)
    rates = [found[f"{AST}.layers.{number}.mlp.fc1.weight"][0] for number in range(3)]

    assert rates == [0.25, 0.5, 1.0]
    assert found[f"{AST}.layers.0.layernorm_after.bias"] == (0.25, 0.0)
    for part in ("cls_token", "position_embeddings", "patch_embeddings.projection.weight"):
        assert found[f"{AST}.embeddings.{part}"][0] == 0.125
    assert found[f"{AST}.layernorm.weight"][0] == 1.0  # above all layers
    assert found["network.classifier.dense.weight"][0] == 1.0


def test_of_a_wav2vec2_too() -> None:
    found = groups_of(recogniser(), layer_decay=0.5, head_lr_factor=10.0)
    body = "network.wav2vec2"

    assert found[f"{body}.encoder.layers.1.attention.q_proj.weight"] == (1.0, 0.1)
    assert found[f"{body}.encoder.layers.0.attention.q_proj.weight"] == (0.5, 0.1)
    assert found[f"{body}.feature_extractor.conv_layers.2.conv.weight"] == (0.25, 0.1)
    assert found[f"{body}.feature_projection.projection.weight"] == (0.25, 0.1)
    assert found["network.lm_head.weight"] == (10.0, 0.0)


def test_the_head_has_a_rate_of_its_own_and_the_rest_keeps_its_rate() -> None:
    found = groups_of(Tagger(), head_lr_factor=10.0)

    for name, (rate, _) in found.items():
        assert rate == (10.0 if ".classifier." in name else 1.0), name


@pytest.mark.parametrize(
    "settings", [{}, {"layer_decay": 0.5, "head_lr_factor": 10.0}], ids=["plain", "both"]
)
def test_the_first_group_has_the_peak_rate_and_a_schedule_scales_all(settings: dict[str, float]) -> None:
    module = Tagger()
    for weight in module.network.audio_spectrogram_transformer.layers[-1].parameters():
        weight.requires_grad = False  # even where nothing has that rate
    optimizer = adamw(module, lr=2e-3, **settings)
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = cosine(optimizer, 10)
    for _ in range(5):
        optimizer.step()
        schedule.step()

    assert peaks[0] == 2e-3
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([peak / 2 for peak in peaks])


def test_by_default_there_are_the_two_groups_that_older_checkpoints_have() -> None:
    for module in (Tagger(), recogniser()):
        assert [group["weight_decay"] for group in adamw(module, 1e-3, weight_decay=0.1).param_groups] == [
            0.1,
            0,
        ]


@pytest.mark.parametrize(
    "settings",
    [
        *({"layer_decay": value} for value in (0.0, 1.1, -1.0, float("nan"))),
        *({"head_lr_factor": value} for value in (0.0, -1.0, float("inf"), float("nan"))),
    ],
    ids=str,
)
def test_factors_that_can_not_be_are_refused(settings: dict[str, float]) -> None:
    name, value = next(iter(settings.items()))
    with pytest.raises(UserError, match=rf"model\.optimizer\.{name}={value} must be above 0"):
        adamw(torch.nn.Linear(2, 2), 1e-3, **settings)
