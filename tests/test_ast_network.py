"""Audio Spectrogram Transformers: built, loaded, given another head and another window."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_ast import FEW, FRAMES, NAMES, TINY, save, save_preprocessor
from safetensors.torch import load_file, save_file
from transformers import ASTForAudioClassification, ASTModel, Wav2Vec2Config, Wav2Vec2ForCTC
from transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer import (
    ASTEmbeddings,
)

from speechexp.ast_network import Built, Normalisation, build_network, classes_of, network_from_config
from speechexp.ast_window import grid, resize_positions
from speechexp.errors import UserError
from speechexp.labels import SoundClass
from speechexp.module import _plain


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained") / "ast"
    save(folder)
    save_preprocessor(folder)
    return folder


def build(**settings: Any) -> Built:
    settings = {"classes": FEW, "single_label": False, **settings}
    if settings.get("pretrained") is not None:
        settings["pretrained"] = str(settings["pretrained"])
    return build_network(**settings)


def own(pretrained: Path, **settings: Any) -> Built:
    return build(pretrained=pretrained, classes=None, head="own", **settings)


def refused(**settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        build(**settings)
    return str(caught.value)


def logits_of(model: ASTForAudioClassification) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, model.config.max_length, model.config.num_mel_bins, generator=generator)
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(features).logits
    return logits


def without(source: Path, folder: Path, *names: str) -> Path:
    shutil.copytree(source, folder)
    for name in names:
        (folder / name).unlink()
    return folder


# --------------------------------------------------------------------------------------------- from scratch


@pytest.mark.parametrize(
    ("single_label", "problem"),
    [(True, "single_label_classification"), (False, "multi_label_classification")],
)
def test_from_scratch_there_is_an_output_for_each_class(single_label: bool, problem: str) -> None:
    built = build(single_label=single_label, network=TINY)

    assert logits_of(built.network).shape == (2, 3)
    assert built.network.config.id2label == {0: "Speech (/m/09x0r)", 1: "Dog (/m/0bt9lr)", 2: "Rain"}
    assert built.network.config.problem_type == problem
    assert built.classes == FEW
    assert built.normalisation == Normalisation(-4.2677393, 4.5689974)
    assert built.notes == ["random weights"]


def test_it_is_in_training_mode_with_sdpa_and_the_published_window() -> None:
    network = build(network={**TINY, "hidden_dropout_prob": 0.3}).network

    assert network.training
    assert network.config._attn_implementation == "sdpa"
    assert network.config.max_length == 1024
    assert network.audio_spectrogram_transformer.layers[0].dropout.p == 0.3


def test_the_two_tokens_do_not_begin_equal() -> None:
    embeddings = build(network=TINY).network.audio_spectrogram_transformer.embeddings

    assert not torch.isclose(embeddings.cls_token, embeddings.distillation_token).any()
    assert embeddings.position_embeddings.std().item() == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize(("seconds", "frames"), [(1.28, 128), (0.975, 98), (10, 1000), (0.16, 16)])
def test_a_window_has_a_frame_each_10_ms(seconds: float, frames: int) -> None:
    network = build(network=TINY, window_seconds=seconds).network

    assert network.config.max_length == frames
    assert torch.isfinite(logits_of(network)).all()


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.15, 60.1, float("nan"), float("inf"), "long", True])
def test_a_window_that_can_not_be_is_refused(seconds: Any) -> None:
    assert f"model.window_seconds={seconds} must be from 0.16 (one patch) to 60" in refused(
        network=TINY, window_seconds=seconds
    )


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (
            {"hiden_size": 3},
            "model.network.hiden_size is not a setting of ASTConfig. Did you mean hidden_size",
        ),
        ({"max_length": 100}, "model.network.max_length can't be set: model.window_seconds sets it"),
        ({"num_labels": 5}, "model.network.num_labels can't be set"),
        ({"hidden_act": "gelo"}, "model.network does not describe a network"),
        ({"hidden_size": "big"}, "model.network does not describe a network"),
        ({"frequency_stride": 0}, "model.network does not describe a network"),
        ({"num_mel_bins": 12}, "model.network.num_mel_bins=12 must be at least patch_size=16"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_can_not_be_are_refused(network: dict[str, Any], said: str) -> None:
    assert said in refused(network={**TINY, **network})


def test_without_pretrained_weights_there_is_no_head_of_its_own() -> None:
    assert "model.head=own keeps a pretrained head: set model.pretrained" in refused(network=TINY, head="own")
    assert "model.head=old must be own or new" in refused(network=TINY, head="old")


# ------------------------------------------------------------------------------------------------ its own head


def test_with_its_own_head_it_gives_the_outputs_it_was_saved_with(saved: Path) -> None:
    built = own(saved)

    assert torch.equal(logits_of(built.network), logits_of(ASTForAudioClassification.from_pretrained(saved)))
    assert built.notes == [f"weights of {saved}", "its own head"]
    assert built.network.config.problem_type == "multi_label_classification"


def test_its_own_head_gives_the_classes(saved: Path) -> None:
    classes, single = classes_of(str(saved))

    assert single is None  # as the published ones, its configuration does not say
    assert classes[:4] == [
        SoundClass("Speech"),
        SoundClass("/m/04rlf", "/m/04rlf"),
        SoundClass("Dog", "/m/0bt9lr"),
        SoundClass("Sound 3"),
    ]
    assert len(classes) == 527
    assert own(saved).classes == classes == build(pretrained=saved, classes=classes, head="own").classes


def test_the_classes_are_known_without_the_weights(saved: Path, tmp_path: Path) -> None:
    assert classes_of(str(without(saved, tmp_path / "a", "model.safetensors"))) == classes_of(str(saved))


def test_dropouts_can_be_set_on_pretrained_weights(saved: Path) -> None:
    network = own(saved, network={"attention_probs_dropout_prob": 0.25}).network

    assert network.training
    assert network.audio_spectrogram_transformer.layers[1].attention.attention_dropout == 0.25


def test_config_that_names_another_number_of_classes_than_the_head_has_is_refused(
    saved: Path, tmp_path: Path
) -> None:
    folder = without(saved, tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"].pop("526")
    config["label2id"].pop("Sound 526")
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(UserError, match=r"a head for the 526 classes .* another number.*model\.head=new"):
        own(folder)
    assert "a new head" in build(pretrained=folder).notes


def test_network_without_a_head_has_none_of_its_own(tmp_path: Path) -> None:
    model = save(tmp_path / "a")
    ASTModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    assert len(config["id2label"]) == 527

    with pytest.raises(UserError, match=r"a head for the 527 classes .* has none.*model\.head=new"):
        own(tmp_path / "base")
    built = build(pretrained=tmp_path / "base")
    assert "a new head" in built.notes
    for name, weight in model.audio_spectrogram_transformer.named_parameters():
        assert torch.equal(weight, built.network.audio_spectrogram_transformer.get_parameter(name)), name


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1"], ["Speech", "Speech"], ["Speech", ""]])
def test_head_whose_classes_are_not_known_is_refused(tmp_path: Path, names: list[str]) -> None:
    save(tmp_path / "a", names)

    with pytest.raises(UserError, match=r"for model\.head=own.*model\.head=new"):
        classes_of(str(tmp_path / "a"))
    assert logits_of(build(pretrained=tmp_path / "a").network).shape == (2, 3)


# ------------------------------------------------------------------------------------------------- a new head


@pytest.mark.parametrize("count", [3, 527])
def test_a_new_head_is_random_on_the_same_body(saved: Path, count: int) -> None:
    classes = [SoundClass(f"Other {number}") for number in range(count)]
    built = build(pretrained=saved, classes=classes)
    old = ASTForAudioClassification.from_pretrained(saved).state_dict()

    assert built.notes == [f"weights of {saved}", "a new head"]
    assert built.network.config.id2label == {number: f"Other {number}" for number in range(count)}
    for name, weight in built.network.state_dict().items():
        if name.startswith("classifier.dense."):
            assert weight.shape[0] == count
            assert weight.shape != old[name].shape or not torch.isclose(weight, old[name]).any()
        else:
            assert torch.equal(weight, old[name]), name
    assert (built.network.classifier.dense.bias == 0).all()
    assert built.network.classifier.dense.weight.std().item() == pytest.approx(0.2, rel=0.3)


# --------------------------------------------------------------------------------------------- does not fit


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 64},
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 1},
        {"time_stride": 16},
        {"patch_size": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("head", ["own", "new"])
def test_settings_that_change_shapes_are_refused(saved: Path, change: dict[str, Any], head: Any) -> None:
    message = refused(pretrained=saved, classes=None if head == "own" else FEW, head=head, network=change)

    assert f"model.pretrained={saved}" in message
    assert "Leave the settings that change shapes out of model.network" in message


def test_weights_that_lack_one_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = without(saved, tmp_path / "a")
    weights = load_file(saved / "model.safetensors")
    del weights["classifier.layernorm.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    assert "1 missing, 0 left over (for example classifier.layernorm.bias)" in refused(pretrained=folder)


def test_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    Wav2Vec2ForCTC(Wav2Vec2Config(**sizes)).save_pretrained(tmp_path / "ctc")
    said = f"model.pretrained={tmp_path / 'ctc'} must be an Audio Spectrogram Transformer, but is wav2vec2 instead"

    assert said in refused(pretrained=tmp_path / "ctc")
    with pytest.raises(UserError, match="but is wav2vec2 instead"):
        classes_of(str(tmp_path / "ctc"))


@pytest.mark.parametrize(
    "damage", ["config.json missing", "config.json spoiled", "weights missing", "weights cut"]
)
def test_damaged_directory_is_refused(saved: Path, tmp_path: Path, damage: str) -> None:
    folder = without(saved, tmp_path / "a")
    weights = folder / "model.safetensors"
    if damage.startswith("config.json"):
        (folder / "config.json").unlink() if "missing" in damage else (folder / "config.json").write_text("{")
    elif damage == "weights missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:5000])

    assert f"model.pretrained={folder}" in refused(pretrained=folder)


def test_unreachable_hub_is_one_message_that_says_what_works_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    message = refused(pretrained="MIT/ast-finetuned-audioset-10-10-0.4593")
    assert "https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593" in message
    assert "model=ast_tiny" in message
    assert "model.pretrained=DIR" in message


# ------------------------------------------------------------------------------------------- normalisation


def test_the_checkpoints_own_mean_and_std_are_used(saved: Path, tmp_path: Path) -> None:
    folder = without(saved, tmp_path / "a")
    save_preprocessor(folder, mean=-6.75, std=3.5)

    assert own(folder).normalisation == Normalisation(-6.75, 3.5)
    save_preprocessor(folder, mean=-6.75, std=3.5, do_normalize=False)
    assert own(folder).normalisation == Normalisation(0.0, 0.5)  # leaves features as they are


def test_without_them_audiosets_are_and_a_note_says_so(saved: Path, tmp_path: Path) -> None:
    built = own(without(saved, tmp_path / "a", "preprocessor_config.json"))

    assert built.normalisation == Normalisation(-4.2677393, 4.5689974)
    assert "no preprocessor_config.json: AudioSet's mean -4.26774 and std 4.569" in built.notes


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampling_rate": 32_000}, "must have sampling_rate=16000 Hz, but it is 32000 instead"),
        ({"num_mel_bins": 128}, "must have num_mel_bins=26, but it is 128 instead"),
        ({"std": 0}, "one above 0 as std"),
        ({"mean": "low"}, "a number as mean"),
    ],
    ids=str,
)
def test_features_of_another_kind_are_refused(
    saved: Path, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    folder = without(saved, tmp_path / "a")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**config, **settings}))

    message = refused(pretrained=folder)
    assert f"preprocessor_config.json of model.pretrained={folder}" in message
    assert said in message


def test_spoiled_preprocessor_config_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = without(saved, tmp_path / "a")
    (folder / "preprocessor_config.json").write_text("{")

    assert f"model.pretrained={folder} can't be read" in refused(pretrained=folder)


# ---------------------------------------------------------------------------------------------- the window


def positions(model: ASTForAudioClassification) -> torch.Tensor:
    """Return the patches' positions, ``(frequency, time, hidden)``."""
    table = model.audio_spectrogram_transformer.embeddings.position_embeddings.detach()
    return table[0, 2:].reshape(*grid(model.config), -1)


def at(model: ASTForAudioClassification, frequency: int, time: int) -> torch.Tensor:
    """Return what a network itself adds to the patch of a place, found by a patch that alone isn't zero."""
    embeddings: ASTEmbeddings = model.audio_spectrogram_transformer.embeddings
    features = torch.zeros(1, model.config.max_length, model.config.num_mel_bins)
    features[0, 10 * time + 8, 10 * frequency + 8] = 1e6
    with torch.inference_mode():
        projected = embeddings.patch_embeddings(features)[0]
        place = int((projected - embeddings.patch_embeddings.projection.bias).abs().sum(1).argmax())
        return (embeddings(features)[0, 2:] - projected)[place]


def test_the_grid_is_laid_out_as_the_network_itself_does(saved: Path) -> None:
    model = own(saved).network

    assert positions(model).shape == (2, 12, 32)
    for frequency, time in ((0, 0), (1, 0), (0, 11), (1, 7)):
        assert torch.allclose(at(model, frequency, time), positions(model)[frequency, time], atol=1e-1)


def test_the_window_it_was_trained_on_leaves_it_as_it_is(saved: Path) -> None:
    built = own(saved, window_seconds=FRAMES / 100)

    assert torch.equal(logits_of(built.network), logits_of(own(saved).network))
    assert built.notes == own(saved).notes


def test_a_shorter_window_takes_the_middle_of_the_positions(saved: Path) -> None:
    whole, built = own(saved).network, own(saved, window_seconds=0.66)

    assert built.network.config.max_length == 66
    assert torch.equal(positions(built.network), positions(whole)[:, 3:9])
    assert torch.equal(tokens_of(built.network), tokens_of(whole))
    assert "a window of 0.66 s with the middle of its positions for 1.28 s" in built.notes
    assert logits_of(built.network).shape == (2, 527)


def tokens_of(model: ASTForAudioClassification) -> torch.Tensor:
    return model.audio_spectrogram_transformer.embeddings.position_embeddings.detach()[0, :2]


def test_a_longer_window_interpolates_the_positions_along_time(saved: Path) -> None:
    whole, built = own(saved).network, own(saved, window_seconds=2.56)
    old, new = positions(whole), positions(built.network)

    assert new.shape == (2, 25, 32)
    assert torch.allclose(new[:, 0], old[:, 0], atol=1e-5) and torch.allclose(
        new[:, -1], old[:, -1], atol=1e-5
    )
    assert torch.allclose(new[:, 12], (old[:, 5] + old[:, 6]) / 2, atol=1e-4)  # the middle of both
    assert torch.equal(tokens_of(built.network), tokens_of(whole))
    assert "a window of 2.56 s with its positions interpolated for 1.28 s" in built.notes
    assert logits_of(built.network).shape == (2, 527)
    assert built.network.audio_spectrogram_transformer.embeddings.position_embeddings.requires_grad


def test_a_straight_line_of_positions_stays_one_and_frequencies_are_not_mixed(saved: Path) -> None:
    model = own(saved).network
    ramp = torch.arange(12.0)[None, :, None] + torch.tensor([0.0, 100.0])[:, None, None]
    table = model.audio_spectrogram_transformer.embeddings.position_embeddings
    table.data[0, 2:] = ramp.expand(2, 12, 32).reshape(24, 32)
    resize_positions(model, 246)

    low, high = positions(model)[..., 0]
    assert len(low) == 24
    assert torch.allclose(high - low, torch.full((24,), 100.0), atol=1e-4)
    assert torch.allclose(low[1:-1].diff(), torch.full((21,), 0.5), atol=1e-4)


@pytest.mark.parametrize("seconds", [0, 0.15, 2.57, 100, float("nan")])
def test_a_window_longer_than_the_positions_allow_or_shorter_than_a_patch_is_refused(
    saved: Path, seconds: float
) -> None:
    message = refused(pretrained=saved, window_seconds=seconds)

    assert f"model.window_seconds={seconds} must be from 0.16 (one patch) to 2.56 (twice what" in message


# ------------------------------------------------------------------------------------- checkpoints, the step


def test_a_checkpoint_of_ours_rebuilds_the_network(saved: Path, tmp_path: Path) -> None:
    model = build(pretrained=saved, window_seconds=0.66, single_label=True).network
    config = {key: _plain(value) for key, value in model.config.to_dict().items()}
    torch.save({"config": config, "weights": model.state_dict()}, tmp_path / "x.ckpt")
    found = torch.load(tmp_path / "x.ckpt", weights_only=True)
    again = network_from_config(found["config"])
    again.load_state_dict(found["weights"])

    assert torch.equal(logits_of(again), logits_of(model))
    assert again.config.id2label == model.config.id2label
    assert again.config.problem_type == "single_label_classification"
    assert again.config._attn_implementation == "sdpa"


def test_what_save_pretrained_writes_of_another_window_loads_again(saved: Path, tmp_path: Path) -> None:
    model = own(saved, window_seconds=2.0).network
    model.save_pretrained(tmp_path / "again")

    assert torch.equal(logits_of(own(tmp_path / "again").network), logits_of(model))


def gradients(model: ASTForAudioClassification) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    model.train()(torch.randn(2, FRAMES, 26)).logits.square().mean().backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def test_gradient_checkpointing_changes_no_gradient(saved: Path) -> None:
    settings = {"network": {"hidden_dropout_prob": 0.1}}
    plain = gradients(own(saved, **settings).network)
    model = own(saved, **settings).network
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    called = []
    model.audio_spectrogram_transformer.layers[0].mlp.register_forward_hook(lambda *_: called.append(1))
    found = gradients(model)

    assert len(called) == 2  # computed again
    assert all(torch.allclose(found[name], gradient, atol=1e-6) for name, gradient in plain.items())


def test_a_step_reads_nothing_from_the_device(saved: Path) -> None:
    model = own(saved).network.to("meta").train()
    model(torch.empty(2, FRAMES, 26, device="meta")).logits.sum().backward()

    assert len(NAMES) == model.classifier.dense.bias.grad.shape[0]
