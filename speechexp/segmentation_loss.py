"""The permutation-invariant loss of a segmentation network, computed without reading from the device."""

import itertools
from typing import Any, Self

import torch
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.utils.powerset import Powerset
from torch import nn
from torch.nn import functional

from speechexp.errors import UserError
from speechexp.segmentation_targets import FrameGrid

_MOST_SPEAKERS = 5  # 120 permutations, each tried on every batch


def network_logits(network: Any, audio: torch.Tensor) -> torch.Tensor:
    """Return what a pyannote ``Model`` computes before its last activation, ``(batch, frames, outputs)``.

    In 16 bits a sigmoid rounds to 0 and 1 and has no gradient left there; logits have one.

    Args:
        network: Whose ``activation`` comes last.
        audio: ``(batch, samples)``.
    """
    activation = network.activation
    network.activation = nn.Identity()
    try:
        logits: torch.Tensor = network(audio[:, None])
    finally:
        network.activation = activation
    return logits


def to_activity(bits: torch.Tensor, speakers: int) -> torch.Tensor:
    """Return ``(batch, frames, speakers)`` bool of targets as ``frame_targets`` writes them, ``(batch, frames)``."""
    return ((bits[..., None] >> torch.arange(speakers, device=bits.device)) & 1).bool()


def valid_frames(lengths: torch.Tensor, grid: FrameGrid, sample_rate: int) -> torch.Tensor:
    """Return ``(batch, frames)`` bool, whether a frame's centre lies in its clip's audio.

    Args:
        lengths: ``(batch,)`` in samples.
        grid: The network's frames in the padded audio.
        sample_rate: In Hz.
    """
    places = torch.arange(grid.count, dtype=torch.float32, device=lengths.device)
    # in samples, where 32 bits are exact
    centres = places * (grid.step * sample_rate) + (grid.start + grid.duration / 2) * sample_rate
    return centres < lengths[:, None]


class SegmentationLoss(nn.Module):
    """The loss of the best assignment of the network's outputs to the speakers of a clip (PIT, Yu et al. 2017).

    All assignments are tried on the device, and the loss itself tells which is best, as in end-to-end diarization
    (Fujita et al. 2019). pyannote assigns by the squared error of the scores (of the most likely class, for a
    powerset), which is read back and solved on the host; its loss is therefore never below this one.

    A network gives one sigmoid for each speaker, with the binary cross-entropy averaged over speakers and frames, or a
    softmax over the sets of speakers (Plaquet and Bredin 2023), with the cross-entropy averaged over frames. Where more
    speak at once than the largest set has, any of them may make up the set: their probabilities add up.

    Symbols: B clips, T frames, K speakers, P permutations.

    Args:
        speakers: K, the speakers that the network tells apart in a window.
        powerset_max_classes: The largest set of a powerset; None for sigmoids.

    Raises:
        UserError: There are too many speakers to try all assignments.
    """

    permutations: torch.Tensor
    allowed: torch.Tensor
    permuted_sets: torch.Tensor

    def __init__(self, speakers: int, powerset_max_classes: int | None = None) -> None:
        super().__init__()
        if speakers > _MOST_SPEAKERS:
            raise UserError(
                f"The segmentation network tells {speakers} speakers apart in a window; at most "
                f"{_MOST_SPEAKERS} can be trained and scored here. Use a network such as pyannote/segmentation-3.0, "
                "which has 3."
            )
        self.speakers = speakers
        self.is_powerset = powerset_max_classes is not None
        orders = list(itertools.permutations(range(speakers)))
        self._keep("permutations", torch.tensor(orders))
        if powerset_max_classes is not None:
            mapping = Powerset(speakers, powerset_max_classes).mapping
            self._keep("allowed", _allowed(mapping, speakers))
            sets = [
                [sum(1 << k for k, j in enumerate(order) if bits >> j & 1) for bits in range(1 << speakers)]
                for order in orders
            ]
            self._keep("permuted_sets", torch.tensor(sets))

    def _keep(self, name: str, table: torch.Tensor) -> None:
        self.register_buffer(name, table, persistent=False)

    @classmethod
    def of(cls, specifications: Specifications) -> Self:
        """Return the loss of the network with these specifications.

        Raises:
            UserError: The network is not one that tells speakers apart, or tells too many.
        """
        if (
            not specifications.permutation_invariant
            or specifications.resolution != Resolution.FRAME
            or specifications.problem == Problem.BINARY_CLASSIFICATION
        ):
            raise UserError(
                f"The segmentation network solves {specifications.problem.name} with "
                f"permutation_invariant={specifications.permutation_invariant}; to be trained it must tell speakers "
                "apart in frames, as pyannote/segmentation-3.0 does. Name such a network."
            )
        return cls(len(specifications.classes or ()), specifications.powerset_max_classes)

    def forward(
        self, logits: torch.Tensor, bits: torch.Tensor, valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of each clip, ``(B,)`` in nats a frame, and for sigmoids a speaker, too.

        Args:
            logits: ``(B, T, K)`` or ``(B, T, sets)``, as `network_logits` gives them; of a powerset the network's own
                output does as well.
            bits: ``(B, T)``, as ``frame_targets`` writes them.
            valid: ``(B, T)`` bool, the frames that count; None for all.
        """
        if logits.shape[:2] != bits.shape:
            raise ValueError(
                f"`bits` must be {tuple(logits.shape[:2])}, as `logits` are, but is {tuple(bits.shape)} instead."
            )
        weights = _weights(valid, bits)
        costs = self._powerset_costs if self.is_powerset else self._sigmoid_costs
        return costs(logits.float(), bits, weights).min(dim=1).values

    def _sigmoid_costs(self, logits: torch.Tensor, bits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the loss of each permutation, ``(B, P)``."""
        shape = (*logits.shape, self.speakers)
        activity = to_activity(bits, self.speakers).float()
        losses = functional.binary_cross_entropy_with_logits(
            logits[..., None].expand(shape), activity[..., None, :].expand(shape), reduction="none"
        )
        pairs = (losses * weights[..., None, None]).sum(
            1
        )  # a matrix product would be rounded to TF32 or to 16 bits
        return self._over_permutations(pairs).mean(-1)

    def _powerset_costs(
        self, logits: torch.Tensor, bits: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of each permutation, ``(B, P)``."""
        log_probabilities = functional.log_softmax(logits, dim=-1)
        # (B, T, 2^K): the loss of a frame, whatever speakers are in it
        losses = -(log_probabilities[..., None, :] + self.allowed).logsumexp(-1)
        sets = self.permuted_sets[:, bits].permute(1, 2, 0)  # (B, T, P)
        return (losses.gather(2, sets) * weights[..., None]).sum(1)

    def _over_permutations(self, pairs: torch.Tensor) -> torch.Tensor:
        """Return ``(B, P, K)``, of ``(B, K, K)`` each output's with the speaker that a permutation gives it."""
        return pairs[:, torch.arange(self.speakers, device=pairs.device), self.permutations]


def _weights(valid: torch.Tensor | None, bits: torch.Tensor) -> torch.Tensor:
    """Return ``(B, T)``, each clip's summing up to one."""
    counted = torch.ones_like(bits, dtype=torch.float32) if valid is None else valid.float()
    return counted / counted.sum(1, keepdim=True).clamp(min=1)


def _allowed(mapping: torch.Tensor, speakers: int) -> torch.Tensor:
    """Return ``(2^K, sets)``: 0 where a set may stand for the speakers of a frame, -inf where it may not."""
    sizes = mapping.sum(1)
    activity = to_activity(torch.arange(1 << speakers), speakers).float()
    held = activity @ mapping.T  # how many of a set's speakers are active
    fits = (held == sizes) & (sizes == activity.sum(1, keepdim=True).clamp(max=float(sizes.max())))
    return torch.zeros(fits.shape).masked_fill(~fits, -torch.inf)
