"""Small pyannote pipelines for tests."""

from pathlib import Path

import numpy as np
import torch

from speechexp.pyannote_quiet import quiet_pyannote

with quiet_pyannote():
    from pyannote.audio import Model
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.segmentation import PyanNet
    from pyannote.audio.pipelines import SpeakerDiarization

    from speechexp.pyannote_models import LOCAL_OPTIONS, LOCAL_PARAMETERS, make_pipeline, set_parameters
    from speechexp.pyannote_plda import neutral_plda
    from speechexp.pyannote_saving import save_pipeline
    from speechexp.voice_encoder import VoiceEncoder


def tiny_segmentation(powerset: bool = False, problem: Problem | None = None) -> Model:
    """Return a random PyanNet of 5 s windows and three speakers that makes up its mind."""
    torch.manual_seed(4)
    network = PyanNet(
        lstm={"hidden_size": 8, "num_layers": 1, "monolithic": True},
        linear={"hidden_size": 8, "num_layers": 1},
    )
    usual = Problem.MONO_LABEL_CLASSIFICATION if powerset else Problem.MULTI_LABEL_CLASSIFICATION
    network.specifications = Specifications(
        problem=problem or usual,
        resolution=Resolution.FRAME,
        duration=5.0,
        classes=["speech"] if problem else ["speaker#1", "speaker#2", "speaker#3"],
        powerset_max_classes=2 if powerset else None,
        permutation_invariant=True,
    )
    network.setup()
    with torch.no_grad():
        network.classifier.weight.mul_(20)
        network.classifier.bias.zero_()
    return network.eval()


def tiny_pipeline(powerset: bool = False, **options: object) -> SpeakerDiarization:
    """Return a pipeline with `tiny_segmentation` and a random voice encoder; options are pyannote's."""
    segmentation = tiny_segmentation(powerset)
    encoder = VoiceEncoder().eval()
    plda = neutral_plda(encoder.dimension)
    pipeline = make_pipeline(segmentation, encoder, plda, {**LOCAL_OPTIONS, **options})
    left_out = {"segmentation.threshold"} if powerset else set()
    set_parameters(
        pipeline, {name: value for name, value in LOCAL_PARAMETERS.items() if name not in left_out}
    )
    return pipeline


def sound(seconds: float = 6.0) -> dict[str, object]:
    """Return a recording as pyannote takes one: bursts of noise."""
    noise = np.random.default_rng(0)
    samples = round(seconds * 16_000)
    level = np.repeat(noise.uniform(0, 0.3, samples // 1600 + 1), 1600)[:samples]
    audio = torch.tensor(level * noise.standard_normal(samples), dtype=torch.float32)
    return {"waveform": audio[None], "sample_rate": 16_000, "uri": "sound"}


def save_tiny_pipeline(folder: Path, powerset: bool = False) -> Path:
    """Write a pipeline that is quick, its windows far apart, and that tuning makes far better; return the folder."""
    pipeline = tiny_pipeline(powerset, segmentation_step=0.5)
    set_parameters(pipeline, {"clustering.threshold": 0.2, "clustering.min_cluster_size": 1})
    if not powerset:
        set_parameters(pipeline, {"segmentation.threshold": 0.9})
    save_pipeline(pipeline, folder)
    return folder
