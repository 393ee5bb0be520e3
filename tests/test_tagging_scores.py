import numpy as np
import pytest
import torch

from speechexp.tagging_metrics import average_precision, mean_over_present
from speechexp.tagging_scores import TagScores

GENERATOR = torch.Generator().manual_seed(0)
TARGETS = torch.rand(100, 6, generator=GENERATOR) < torch.tensor([0.0, 0.05, 0.1, 0.2, 0.4, 0.6])
SCORES = torch.rand(100, 6, generator=GENERATOR) + 0.3 * TARGETS


def metric_of(batch: int) -> TagScores:
    metric = TagScores()
    for start in range(0, len(SCORES), batch):
        metric.update(SCORES[start : start + batch], TARGETS[start : start + batch])
    return metric


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_mean_average_precision_is_that_of_all_clips_at_once(batch: int) -> None:
    value = metric_of(batch).compute()

    assert value.dtype == torch.float64
    assert value.item() == mean_over_present(average_precision(SCORES.numpy(), TARGETS.numpy()))


def test_arrays_are_all_clips_in_their_order() -> None:
    scores, targets = metric_of(7).arrays()

    np.testing.assert_array_equal(scores, SCORES.numpy())
    np.testing.assert_array_equal(targets, TARGETS.numpy())


def test_scores_are_copies_without_the_graph_and_without_the_rest_of_a_larger_tensor() -> None:
    wide = torch.rand(4, 1000, requires_grad=True)
    scores, targets = wide[:, :6] * 1, TARGETS[:4].clone()
    expected = scores.detach().clone()
    metric = TagScores()
    metric(scores, targets)  # unlike update, a call keeps the graph
    metric.update(wide.detach()[:, :6], targets)
    with torch.no_grad():
        scores.zero_()
        targets.zero_()

    np.testing.assert_array_equal(metric.arrays()[0][:4], expected.numpy())
    np.testing.assert_array_equal(metric.arrays()[1][:4], TARGETS[:4].numpy())
    assert not any(kept.requires_grad for kept in metric.scores)
    assert [kept.untyped_storage().nbytes() for kept in metric.scores] == [4 * 6 * 4] * 2


def test_scores_in_half_precision_are_taken() -> None:
    metric = TagScores()
    metric.update(SCORES.bfloat16(), TARGETS)

    np.testing.assert_array_equal(metric.arrays()[0], SCORES.bfloat16().float().numpy())


def test_without_clips_there_is_no_figure() -> None:
    metric = TagScores()

    assert [len(array) for array in metric.arrays()] == [0, 0]
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert torch.isnan(metric.compute())


def test_reset_forgets() -> None:
    metric = metric_of(50)
    metric.reset()
    metric.update(SCORES[:10], TARGETS[:10])

    assert len(metric.arrays()[0]) == 10


def test_a_network_that_diverged_has_no_figure() -> None:
    metric = TagScores()
    metric.update(torch.full((2, 3), torch.nan), torch.ones(2, 3, dtype=torch.bool))

    with pytest.raises(ValueError, match="class 0, clip 0 is nan"):
        metric.compute()


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (SCORES[0], TARGETS[0], r"`scores` must be \(batch, classes\), but is \(6,\)"),
        (SCORES, TARGETS[:9], r"`targets` must be \(100, 6\) bool, .* but is \(9, 6\) torch.bool"),
        (SCORES, TARGETS.float(), "but is .* torch.float32 instead"),
        (SCORES[:, :5], TARGETS[:, :5], "`scores` must have 6 classes, as before, but has 5"),
    ],
)
def test_tensors_that_do_not_fit_raise(scores: torch.Tensor, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric_of(100).update(scores, targets)


@pytest.mark.gpu
def test_scores_of_a_gpu_are_kept_outside_it() -> None:
    metric = TagScores().cuda()
    metric.update(SCORES.cuda(), TARGETS.cuda())

    assert metric.scores[0].device.type == metric.targets[0].device.type == "cpu"
    assert metric.compute() == metric_of(100).compute()
