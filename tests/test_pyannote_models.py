"""A diarization pipeline is the same after it was saved, opened, described or copied; what is none is refused."""

import copy
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning
import torch
import yaml
from helpers_audio import no_progress
from helpers_diarization import (
    Problem,
    SpeakerDiarization,
    VoiceEncoder,
    quiet_pyannote,
    sound,
    tiny_pipeline,
    tiny_segmentation,
)
from pyannote.audio import Pipeline
from pyannote.audio.models.embedding import WeSpeakerResNet34

from speechexp.errors import UserError
from speechexp.pyannote_models import (
    embedding_of,
    gated_pages,
    open_pipeline,
    parameters_of_pipeline,
    segmentation_of,
    set_parameters,
)
from speechexp.pyannote_networks import build_network, describe_network, write_network
from speechexp.pyannote_plda import KeptPLDA, neutral_plda
from speechexp.pyannote_saving import describe_pipeline, rebuild_pipeline, save_pipeline


def output(pipeline: SpeakerDiarization) -> tuple[Any, ...]:
    """Return all a pipeline says of `sound`."""
    with quiet_pyannote():
        found = pipeline(sound())
    turns = [(turn.start, turn.end, name) for turn, _, name in found.speaker_diarization.itertracks(True)]
    exclusive = [
        (turn.start, turn.end) for turn, _, _ in found.exclusive_speaker_diarization.itertracks(True)
    ]
    return turns, exclusive, found.speaker_embeddings.tolist()


def open_folder(folder: Path) -> SpeakerDiarization:
    return open_pipeline(str(folder), None, folder / "unused", no_progress)


@pytest.fixture(scope="module", params=[False, True], ids=["multi-label", "powerset"])
def pipeline(request: pytest.FixtureRequest) -> SpeakerDiarization:
    return tiny_pipeline(powerset=request.param)


@pytest.fixture(scope="module")
def expected(pipeline: SpeakerDiarization) -> tuple[Any, ...]:
    found = output(pipeline)
    assert len(found[0]) > 3 and len({name for _, _, name in found[0]}) > 1
    return found


def test_what_is_saved_opens_here_and_in_pyannote(
    pipeline: SpeakerDiarization, expected: tuple[Any, ...], tmp_path: Path
):
    folder = tmp_path / "new" / "saved"
    save_pipeline(pipeline, folder)
    save_pipeline(pipeline, folder)  # over the one that is there
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]
    assert output(Pipeline.from_pretrained(folder)) == expected
    assert output(open_folder(folder)) == expected


def test_a_description_and_the_weights_make_the_pipeline_again(
    pipeline: SpeakerDiarization, expected: tuple[Any, ...]
):
    file = io.BytesIO()
    torch.save(describe_pipeline(pipeline), file)
    file.seek(0)
    description = torch.load(file, weights_only=True)
    found = rebuild_pipeline(description)
    for network_of in (segmentation_of, embedding_of):
        network_of(found).load_state_dict(network_of(pipeline).state_dict())
    assert output(found) == expected
    assert describe_pipeline(found)["parameters"] == description["parameters"]


def test_networks_are_children_of_a_module_of_ours(pipeline: SpeakerDiarization, expected: tuple[Any, ...]):
    class Module(pytorch_lightning.LightningModule):
        def __init__(self, pipeline: SpeakerDiarization) -> None:
            super().__init__()
            self.segmentation, self.embedding = segmentation_of(pipeline), embedding_of(pipeline)

    copied = copy.deepcopy(pipeline)
    module = Module(copied)
    before = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    assert output(copied) != expected
    assert output(pipeline) == expected  # the copy shares nothing
    module.load_state_dict(before)
    assert output(copied) == expected
    copied.to(torch.device("meta"))
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}


def test_weights_are_saved_wherever_the_networks_are_and_nothing_else_is(tmp_path: Path):
    pipeline = tiny_pipeline()
    file = tmp_path / "network.bin"
    write_network(embedding_of(pipeline), file)
    content = torch.load(file, weights_only=False)
    assert set(content["state_dict"]) == set(embedding_of(pipeline).state_dict())
    with pytest.raises(UserError, match="holds something else"):
        save_pipeline(pipeline, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["network.bin"]


def test_a_wespeaker_network_is_built_again():
    network = WeSpeakerResNet34().eval()
    network.specifications = VoiceEncoder().specifications
    built = build_network(describe_network(network))
    built.load_state_dict(network.state_dict())
    audio = sound(1.0)["waveform"][None]
    with torch.inference_mode():
        assert torch.equal(built(audio), network(audio))


def test_a_class_that_a_file_names_is_not_imported():
    description = describe_network(tiny_segmentation()) | {"architecture": "os.system"}
    with pytest.raises(UserError, match=r"must be one of PyanNet, .* but is os.system"):
        build_network(description)


# --------------------------------------------------------------------------------------------- parameters


def test_parameters_are_set_by_their_names():
    pipeline = tiny_pipeline()
    set_parameters(pipeline, {"clustering.threshold": 0.7, "clustering.method": "average"})
    assert parameters_of_pipeline(pipeline) == {
        "segmentation.threshold": 0.5,
        "segmentation.min_duration_off": 0.0,
        "clustering.method": "average",
        "clustering.min_cluster_size": 6,
        "clustering.threshold": 0.7,
    }
    assert (pipeline.clustering.threshold, pipeline.clustering.method) == (0.7, "average")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("clustering.treshold", 0.5, r"no parameter clustering.treshold. Did you mean clustering.threshold"),
        ("clustering.threshold", -1, r"clustering.threshold=-1 must be a number from 0 on"),
        ("clustering.min_cluster_size", 2.5, r"min_cluster_size=2.5 must be a whole number"),
        ("clustering.method", "nearest", r"method=nearest must be one of average, centroid"),
        ("segmentation.threshold", "high", r"segmentation.threshold=high must be a number"),
    ],
)
def test_other_parameters_are_refused(name: str, value: Any, message: str):
    pipeline = tiny_pipeline()
    with pytest.raises(UserError, match=message):
        set_parameters(pipeline, {name: value})


# ------------------------------------------------------------------------------------------------- opening


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a saved pipeline."""
    save_pipeline(tiny_pipeline(), tmp_path / "pipeline")
    return tmp_path / "pipeline"


def change(folder: Path, **params: Any) -> None:
    """Change the pipeline's params in its config.yaml; None takes one away."""
    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    given = config["pipeline"]["params"] | params
    config["pipeline"]["params"] = {name: value for name, value in given.items() if value is not None}
    file.write_text(yaml.safe_dump(config))


def test_a_folder_like_that_of_3_1_opens_without_a_plda(folder: Path):
    """Its config names networks, not sub-folders, and no PLDA; its segmentation is powerset."""
    write_network(tiny_segmentation(powerset=True), folder / "other.bin")
    change(folder, segmentation="other.bin", plda=None)
    assert isinstance(open_folder(folder)._plda, KeptPLDA)
    assert "segmentation.threshold" not in parameters_of_pipeline(open_folder(folder))


def test_the_plda_of_vbx_clustering_is_kept(tmp_path: Path, folder: Path):
    numbers = np.random.default_rng(0)
    arrays = neutral_plda(256).arrays | {"mean1": numbers.standard_normal(256), "psi": 1 + np.arange(128.0)}
    KeptPLDA(arrays).write(folder / "plda")
    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["pipeline"]["params"]["clustering"] = "VBxClustering"
    config["params"] = {
        "segmentation": {"threshold": 0.5, "min_duration_off": 0.0},
        "clustering": {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8},
    }
    file.write_text(yaml.safe_dump(config))
    opened = open_folder(folder)
    expected = output(opened)
    save_pipeline(opened, tmp_path / "again")
    again = open_folder(tmp_path / "again")
    assert output(again) == expected == output(Pipeline.from_pretrained(folder))
    for name, value in arrays.items():
        np.testing.assert_array_equal(again._plda.arrays[name], value)
    # pyannote sorts psi, the largest first
    np.testing.assert_allclose(rebuild_pipeline(describe_pipeline(again))._plda.phi, np.arange(128, 0, -1))


def test_a_neutral_plda_changes_nothing():
    embeddings = np.random.default_rng(0).standard_normal((5, 64))
    found = neutral_plda(64)(embeddings)[:, ::-1]  # pyannote orders by the size of psi, which is equal here
    cosines = [row @ row2 / np.linalg.norm(row) / np.linalg.norm(row2) for row in found for row2 in found]
    expected = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a in embeddings for b in embeddings]
    np.testing.assert_allclose(cosines, expected)
    assert neutral_plda(256)(np.ones((1, 256))).shape == (1, 128)


def test_what_is_no_folder_of_a_pipeline_is_refused(tmp_path: Path, folder: Path):
    with pytest.raises(UserError, match=r"must be a folder with the config.yaml of a pyannote pipeline"):
        open_folder(tmp_path)
    with pytest.raises(UserError, match=r"model.revision=main .* Leave model.revision out"):
        open_pipeline(str(folder), "main", tmp_path, no_progress)
    (folder / "config.yaml").write_text("pipeline: {name: pyannote.audio.pipelines.VoiceActivityDetection}")
    with pytest.raises(UserError, match=r"but its config.yaml names .*VoiceActivityDetection instead"):
        open_folder(folder)
    (folder / "config.yaml").write_text("pipeline: [")
    with pytest.raises(UserError, match=r"config.yaml can't be read"):
        open_folder(folder)


def test_missing_and_broken_weights_are_named(folder: Path):
    file = folder / "embedding" / "pytorch_model.bin"
    file.write_bytes(b"not weights")
    with pytest.raises(UserError, match=rf"{file} can't be read"):
        open_folder(folder)
    file.unlink()
    with pytest.raises(UserError, match=rf"{file} must be a checkpoint .* does not exist"):
        open_folder(folder)


def test_another_segmentation_is_refused(folder: Path):
    network = tiny_segmentation(problem=Problem.BINARY_CLASSIFICATION)
    write_network(network, folder / "segmentation" / "pytorch_model.bin")
    with pytest.raises(UserError, match="must be a speaker segmentation network, but is made for binary"):
        open_folder(folder)


def test_another_sampling_rate_is_refused(folder: Path):
    network = WeSpeakerResNet34(sample_rate=8_000)
    network.specifications = VoiceEncoder().specifications
    write_network(network, folder / "embedding" / "pytorch_model.bin")
    with pytest.raises(UserError, match="must take audio of 16000 Hz, but takes 8000 Hz"):
        open_folder(folder)


def test_swapped_networks_and_another_clustering_are_refused(folder: Path):
    change(folder, embedding="$model/segmentation")
    with pytest.raises(UserError, match=r"embedding network .* must be one of WeSpeaker.* is a PyanNet"):
        open_folder(folder)
    change(folder, embedding="$model/embedding", clustering="OracleClustering")
    with pytest.raises(UserError, match=r"must be one of Agglomerative.* but is OracleClustering"):
        open_folder(folder)


def test_parameters_that_are_not_set_are_named(folder: Path):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["params"]["clustering"]["threshold"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"must set clustering.threshold"):
        open_folder(folder)


def test_without_a_network_the_hub_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    name = "pyannote/speaker-diarization-3.1"
    with pytest.raises(UserError, match=rf"{name} can't be fetched.*model.pretrained=local"):
        open_pipeline(name, None, tmp_path, no_progress)
    assert capfd.readouterr().out == ""
    with pytest.raises(UserError, match=r"model.pretrained=no/such/folder must be a hub id"):
        open_pipeline("no/such/folder", None, tmp_path, no_progress)


def test_gated_pages():
    name = "pyannote/speaker-diarization-3.1"
    assert gated_pages(name) == [name, "pyannote/segmentation-3.0"]
    assert gated_pages("pyannote/speaker-diarization-community-1") == [
        "pyannote/speaker-diarization-community-1"
    ]
    assert gated_pages("local") == []


# -------------------------------------------------------------------------------------------- real weights


@pytest.mark.slow
def test_the_local_weights_tell_two_speakers_apart(capfd: pytest.CaptureFixture[str]):
    """On the real recording in pyannote.audio's wheel: 30 s, two speakers. DER counts overlap, without a collar."""
    import pyannote.audio
    import soundfile
    from pyannote.core import Segment, Timeline
    from pyannote.database.util import load_rttm
    from pyannote.metrics.diarization import DiarizationErrorRate

    sample = Path(pyannote.audio.__file__).parent / "sample"
    audio, rate = soundfile.read(sample / "sample.wav", dtype="float32")
    cache = Path(os.environ.get("SPEECHEXP_TEST_WEIGHTS") or os.environ["SPEECHEXP_CACHE"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = open_pipeline("local", None, cache, no_progress)(
            {"waveform": torch.from_numpy(audio)[None], "sample_rate": rate}
        )
    assert "Lightning" not in "".join(capfd.readouterr())
    reference = next(iter(load_rttm(sample / "sample.rttm").values()))
    whole = Timeline([Segment(0, len(audio) / rate)])
    der = DiarizationErrorRate()(reference, found.speaker_diarization, uem=whole)
    assert len(found.speaker_diarization.labels()) == 2
    assert der < 0.13
