"""The probabilistic LDA of pyannote's pipelines, which is always there, also where the clustering has no use for it."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyannote.audio.core.plda import PLDA

FILES = {"xvec_transform.npz": ("mean1", "mean2", "lda"), "plda.npz": ("mu", "tr", "psi")}
_LDA_DIMENSION = 128  # most that pyannote uses

Arrays = Mapping[str, npt.NDArray[np.float64]]


class KeptPLDA(PLDA):  # type: ignore[misc]
    """A PLDA that can be written down again.

    Args:
        arrays: What its files hold: for embeddings of D numbers and an LDA to L, "mean1" ``(D,)``, "lda" ``(D, L)``,
            "mean2" and "mu" ``(L,)``, "tr" ``(L, L)``, "psi" ``(L,)``.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = {name: np.asarray(arrays[name]) for names in FILES.values() for name in names}
        super().__init__(*(_archive(self.arrays, names) for names in FILES.values()))

    def write(self, folder: Path) -> None:
        """Write its files into a folder."""
        for file, names in FILES.items():
            (folder / file).write_bytes(_archive(self.arrays, names).read())


def read_plda(transform: Path, plda: Path) -> KeptPLDA:
    """Read the two files of a PLDA: ``xvec_transform.npz`` and ``plda.npz``."""
    arrays: dict[str, npt.NDArray[np.float64]] = {}
    for file in (transform, plda):
        with np.load(file) as content:
            arrays.update({name: content[name] for name in content.files})
    return KeptPLDA(arrays)


def neutral_plda(dimension: int) -> KeptPLDA:
    """Return a PLDA for pipelines whose clustering uses none, as agglomerative clustering does not.

    It moves and turns nothing: embeddings keep the direction of their first 128 numbers, which vary as much between
    speakers as within one.

    Args:
        dimension: Of the embeddings.
    """
    reduced = min(dimension, _LDA_DIMENSION)
    return KeptPLDA(
        {
            "mean1": np.zeros(dimension),
            "lda": np.eye(dimension, reduced),
            "mean2": np.zeros(reduced),
            "mu": np.zeros(reduced),
            "tr": np.eye(reduced),
            "psi": np.ones(reduced),
        }
    )


def _archive(arrays: Arrays, names: tuple[str, ...]) -> io.BytesIO:
    content = io.BytesIO()
    np.savez(content, **{name: arrays[name] for name in names})  # type: ignore[arg-type]
    content.seek(0)
    return content
