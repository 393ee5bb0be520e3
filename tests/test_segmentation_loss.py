"""The loss of a segmentation network: pyannote's own where the assignment is clear, the best of all otherwise."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.segmentation import PyanNet
from pyannote.audio.utils.loss import binary_cross_entropy, nll_loss
from pyannote.audio.utils.permutation import permutate
from pyannote.audio.utils.powerset import Powerset
from torch.utils._python_dispatch import TorchDispatchMode

from speechexp.errors import UserError
from speechexp.segmentation_loss import SegmentationLoss, network_logits, to_activity, valid_frames
from speechexp.segmentation_targets import FrameGrid, grid_of

B, T, K = 5, 40, 3
KINDS = {"sigmoid": None, "powerset": 2}
OUTPUTS = {"sigmoid": 3, "powerset": 7}
SPECIFICATIONS = {
    "sigmoid": Specifications(
        problem=Problem.MULTI_LABEL_CLASSIFICATION, resolution=Resolution.FRAME, duration=5.0,
        classes=["1", "2", "3"], permutation_invariant=True,
    ),
    "powerset": Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION, resolution=Resolution.FRAME, duration=5.0,
        classes=["1", "2", "3"], powerset_max_classes=2, permutation_invariant=True,
    ),
}  # fmt: skip


def drawn_bits(at_once: int = 3, seed: int = 0) -> torch.Tensor:
    bits = torch.randint(0, 2**K, (B, T), generator=torch.Generator().manual_seed(seed))
    crowded = to_activity(bits, K).sum(-1) > at_once
    return bits.masked_fill(crowded, 1)


def drawn_logits(kind: str, scale: float = 1.0, seed: int = 1) -> torch.Tensor:
    return scale * torch.randn(B, T, OUTPUTS[kind], generator=torch.Generator().manual_seed(seed))


def near(bits: torch.Tensor, kind: str) -> torch.Tensor:
    """Return logits that say what `bits` say, with the speakers in another order and some noise."""
    activity = to_activity(bits, K)[..., [2, 0, 1]].float()
    if kind == "sigmoid":
        return 6 * activity - 3 + drawn_logits(kind)
    return 5 * Powerset(K, 2).to_powerset(activity).float() + drawn_logits(kind)


def permuted(bits: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    activity = to_activity(bits, K)[..., list(order)].long()
    return (activity << torch.arange(K)).sum(-1)


def sets_loss(log_probabilities: np.ndarray, active: frozenset[int]) -> float:
    """Return the loss of a frame of a powerset."""
    sets = [frozenset(each) for size in range(3) for each in itertools.combinations(range(K), size)]
    fitting = [i for i, each in enumerate(sets) if each <= active and len(each) == min(len(active), 2)]
    return float(-np.log(np.exp(log_probabilities[fitting]).sum()))


def by_hand(
    kind: str, logits: torch.Tensor, bits: torch.Tensor, valid: torch.Tensor | None = None
) -> list[float]:
    losses = []
    for b in range(len(bits)):
        frames = [t for t in range(bits.shape[1]) if valid is None or valid[b, t]]
        per_order = []
        for order in itertools.permutations(range(K)):
            terms = []
            for t in frames:
                speakers = [int(bits[b, t]) >> order[k] & 1 for k in range(K)]
                if kind == "sigmoid":
                    p = 1 / (1 + np.exp(-logits[b, t].double().numpy()))
                    terms.append(np.mean([-np.log(p[k] if speakers[k] else 1 - p[k]) for k in range(K)]))
                else:
                    q = logits[b, t].double().log_softmax(-1).numpy()
                    terms.append(sets_loss(q, frozenset(k for k in range(K) if speakers[k])))
            per_order.append(np.mean(terms))
        losses.append(min(per_order))
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_loss_of_the_best_of_all_assignments(kind: str) -> None:
    logits, bits = drawn_logits(kind), drawn_bits()
    valid = torch.arange(T) < torch.tensor([T, 31, 12, 1, T])[:, None]
    loss = SegmentationLoss(K, KINDS[kind])
    assert loss(logits, bits).tolist() == pytest.approx(by_hand(kind, logits, bits), rel=1e-5)
    assert loss(logits, bits, valid).tolist() == pytest.approx(by_hand(kind, logits, bits, valid), rel=1e-5)


@pytest.mark.parametrize("noise", [False, True], ids=["clear", "unclear"])
def test_sigmoids_have_pyannotes_loss_where_the_assignment_is_clear(noise: bool) -> None:
    bits = drawn_bits()
    logits = drawn_logits("sigmoid", 2.0) if noise else near(bits, "sigmoid")
    target, _ = permutate(logits.sigmoid(), to_activity(bits, K).float())
    theirs = float(binary_cross_entropy(logits.sigmoid(), target))
    ours = float(SegmentationLoss(K)(logits, bits).mean())
    assert ours == pytest.approx(theirs, rel=1e-5) if not noise else ours <= theirs + 1e-6


@pytest.mark.parametrize("noise", [False, True], ids=["clear", "unclear"])
def test_a_powerset_has_pyannotes_loss_where_the_assignment_is_clear(noise: bool) -> None:
    bits, powerset = drawn_bits(at_once=2), Powerset(K, 2)
    logits = drawn_logits("powerset", 2.0) if noise else near(bits, "powerset")
    prediction = logits.log_softmax(-1)
    target, _ = permutate(powerset.to_multilabel(prediction), to_activity(bits, K).float())
    theirs = float(nll_loss(prediction, powerset.to_powerset(target).argmax(-1)))
    ours = float(SegmentationLoss(K, 2)(prediction, bits).mean())
    assert ours == pytest.approx(theirs, rel=1e-5) if not noise else ours <= theirs + 1e-6


@pytest.mark.parametrize("order", list(itertools.permutations(range(K))))
@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_speakers_changes_nothing(kind: str, order: tuple[int, ...]) -> None:
    logits, bits, loss = drawn_logits(kind), drawn_bits(), SegmentationLoss(K, KINDS[kind])
    assert torch.allclose(loss(logits, bits), loss(logits, permuted(bits, order)), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_behind_the_audio_changes_nothing(kind: str) -> None:
    logits, bits, loss = drawn_logits(kind), drawn_bits(), SegmentationLoss(K, KINDS[kind])
    grid = FrameGrid(0.0, 0.1, 0.2, T)
    valid = valid_frames(torch.tensor([32_000]).expand(B), grid, 16_000)  # 2 s: frames with centres .1 to 1.9
    assert valid.sum(1).tolist() == [19] * B
    others = torch.where(valid, bits, 7 - bits), torch.where(valid[..., None], logits, -logits)
    assert torch.equal(loss(logits, bits, valid), loss(others[1], others[0], valid))


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_without_any_frame_has_no_loss(kind: str) -> None:
    logits = drawn_logits(kind).requires_grad_()
    loss = SegmentationLoss(K, KINDS[kind])(logits, drawn_bits(), torch.zeros(B, T, dtype=torch.bool))
    loss.sum().backward()
    assert loss.tolist() == [0.0] * B
    assert logits.grad is not None and logits.grad.abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_are_certain_and_wrong_can_still_be_learned(kind: str) -> None:
    logits = torch.zeros(1, T, OUTPUTS[kind])
    logits[..., 0] = 60.0  # a sigmoid in 32 bits is exactly 1 there
    logits.requires_grad_()
    bits = torch.full((1, T), 7 if kind == "powerset" else 0)
    loss = SegmentationLoss(K, KINDS[kind])(logits, bits)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert logits.grad is not None and float(logits.grad[..., 0].min()) > 0.2 / T


@pytest.mark.parametrize("kind", KINDS)
def test_16_bits_round_the_network_not_the_loss(kind: str) -> None:
    logits, bits, loss = drawn_logits(kind, 3.0).bfloat16(), drawn_bits(), SegmentationLoss(K, KINDS[kind])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss(logits, bits)
    assert rounded.dtype == torch.float32 and torch.equal(rounded, loss(logits.float(), bits))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_loss(kind: str) -> None:
    logits, bits = drawn_logits(kind)[:2, :6].double().requires_grad_(), drawn_bits()[:2, :6]
    loss = SegmentationLoss(K, KINDS[kind])
    loss(logits, bits).sum().backward()
    moved = logits.detach().clone()
    moved[1, 3, 2] += 1e-2
    moved_back = logits.detach().clone()
    moved_back[1, 3, 2] -= 1e-2
    slope = float((loss(moved, bits) - loss(moved_back, bits)).sum()) / 2e-2
    assert logits.grad is not None and float(logits.grad[1, 3, 2]) == pytest.approx(slope, rel=1e-2)


class Reads(TorchDispatchMode):
    """Lists the operators that need a tensor's values on the host."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in func.__name__ for name in self.NAMES):
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_from_the_device(kind: str) -> None:
    logits, bits, loss = drawn_logits(kind).requires_grad_(), drawn_bits(), SegmentationLoss(K, KINDS[kind])
    with Reads() as reads:
        valid = valid_frames(torch.full((B,), 9_000), FrameGrid(0.0, 0.016875, 0.0619375, T), 16_000)
        loss(logits, bits, valid).mean().backward()
    assert reads.found == []

    # tensors without values: what would read one raises, and one left on the host is refused
    meta = loss.to("meta")(logits.detach().to("meta").requires_grad_(), bits.to("meta"), valid.to("meta"))
    assert meta.device.type == "meta" and meta.shape == (B,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_networks_logits_are_those_of_its_scores(kind: str) -> None:
    torch.manual_seed(0)
    network = PyanNet(lstm={"hidden_size": 8, "num_layers": 1}, linear={"hidden_size": 8, "num_layers": 1})
    network.specifications = SPECIFICATIONS[kind]
    network.build()
    network.eval()
    audio = torch.randn(2, 16_000)
    logits, scores = network_logits(network, audio), network(audio[:, None])
    activated = logits.sigmoid() if kind == "sigmoid" else logits.log_softmax(-1)
    assert torch.equal(activated, scores)
    assert logits.shape[1] == grid_of(network, 16_000).count
    loss = SegmentationLoss.of(network.specifications)
    loss(logits, torch.ones(logits.shape[:2], dtype=torch.long)).mean().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    assert loss.state_dict() == {}  # a checkpoint has the network's weights only


def test_a_network_that_cannot_be_trained_here_is_named() -> None:
    with pytest.raises(UserError, match="tells 6 speakers apart"):
        SegmentationLoss(6)
    activity = Specifications(
        problem=Problem.BINARY_CLASSIFICATION, resolution=Resolution.FRAME, duration=5.0, classes=["speech"]
    )
    with pytest.raises(UserError, match="BINARY_CLASSIFICATION"):
        SegmentationLoss.of(activity)


def test_targets_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(5, 40\)"):
        SegmentationLoss(K)(drawn_logits("sigmoid"), drawn_bits()[:, :39])
