"""Operations of a segmentation network are those that torch's own counter sees."""

import pytest
import torch
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.segmentation import PyanNet
from torch.utils.flop_counter import FlopCounterMode

from speechexp.segmentation_flops import forward_flops, training_flops

WINDOWS, SAMPLES = 2, 9_123
PUBLISHED = {"lstm": {"hidden_size": 128, "num_layers": 4, "bidirectional": True, "dropout": 0.5}}
NETWORKS = {
    "two ways": {"lstm": {"hidden_size": 16, "num_layers": 3, "bidirectional": True}},
    "one way": {"lstm": {"hidden_size": 24, "num_layers": 2, "bidirectional": False}},
    "split": {"lstm": {"hidden_size": 16, "num_layers": 3, "bidirectional": True, "monolithic": False}},
    "no linear": {"lstm": {"hidden_size": 16, "num_layers": 1}, "linear": {"num_layers": 0}},
    "stride": {"lstm": {"hidden_size": 16, "num_layers": 1}, "sincnet": {"stride": 5}},
}


def network(settings: dict) -> PyanNet:
    torch.manual_seed(0)
    model = PyanNet(**settings)
    model.specifications = Specifications(
        problem=Problem.MULTI_LABEL_CLASSIFICATION, resolution=Resolution.FRAME, duration=5.0,
        classes=["1", "2", "3"], permutation_invariant=True,
    )  # fmt: skip
    model.build()
    return model.train()


def counted(model: PyanNet, backward: bool) -> int:
    # the counter sees into an LSTM of torch's own, not into oneDNN's
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        scores = model(torch.randn(WINDOWS, 1, SAMPLES))
        if backward:
            scores.sum().backward()
    return counter.get_total_flops() - filter_making(model, backward)


def filter_making(model: PyanNet, backward: bool) -> int:
    """Return what asteroid's making of the sinc filters takes, once a batch: it multiplies frequencies by times."""
    with FlopCounterMode(display=False) as counter:
        filters = model.sincnet.conv1d[0].filterbank.filters()
        if backward and filters.requires_grad:
            filters.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_forward_pass_is_counted_as_torch_counts_it(name):
    model = network(NETWORKS[name])
    assert forward_flops(model, WINDOWS, SAMPLES) == counted(model, False)


def first_steps(model: PyanNet) -> int:
    """Return what the counter sees less of: a direction's first step has a state of zeros that needs no gradient."""
    lstms = [model.lstm] if isinstance(model.lstm, torch.nn.LSTM) else list(model.lstm)
    directions = sum(each.num_layers * (2 if each.bidirectional else 1) for each in lstms)
    return directions * 2 * WINDOWS * 4 * lstms[0].hidden_size ** 2


@pytest.mark.parametrize("frozen", ["nothing", "sincnet", "lstm", "both"])
@pytest.mark.parametrize("name", ["two ways", "one way", "split"])
def test_a_training_step_is_counted_as_torch_counts_it(name, frozen):
    model = network(NETWORKS[name])
    for part in {"nothing": [], "both": ["sincnet", "lstm"]}.get(frozen, [frozen]):
        getattr(model, part).requires_grad_(False)
    less = 0 if frozen == "both" else first_steps(model)
    assert training_flops(model, WINDOWS, SAMPLES) == counted(model, True) + less


def test_the_published_network_takes_about_1_3_gflop_a_window_of_five_seconds():
    assert forward_flops(network(PUBLISHED), 1, 80_000) == pytest.approx(1.31e9, rel=0.01)


def test_a_network_that_is_not_known_has_no_count():
    assert forward_flops(torch.nn.Linear(2, 2), 1, 80_000) is None
    assert training_flops(torch.nn.Linear(2, 2), 1, 80_000) is None
