"""Centroid linkage of many embeddings in little memory: scipy's dendrogram without its n² distances."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
_ROWS = 256  # whose distances to all others are held at once, in the beginning


def centroid_linkage(points: npt.NDArray[Any]) -> Doubles:
    """Return what scipy's ``linkage(points, method="centroid")`` returns, up to rounding and ties.

    Müllner's generic algorithm (Modern hierarchical, agglomerative clustering algorithms, 2011, figure 3) on the
    centroids themselves: each keeps its nearest neighbour, which is looked up again only when it has gone and might
    have been the nearest of all. Time grows with n² · dimension if few are looked up twice, memory with n · dimension.

    Args:
        points: ``(points, dimension)``, at least two.

    Returns:
        ``(points - 1, 4)``: two clusters, their distance, the number of points in the new one.
    """
    number = len(points)
    centroids = np.array(points, dtype=np.float64)
    squares = np.einsum("nd,nd->n", centroids, centroids)
    sizes, names = np.ones(number), np.arange(number)
    nearest, distance = _neighbours(centroids, squares)
    fresh = np.ones(number, dtype=bool)
    tree = np.empty((number - 1, 4))
    for step in range(number - 1):
        one = int(distance.argmin())
        while not fresh[one]:
            away = _distances(centroids, squares, centroids[one])
            away[one] = np.inf
            away[np.isinf(squares)] = np.inf
            nearest[one] = away.argmin()
            distance[one], fresh[one] = away[nearest[one]], True
            one = int(distance.argmin())
        other = int(nearest[one])
        size = sizes[one] + sizes[other]
        gap = np.linalg.norm(centroids[one] - centroids[other])
        tree[step] = (*sorted((names[one], names[other])), gap, size)
        centroid = (sizes[one] * centroids[one] + sizes[other] * centroids[other]) / size
        centroids[other], centroids[one] = centroid, 0.0
        squares[other], squares[one], distance[one] = centroid @ centroid, np.inf, np.inf
        sizes[other], names[other] = size, number + step
        fresh[(nearest == one) | (nearest == other)] = False
        away = _distances(centroids, squares, centroid)
        away[other] = np.inf
        closer = away < distance
        closer[one] = False
        nearest[closer], distance[closer], fresh[closer] = other, away[closer], True
        nearest[other] = away.argmin()
        distance[other], fresh[other] = away[nearest[other]], True
        if 2 * (number - 1 - step) < len(names) and len(names) > _ROWS:
            kept = np.flatnonzero(np.isfinite(squares))
            place = np.zeros(len(names), dtype=np.int64)
            place[kept] = np.arange(len(kept))
            centroids, squares, sizes, names = centroids[kept], squares[kept], sizes[kept], names[kept]
            nearest, distance, fresh = place[nearest[kept]], distance[kept], fresh[kept]
    return tree


def _distances(centroids: Doubles, squares: Doubles, centroid: Doubles) -> Doubles:
    """Return squared distances to one centroid; those that have gone are infinitely far."""
    found: Doubles = squares - 2 * (centroids @ centroid) + centroid @ centroid
    return found


def _neighbours(centroids: Doubles, squares: Doubles) -> tuple[npt.NDArray[np.int64], Doubles]:
    nearest, distance = np.empty(len(centroids), dtype=np.int64), np.empty(len(centroids))
    for start in range(0, len(centroids), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(centroids)))
        away = squares[rows, None] + squares - 2 * (centroids[rows] @ centroids.T)
        away[np.arange(len(rows)), rows] = np.inf
        nearest[rows] = away.argmin(axis=1)
        distance[rows] = away[np.arange(len(rows)), nearest[rows]]
    return nearest, distance


@contextlib.contextmanager
def bounded_linkage(most_points: int) -> Iterator[None]:
    """Let pyannote's clusterings link more than some points by centroids with `centroid_linkage` within this block.

    Args:
        most_points: Up to as many, and with any other method, they use scipy as ever.
    """
    from pyannote.audio.pipelines import clustering

    theirs = clustering.linkage

    def linkage(points: npt.NDArray[Any], method: str, metric: str) -> Doubles:
        if method == "centroid" and metric == "euclidean" and len(points) > most_points:
            return centroid_linkage(points)
        found: Doubles = theirs(points, method=method, metric=metric)
        return found

    clustering.linkage = linkage
    try:
        yield
    finally:
        clustering.linkage = theirs
