"""What is tuned of pyannote's pipeline."""

import numpy as np
import pytest
from pyannote.audio.core.plda import PLDA
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.embedding import XVectorSincNet
from pyannote.audio.models.segmentation import PyanNet
from pyannote.audio.pipelines import SpeakerDiarization

from speechexp.pipeline_space import pipeline_space
from speechexp.pyannote_models import parameters_of_pipeline, set_parameters
from speechexp.tuning import Integer, Uniform, search


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Return tiny networks and a PLDA of pyannote's."""

    def segmentation(powerset: int | None) -> PyanNet:
        network = PyanNet(lstm={"hidden_size": 4, "num_layers": 1}, linear={"num_layers": 0})
        network.specifications = Specifications(
            problem=Problem.MONO_LABEL_CLASSIFICATION if powerset else Problem.MULTI_LABEL_CLASSIFICATION,
            resolution=Resolution.FRAME, duration=5.0, classes=["1", "2", "3"],
            powerset_max_classes=powerset, permutation_invariant=True,
        )  # fmt: skip
        network.build()
        return network

    folder = tmp_path_factory.mktemp("plda")
    np.savez(folder / "xvec.npz", mean1=np.zeros(8), mean2=np.zeros(8), lda=np.eye(8))
    np.savez(folder / "plda.npz", mu=np.zeros(8), tr=np.eye(8), psi=np.arange(8, 0, -1.0))
    embedding = XVectorSincNet(dimension=8)
    embedding.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0
    )
    return {
        "sigmoid": segmentation(None),
        "powerset": segmentation(2),
        "embedding": embedding,
        "plda": PLDA(folder / "xvec.npz", folder / "plda.npz", lda_dimension=8),
    }


def pipeline(parts: dict, kind: str, clustering: str, **given: float | str) -> SpeakerDiarization:
    built = SpeakerDiarization(
        segmentation=parts[kind], embedding=parts["embedding"], plda=parts["plda"], clustering=clustering
    )
    segmentation = {"min_duration_off": 0.0, **({"threshold": 0.5} if kind == "sigmoid" else {})}
    return built.instantiate({"segmentation": segmentation, "clustering": dict(given)})


AHC = {"method": "centroid", "threshold": 0.5, "min_cluster_size": 6}


def test_an_agglomerative_pipelines_parameters(parts: dict) -> None:
    space = pipeline_space(pipeline(parts, "sigmoid", "AgglomerativeClustering", **AHC))
    assert space == {
        "segmentation.threshold": Uniform(0.1, 0.9),
        "segmentation.min_duration_off": Uniform(0.0, 1.0),
        "clustering.threshold": Uniform(0.2, 1.3),
        "clustering.min_cluster_size": Integer(1, 20),
    }


def test_a_powerset_with_vbx_has_other_parameters(parts: dict) -> None:
    space = pipeline_space(pipeline(parts, "powerset", "VBxClustering", threshold=0.6, Fa=0.07, Fb=0.8))
    assert space == {
        "segmentation.min_duration_off": Uniform(0.0, 1.0),
        "clustering.threshold": Uniform(0.5, 0.8),
        "clustering.Fa": Uniform(0.01, 0.5, log=True),
        "clustering.Fb": Uniform(0.01, 15.0, log=True),
    }


def test_ranges_suit_the_linkage_and_hold_what_the_pipeline_has(parts: dict) -> None:
    def threshold(method: str, value: float) -> object:
        given = {**AHC, "method": method, "threshold": value, "min_cluster_size": 25}
        space = pipeline_space(pipeline(parts, "sigmoid", "AgglomerativeClustering", **given))
        assert space["clustering.min_cluster_size"] == Integer(1, 25)
        return space["clustering.threshold"]

    assert threshold("average", 0.7) == Uniform(0.02, 0.85)
    assert threshold("ward", 0.7) == Uniform(0.0, 2.0)
    assert threshold("centroid", 1.4) == Uniform(0.2, 1.4)
    assert threshold("centroid", 0.1) == Uniform(0.1, 1.3)


def test_what_was_found_is_given_to_the_pipeline(parts: dict) -> None:
    tuned = pipeline(parts, "sigmoid", "AgglomerativeClustering", **AHC)
    space = pipeline_space(tuned)
    start = {name: value for name, value in parameters_of_pipeline(tuned).items() if name in space}
    assert start == {"segmentation.threshold": 0.5, "segmentation.min_duration_off": 0.0,
                     "clustering.threshold": 0.5, "clustering.min_cluster_size": 6}  # fmt: skip

    found = search(space, lambda each: abs(float(each["clustering.threshold"]) - 0.8), [start], 6, seed=0)
    set_parameters(tuned, found.parameters)
    assert parameters_of_pipeline(tuned) == {**found.parameters, "clustering.method": "centroid"}
    assert tuned.clustering.threshold == found.parameters["clustering.threshold"] != 0.5
