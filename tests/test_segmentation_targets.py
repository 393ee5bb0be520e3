"""Who is active in each frame of a stretch, as the segmentation network learns it."""

import time

import numpy as np
import pytest
import torch

from speechexp.segmentation_targets import FrameGrid, TurnIndex, frame_targets, grid_of
from speechexp.turns import Turn

# PyanNet's: a frame every 16.875 ms
GRID = FrameGrid(start=0.0, step=0.016875, duration=0.0619375, count=293)
COARSE = FrameGrid(start=0.0, step=1.0, duration=1.0, count=5)  # centres at .5, 1.5, …


def targets(turns: list[Turn], start: float, grid: FrameGrid = COARSE, speakers: int = 3) -> list[int]:
    return frame_targets(TurnIndex.of(turns), start, grid, speakers).tolist()


def random_turns(count: int, seconds: float, speakers: int, seed: int = 0) -> list[Turn]:
    random = np.random.default_rng(seed)
    starts, lengths = random.uniform(0, seconds, count), random.exponential(2.0, count) + 0.01
    names = random.integers(speakers, size=count)
    return [Turn(s, s + d, f"s{n}") for s, d, n in zip(starts, lengths, names, strict=True)]


def by_hand(turns: list[Turn], start: float, grid: FrameGrid, speakers: int) -> list[int]:
    active = {
        name: [
            any(t.start <= start + c < t.end for t in turns if t.speaker == name)
            for c in grid.centres.tolist()
        ]
        for name in sorted({turn.speaker for turn in turns})
    }
    order = sorted(active, key=lambda name: -sum(active[name]))[:speakers]
    return [sum(active[name][i] << k for k, name in enumerate(order)) for i in range(grid.count)]


def test_a_frame_is_active_by_its_centre() -> None:
    assert targets([Turn(11.4, 13.4, "a")], 10.0) == [0, 1, 1, 0, 0]
    assert targets([Turn(11.5, 13.5, "a")], 10.0) == [0, 1, 1, 0, 0]  # a turn's end is no longer of it
    assert targets([Turn(14.5, 20, "a")], 10.0) == [0, 0, 0, 0, 1]


def test_the_first_bit_is_the_most_talkative_speakers_in_the_stretch() -> None:
    turns = [Turn(0, 9, "a"), Turn(10, 11, "a"), Turn(11, 14, "b"), Turn(13, 15, "c")]
    assert targets(turns, 10.0) == [4, 1, 1, 3, 2]


def test_the_least_talkative_beyond_the_networks_speakers_are_left_out() -> None:
    turns = [Turn(0, 1, "a"), Turn(1, 4, "b"), Turn(3, 5, "c")]
    assert targets(turns, 0.0, speakers=2) == [0, 1, 1, 3, 2]


def test_a_turn_that_began_long_before_the_stretch_counts() -> None:
    turns = [Turn(0, 100, "long"), *(Turn(i, i + 0.5, "short") for i in range(1, 40))]
    assert targets(turns, 50.0) == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "turns", [[], [Turn(0, 1, "a")], [Turn(70, 80, "a")]], ids=["none", "before", "behind"]
)
def test_a_stretch_of_silence_is_empty(turns: list[Turn]) -> None:
    assert targets(turns, 50.0) == [0] * 5


@pytest.mark.parametrize("start", [-2.0, 0.0, 17.3, 44.1, 58.0])
@pytest.mark.parametrize("count", [20, 300])
def test_random_turns_are_targeted_as_by_hand(start: float, count: int) -> None:
    turns = random_turns(count, 60, 6)
    assert targets(turns, start, GRID, 4) == by_hand(turns, start, GRID, 4)


def test_thousands_of_turns_do_not_hold_up_the_loader() -> None:
    index = TurnIndex.of(random_turns(20_000, 20_000, 8))
    began = time.perf_counter()
    for start in np.linspace(0, 19_990, 500):
        frame_targets(index, start, GRID, 3)
    assert (time.perf_counter() - began) / 500 < 2e-3  # seconds a clip; 1e-4 where nothing else runs


def test_the_grid_is_where_the_network_looks() -> None:
    from pyannote.audio.models.segmentation import PyanNet

    network = PyanNet()
    grid = grid_of(network, 80_000)
    assert (grid.start, grid.step, grid.duration, grid.count) == (0.0, 0.016875, 0.0619375, 293)
    # A change of the audio far from a frame changes it only through the norms; a single sample moves its own frame.
    sincnet = network.sincnet.eval()
    for norm in (sincnet.wav_norm1d, *sincnet.norm1d):
        norm.register_forward_hook(lambda module, inputs, output: inputs[0])
    torch.manual_seed(0)
    audio = torch.randn(1, 1, 80_000)
    audio.requires_grad_()
    sincnet(audio)[0, :, 100].abs().sum().backward()
    assert audio.grad is not None
    seen = audio.grad[0, 0].nonzero().flatten() / 16_000
    assert seen.min() >= grid.centres[100] - grid.duration / 2
    assert seen.max() < grid.centres[100] + grid.duration / 2
    assert seen.max() - seen.min() > 0.8 * grid.duration  # which pooling narrows, by the maxima it takes
