import numpy as np
import pytest
import torch

from speechexp.batch import AudioBatch, Clip
from speechexp.batches import DurationBatches
from speechexp.errors import UserError

RATE = 16_000
STEP = 3_200
BOUND = 48 * RATE
LENGTHS = np.random.default_rng(0).integers(2_000, 20 * RATE, 500)


def shuffled(
    seed: int = 1, position: tuple[int, int] = (0, 0), lengths: np.ndarray = LENGTHS
) -> DurationBatches:
    return DurationBatches(lengths, BOUND, STEP, seed, lambda: position)


@pytest.mark.parametrize("seed", [None, 1])
def test_each_clip_comes_once_an_epoch(seed: int | None) -> None:
    batches = list(DurationBatches(LENGTHS, BOUND, STEP, seed))

    assert sorted(index for batch in batches for index in batch) == list(range(len(LENGTHS)))


def test_padded_audio_stays_within_the_bound() -> None:
    batches = shuffled()

    for batch in batches:
        padded = batches.padded_length(LENGTHS[batch].max())
        assert len(batch) * padded <= BOUND


def test_clips_of_a_batch_are_padded_to_one_length() -> None:
    batches = shuffled()

    for batch in batches:
        assert len({batches.padded_length(length) for length in LENGTHS[batch].tolist()}) == 1


def test_padded_lengths_are_multiples_of_the_step_and_no_shorter_than_the_clip() -> None:
    batches = shuffled()

    for length in (1, STEP - 1, STEP, STEP + 1, 5 * STEP):
        padded = batches.padded_length(length)
        assert padded % STEP == 0
        assert length <= padded < length + STEP


def test_batches_are_as_full_as_the_bound_allows() -> None:
    lengths = np.full(100, 4 * RATE)

    assert [len(batch) for batch in shuffled(lengths=lengths)].count(12) == 8


def test_clip_longer_than_the_bound_makes_a_batch_of_its_own() -> None:
    lengths = np.array([60 * RATE, 60 * RATE, RATE])

    assert sorted(len(batch) for batch in shuffled(lengths=lengths)) == [1, 1, 1]


def test_same_seed_and_epoch_give_the_same_batches() -> None:
    assert list(shuffled(seed=5).epoch(3)) == list(shuffled(seed=5).epoch(3))


def test_another_seed_gives_other_batches() -> None:
    assert list(shuffled(seed=5).epoch(3)) != list(shuffled(seed=6).epoch(3))


def test_epochs_differ_in_the_order_of_batches_and_in_their_clips() -> None:
    first, second = list(shuffled().epoch(0)), list(shuffled().epoch(1))

    assert first != second
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}


def test_lengths_are_mixed_over_an_epoch() -> None:
    means = np.array([LENGTHS[batch].mean() for batch in list(shuffled().epoch(0))])

    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5


def test_every_epoch_has_as_many_batches_as_announced() -> None:
    batches = shuffled()

    assert {len(list(batches.epoch(number))) for number in range(5)} == {len(batches)}


def test_without_a_seed_clips_come_sorted_and_every_epoch_is_the_same() -> None:
    batches = DurationBatches(LENGTHS, BOUND, STEP)

    order = [index for batch in batches for index in batch]
    assert (np.diff(LENGTHS[order]) >= 0).all()
    assert list(batches.epoch(0)) == list(batches.epoch(7))


@pytest.mark.parametrize("place", [(0, 0), (0, 3), (2, 0), (2, 11)])
def test_going_on_gives_exactly_the_rest(place: tuple[int, int]) -> None:
    epoch, done = place

    assert list(shuffled(position=place)) == list(shuffled().epoch(epoch))[done:]


def test_position_behind_the_last_batch_is_the_epochs_start() -> None:
    """A checkpoint from an epoch's end names the next epoch, but still counts the batches of the last."""
    assert list(shuffled(position=(1, len(shuffled())))) == list(shuffled().epoch(1))


def test_position_is_asked_for_at_each_epoch() -> None:
    places = iter([(0, 0), (1, 2)])
    batches = DurationBatches(LENGTHS, BOUND, STEP, 1, lambda: next(places))

    assert list(batches) == list(shuffled().epoch(0))
    assert list(batches) == list(shuffled().epoch(1))[2:]


def shares(world: int, seed: int | None = 1, lengths: np.ndarray = LENGTHS) -> list[DurationBatches]:
    """Return what each of some processes draws from."""
    return [DurationBatches(lengths, BOUND, STEP, seed, rank=rank, world_size=world) for rank in range(world)]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("seed", [None, 1])
def test_processes_together_cover_each_clip_once(world: int, seed: int | None) -> None:
    for epoch in range(2):
        drawn = [index for share in shares(world, seed) for batch in share.epoch(epoch) for index in batch]
        assert sorted(drawn) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_take_equally_many_steps_in_training(world: int) -> None:
    assert len({len(share) for share in shares(world)}) == 1
    assert len({len(list(share.epoch(4))) for share in shares(world)}) == 1


def test_processes_train_on_like_lengths_at_each_step() -> None:
    a, b = (list(share.epoch(0)) for share in shares(2))
    seconds = [
        (LENGTHS[one].max() / RATE, LENGTHS[other].max() / RATE) for one, other in zip(a, b, strict=True)
    ]

    assert np.median([abs(one - other) for one, other in seconds]) < STEP / RATE


@pytest.mark.parametrize("place", [(0, 3), (2, 11)])
def test_each_process_goes_on_with_its_own_rest(place: tuple[int, int]) -> None:
    epoch, done = place
    for rank, share in enumerate(shares(3)):
        resumed = DurationBatches(LENGTHS, BOUND, STEP, 1, lambda: place, rank, 3)
        assert list(resumed) == list(share.epoch(epoch))[done:]


def test_batches_are_halved_until_every_process_has_one() -> None:
    lengths = np.full(7, RATE)  # one batch would hold them all

    drawn = [list(share) for share in shares(3, lengths=lengths)]
    assert sorted(len(batch) for batches in drawn for batch in batches) == [2, 2, 3]


def test_clips_that_cannot_be_shared_evenly_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"5 training clips in 5 batches can't be shared evenly by 3 processes"
    ):
        shares(3, lengths=np.full(5, 60 * RATE))


def test_no_clips_make_no_batches() -> None:
    batches = DurationBatches(np.zeros(0, np.int64), BOUND, STEP, 1)

    assert list(batches) == []
    assert len(batches) == 0


# ----------------------------------------------------------------------------------------------- AudioBatch


def a_clip(samples: list[int], target: list[int]) -> Clip:
    return Clip("a", np.array(samples, np.int16), "x", target, {})


def test_collated_audio_is_scaled_and_zero_behind_each_clip() -> None:
    batch = AudioBatch.collate([a_clip([16384, -32768, 8192], [3]), a_clip([-16384], [4, 5])], 4, RATE)

    assert batch.audio.tolist() == [[0.5, -1.0, 0.25, 0.0], [-0.5, 0.0, 0.0, 0.0]]
    assert batch.lengths.tolist() == [3, 1]


def test_collated_targets_are_zero_behind_each_label() -> None:
    batch = AudioBatch.collate([a_clip([1], [3]), a_clip([1], [4, 5])], 4, RATE)

    assert batch.targets.tolist() == [[3, 0], [4, 5]]
    assert batch.target_lengths.tolist() == [1, 2]


def test_seconds_count_true_audio_and_the_padding_share_the_rest() -> None:
    batch = AudioBatch.collate([a_clip([1] * 8, [3]), a_clip([1] * 4, [3])], 8, 4)

    assert batch.audio_seconds == 3.0
    assert batch.padding_share == 0.25


def test_moved_batch_keeps_everything() -> None:
    batch = AudioBatch.collate([a_clip([1, 2], [3])], 4, RATE)
    moved = batch.to("meta")

    assert moved.audio.device.type == moved.target_lengths.device.type == "meta"
    assert moved.clips is batch.clips


def test_audio_without_a_row_for_each_length_raises() -> None:
    with pytest.raises(ValueError, match=r"must be \(batch, samples\)"):
        AudioBatch(torch.zeros(2, 4), torch.tensor([4]), torch.zeros(1, 1), torch.tensor([1]), [4], [], 0.0)
