import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_models import NORMS, RATE, TEXT, TINY, VOCABULARY, clips, collate, recogniser
from safetensors.torch import load_file, save_file
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Model,
)

from speechexp.batch import Clip
from speechexp.errors import UserError
from speechexp.optim import adamw, cosine, linear
from speechexp.text import Vocabulary
from speechexp.wav2vec2 import PaddedGroupNorm, build_network, normalise_waveform

VOCABULARY_SIZE = {
    "vocab_size": len(VOCABULARY),
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}


def build(pretrained: Path | str | None = None, **network: Any) -> tuple[Wav2Vec2ForCTC, list[str]]:
    return build_network(VOCABULARY, str(pretrained) if pretrained else None, None, network)


def refused(pretrained: Path | str | None = None, **network: Any) -> str:
    with pytest.raises(UserError) as caught:
        build(pretrained, **network)
    return str(caught.value)


# -------------------------------------------------------------------------------------------------- loading


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that writes with `VOCABULARY`, written by save_pretrained."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("pretrained") / "ctc"
    Wav2Vec2ForCTC(Wav2Vec2Config(**TINY, **VOCABULARY_SIZE)).save_pretrained(folder)
    VOCABULARY.save(folder / "vocab.json")
    return folder


def logits_of(model: Wav2Vec2ForCTC) -> torch.Tensor:
    audio = torch.sin(torch.arange(4000) / 7.0)[None]
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(audio).logits
    return logits


def test_from_scratch_the_head_has_the_vocabularys_size_and_its_blank() -> None:
    model, notes = build(**TINY)

    assert model.lm_head.out_features == model.config.vocab_size == len(VOCABULARY)
    assert model.config.pad_token_id == VOCABULARY.blank_id
    assert notes == ["random weights"]


def test_settings_of_the_network_reach_it() -> None:
    model, _ = build(**TINY)

    assert model.config.hidden_size == 32
    assert len(model.wav2vec2.encoder.layers) == 2


def test_saved_checkpoint_gives_the_outputs_it_was_saved_with(saved: Path) -> None:
    model, notes = build(saved)

    assert torch.equal(logits_of(model), logits_of(Wav2Vec2ForCTC.from_pretrained(saved)))
    assert "its own head" in notes


def test_dropouts_can_be_set_on_a_saved_checkpoint(saved: Path) -> None:
    model, _ = build(saved, attention_dropout=0.25, mask_time_prob=0.05)

    assert model.wav2vec2.encoder.layers[0].attention.dropout == 0.25
    assert model.config.mask_time_prob == 0.05


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_old_names_of_weight_normalisation_load_with_identical_outputs(
    saved: Path, tmp_path: Path, kind: str
) -> None:
    old = tmp_path / "old"
    shutil.copytree(saved, old)
    weights = load_file(saved / "model.safetensors")
    renamed = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in weights.items()
    }
    assert len(renamed.keys() - weights.keys()) == 2
    if kind == "safetensors":
        save_file(renamed, old / "model.safetensors", metadata={"format": "pt"})
    else:
        (old / "model.safetensors").unlink()
        torch.save(renamed, old / "pytorch_model.bin")

    assert torch.equal(logits_of(build(old)[0]), logits_of(build(saved)[0]))


@pytest.mark.parametrize("kind", [Wav2Vec2Model, Wav2Vec2ForPreTraining])
def test_pretrained_network_without_a_ctc_head_gets_a_new_one(tmp_path: Path, kind: Any) -> None:
    sizes = {"codevector_dim": 16, "proj_codevector_dim": 16, "num_codevectors_per_group": 8}
    kind(Wav2Vec2Config(**TINY, **sizes)).save_pretrained(tmp_path / "base")

    model, notes = build(tmp_path / "base")
    reference = Wav2Vec2Model.from_pretrained(tmp_path / "base")
    assert "a new head" in notes
    for name, weight in reference.named_parameters():
        assert torch.equal(weight, model.wav2vec2.get_parameter(name)), name


def test_vocabulary_of_another_size_gets_a_new_head_on_the_same_body(saved: Path) -> None:
    other = Vocabulary.from_texts(["abcdefghijklmnñopqrstuvwxyz"])
    model, notes = build_network(other, str(saved), None, {})

    body = build(saved)[0].wav2vec2.state_dict()
    assert model.lm_head.out_features == len(other)
    assert "a new head" in notes
    assert all(torch.equal(weight, body[name]) for name, weight in model.wav2vec2.state_dict().items())


@pytest.mark.parametrize("theirs", ["other letters", "another order", "spoiled", "missing"])
def test_head_of_the_same_size_that_may_write_other_letters_is_made_anew(
    saved: Path, tmp_path: Path, theirs: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(saved, other)
    head, letters = VOCABULARY.tokens[:3], VOCABULARY.tokens[3:]
    if theirs == "other letters":
        Vocabulary([*head, *"bfghijkmñquvwxz"[: len(letters)]]).save(other / "vocab.json")
    elif theirs == "another order":
        Vocabulary([*head, *reversed(letters)]).save(other / "vocab.json")
    elif theirs == "spoiled":
        (other / "vocab.json").write_text("{")
    else:
        (other / "vocab.json").unlink()
    torch.manual_seed(7)
    model, notes = build(other)
    torch.manual_seed(7)
    again, _ = build(other)

    old = build(saved)[0].lm_head
    assert "a new head" in notes
    assert not torch.isclose(model.lm_head.weight, old.weight).any()
    assert model.lm_head.weight.std().item() == pytest.approx(model.config.initializer_range, rel=0.2)
    assert (model.lm_head.bias == 0).all()
    assert torch.equal(model.lm_head.weight, again.lm_head.weight)


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": 64}, {"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"conv_dim": [16, 16, 32]}],
)
def test_settings_that_change_shapes_are_refused(saved: Path, change: dict[str, Any]) -> None:
    message = refused(saved, **change)

    assert f"model.pretrained={saved}" in message
    assert "Leave the settings that change shapes out of model.network" in message


def test_settings_that_leave_layers_out_of_a_network_without_a_head_are_refused(tmp_path: Path) -> None:
    Wav2Vec2Model(Wav2Vec2Config(**TINY)).save_pretrained(tmp_path / "base")

    assert "left over (for example encoder.layers.1." in refused(tmp_path / "base", num_hidden_layers=1)


def test_mask_of_a_pretrained_network_may_be_left_unused(tmp_path: Path) -> None:
    Wav2Vec2Model(Wav2Vec2Config(**{**TINY, "mask_time_prob": 0.1})).save_pretrained(tmp_path / "base")

    assert "a new head" in build(tmp_path / "base", mask_time_prob=0.0)[1]


def test_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    sizes = {name: value for name, value in TINY.items() if name not in ("ctc_loss_reduction",)}
    HubertModel(HubertConfig(**sizes)).save_pretrained(tmp_path / "hubert")

    message = refused(tmp_path / "hubert")
    assert f"model.pretrained={tmp_path / 'hubert'} must be a wav2vec2 network" in message
    assert "hubert instead" in message


def test_directory_without_a_network_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path)

    assert f"model.pretrained={tmp_path}" in message
    assert "config.json" in message


@pytest.mark.parametrize("pretrained", ["/no/such/place", "./nowhere", "~/nowhere-at-all", "a/b/c"])
def test_directory_that_is_not_there_is_refused(pretrained: str) -> None:
    message = refused(pretrained)

    assert f"model.pretrained={pretrained}" in message
    assert "does not exist" in message


@pytest.mark.parametrize("damage", ["no weights", "weights cut", "config.json spoiled"])
def test_damaged_directory_is_refused(saved: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
    weights = folder / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "weights cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        (folder / "config.json").write_text("{")

    assert f"model.pretrained={folder}" in refused(folder)


@pytest.mark.parametrize("pretrained", [None, "saved"])
def test_unknown_setting_is_refused_with_the_nearest(saved: Path, pretrained: str | None) -> None:
    message = refused(saved if pretrained else None, hiden_size=64)

    assert "model.network.hiden_size" in message
    assert "Did you mean hidden_size" in message


def test_setting_that_fits_no_network_is_refused() -> None:
    assert "model.network" in refused(**{**TINY, "num_attention_heads": 3})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"hidden_size": "big"}, id="a word for a number"),
        pytest.param({"conv_dim": [16, 16]}, id="lists of unequal length"),
        pytest.param({"hidden_act": "gelo"}, id="unknown activation"),
        pytest.param({"hidden_size": -4}, id="negative size"),
    ],
)
@pytest.mark.parametrize("pretrained", [None, "saved"])
def test_impossible_setting_is_refused(saved: Path, change: dict[str, Any], pretrained: str | None) -> None:
    message = refused(saved if pretrained else None, **{**TINY, **change})

    assert message.startswith("model.network does not describe a network")


def test_unknown_setting_like_no_other_says_where_settings_are_listed() -> None:
    message = refused(qqqqq=1)

    assert "https://huggingface.co/docs/transformers/model_doc/wav2vec2" in message
    assert len(message) < 300


@pytest.mark.parametrize("pretrained", ["my model/v1", "a\0b", "x" * 5000, "owner/name?"])
def test_name_that_no_hub_id_can_have_is_refused(pretrained: str) -> None:
    assert f"model.pretrained={pretrained} must be a hub id" in refused(pretrained)


@pytest.mark.parametrize("vocabulary", [True, False])
def test_head_of_a_model_from_the_hub_is_kept_if_its_vocabulary_is_ours(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocabulary: bool
) -> None:
    cached, commit = tmp_path / "models--me--tiny", "a" * 40
    shutil.copytree(saved, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    if not vocabulary:
        (cached / "snapshots" / commit / "vocab.json").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    assert build("me/tiny")[1] == ["weights of me/tiny", "its own head" if vocabulary else "a new head"]


def test_unreachable_hub_is_one_message_that_says_what_works_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    message = refused("facebook/wav2vec2-large-xlsr-53")
    assert "https://huggingface.co/facebook/wav2vec2-large-xlsr-53" in message
    assert "model=wav2vec2_tiny" in message
    assert "model.pretrained=DIR" in message


# ------------------------------------------------------------------------------------------ freezing, memory


def test_frozen_feature_encoder_is_not_trained_and_the_rest_is() -> None:
    model = recogniser(freeze_feature_encoder=True)

    frozen = {name for name, weight in model.network.named_parameters() if not weight.requires_grad}
    assert frozen == {
        n for n, _ in model.network.named_parameters() if n.startswith("wav2vec2.feature_extractor.")
    }


def gradients(**settings: Any) -> dict[str, torch.Tensor]:
    model = recogniser(**settings).train()
    model.training_step(collate(clips(0.5, 0.8)), 0).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def test_frozen_feature_encoder_leaves_the_other_gradients_as_they_are() -> None:
    free, frozen = gradients(), gradients(freeze_feature_encoder=True)

    assert frozen.keys() < free.keys()
    assert all(torch.allclose(free[name], gradient, atol=1e-6) for name, gradient in frozen.items())


def test_gradient_checkpointing_changes_no_gradient_even_with_a_frozen_feature_encoder() -> None:
    plain = gradients(freeze_feature_encoder=True)
    checkpointed = gradients(freeze_feature_encoder=True, gradient_checkpointing=True)

    assert checkpointed.keys() == plain.keys()
    assert all(torch.allclose(plain[name], gradient, atol=1e-6) for name, gradient in checkpointed.items())


# -------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("norm", NORMS)
def test_batched_logits_are_those_of_single_clips(norm: str) -> None:
    model = recogniser(network=NORMS[norm])
    given = clips(0.35, 1.31, 0.8, 1.0)

    with torch.inference_mode():
        together, frames = model(collate(given, padded_seconds=2.0))
        for row, clip in enumerate(given):
            alone, alone_frames = model(collate([clip]))
            assert frames[row] == alone_frames[0] == alone.shape[1]
            assert (together[row, : frames[row]] - alone[0]).abs().max() < 1e-4


def test_a_group_norm_that_saw_the_padding_would_fail_that_test() -> None:
    model = recogniser(network=NORMS["group"])
    given = clips(0.35, 1.31)
    layer = model.network.wav2vec2.feature_extractor.conv_layers[0]
    plain = torch.nn.GroupNorm(layer.layer_norm.num_groups, layer.layer_norm.num_channels)
    layer.layer_norm = plain

    with torch.inference_mode():
        together, frames = model(collate(given))
        alone, _ = model(collate(given[:1]))
    assert (together[0, : frames[0]] - alone[0]).abs().max() > 1e-2


@pytest.mark.parametrize("norm", NORMS)
def test_transcripts_do_not_depend_on_the_batch(norm: str) -> None:
    model = recogniser(network=NORMS[norm])
    given = clips(0.35, 1.31, 0.8)

    with torch.inference_mode():
        together = model.transcribe(*model(collate(given, padded_seconds=3.0)))
        alone = [model.transcribe(*model(collate([clip])))[0] for clip in given]
    assert together == alone
    assert len(set(together)) == 3  # they say something


def test_losses_do_not_depend_on_the_batch() -> None:
    model = recogniser(network=NORMS["group"])
    given = clips(0.35, 1.31, 0.8)

    with torch.inference_mode():
        batch = collate(given, padded_seconds=3.0)
        together = model._losses(*model(batch), batch)
        for row, clip in enumerate(given):
            single = collate([clip])
            assert torch.allclose(model._losses(*model(single), single)[0], together[row], atol=1e-4)


def test_transcript_is_cut_at_the_clips_true_length() -> None:
    model = recogniser()
    label = VOCABULARY.encode("perro")
    frames_of_ids = [0, label[0], label[1], label[2], 0, label[3], label[4]]
    logits = torch.nn.functional.one_hot(
        torch.tensor([frames_of_ids, frames_of_ids]), len(VOCABULARY)
    ).float()

    assert model.transcribe(logits, torch.tensor([7, 3])) == ["perro", "pe"]


@pytest.mark.parametrize("seconds", [0.1, 0.4, 1.0, 1.37])
def test_number_of_frames_is_known_beforehand(seconds: float) -> None:
    model = recogniser()
    batch = collate(clips(seconds))

    with torch.inference_mode():
        logits, frames = model(batch)
    assert model.num_frames(int(batch.lengths[0])) == logits.shape[1] == frames[0]


def test_no_frames_for_less_than_the_first_kernel() -> None:
    assert recogniser().num_frames(5) == 0


# ---------------------------------------------------------------------------------------------- PaddedGroupNorm


def test_without_padding_it_is_group_norm() -> None:
    plain, padded = torch.nn.GroupNorm(8, 8), PaddedGroupNorm(8, 8)
    torch.nn.init.normal_(plain.weight)
    torch.nn.init.normal_(plain.bias)
    padded.load_state_dict(plain.state_dict())
    hidden = 3 * torch.randn(4, 8, 50) + 1
    padded.num_frames = torch.full((4,), 50)

    assert torch.allclose(padded(hidden), plain(hidden), atol=1e-5)


def test_without_lengths_it_is_group_norm() -> None:
    hidden = torch.randn(2, 8, 50)

    assert torch.equal(PaddedGroupNorm(8, 8)(hidden), torch.nn.GroupNorm(8, 8)(hidden))


def test_frames_behind_a_clips_end_do_not_matter() -> None:
    norm = PaddedGroupNorm(8, 8)
    hidden = torch.randn(1, 8, 50)
    padded = torch.cat([hidden, torch.full((1, 8, 30), 1e4)], dim=-1)
    norm.num_frames = torch.tensor([50])

    assert torch.allclose(norm(padded)[..., :50], torch.nn.GroupNorm(8, 8)(hidden), atol=1e-5)


def test_half_precision_goes_in_and_out_and_does_not_overflow() -> None:
    norm = PaddedGroupNorm(8, 8)
    norm.num_frames = torch.tensor([20_000])
    normalised = norm(100 * torch.randn(1, 8, 20_000).half())

    assert normalised.dtype == torch.float16
    assert normalised.float().std().item() == pytest.approx(1.0, abs=0.01)


def test_it_takes_the_place_of_the_group_norm_alone() -> None:
    group, layer = build(**TINY, **NORMS["group"])[0], build(**TINY, **NORMS["layer"])[0]

    assert sum(isinstance(module, PaddedGroupNorm) for module in group.modules()) == 1
    assert not any(isinstance(module, PaddedGroupNorm) for module in layer.modules())


def test_a_networks_state_dict_keeps_transformers_names(tmp_path: Path) -> None:
    model, _ = build(**TINY, **NORMS["group"])
    model.save_pretrained(tmp_path / "again")

    assert torch.allclose(
        logits_of(Wav2Vec2ForCTC.from_pretrained(tmp_path / "again")), logits_of(model), atol=1e-5
    )


# ------------------------------------------------------------------------------------------ waveform and loss


def test_waveforms_are_normalised_as_transformers_does() -> None:
    given = clips(0.2, 0.5, 0.31)
    batch = collate(given, padded_seconds=0.6)
    valid = torch.arange(batch.audio.shape[1]) < batch.lengths[:, None]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    theirs = extractor(
        [clip.audio.astype(np.float32) / 32768 for clip in given],
        sampling_rate=RATE,
        padding="max_length",
        max_length=batch.audio.shape[1],
        return_tensors="pt",
    )

    assert torch.allclose(normalise_waveform(batch.audio, valid), theirs.input_values, atol=1e-4)
    assert torch.equal(valid.long(), theirs.attention_mask.long())


def test_padding_stays_zero_in_a_normalised_waveform() -> None:
    audio = torch.cat([torch.rand(1, 100) + 1, torch.zeros(1, 20)], dim=1)
    normalised = normalise_waveform(audio, torch.arange(120)[None] < 100)

    assert (normalised[:, 100:] == 0).all()
    assert normalised[:, :100].mean().abs() < 1e-5


def test_silence_is_normalised_to_silence() -> None:
    assert (normalise_waveform(torch.full((1, 100), 0.25), torch.ones(1, 100, dtype=torch.bool)) == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_loss_is_transformers_own(norm: str) -> None:
    model = recogniser(network=NORMS[norm])
    batch = collate(clips(0.5, 1.0, 0.8))
    labels = batch.targets.masked_fill(
        torch.arange(batch.targets.shape[1]) >= batch.target_lengths[:, None], -100
    )

    with torch.inference_mode():
        ours = model.training_step(batch, 0)
        valid = torch.arange(batch.audio.shape[1]) < batch.lengths[:, None]
        waveform = normalise_waveform(batch.audio, valid)
        theirs = model.network(waveform, attention_mask=valid.long(), labels=labels).loss
    assert torch.isfinite(ours)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_label_that_no_path_fits_costs_nothing_instead_of_infinity() -> None:
    model = recogniser()
    clip = clips(0.1)[0]
    long_label = VOCABULARY.encode(TEXT * 20)
    batch = collate([Clip("a", clip.audio, TEXT, long_label, {})])

    with torch.inference_mode():
        assert model.training_step(batch, 0) == 0


# ----------------------------------------------------------------------------------------- optimizer, schedule


def rates(schedule: Any, steps: int, warmup: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, steps, warmup)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_rate_rises_evenly_to_its_peak_and_ends_at_zero(schedule: Any) -> None:
    seen = rates(schedule, steps=100, warmup=9)

    assert np.allclose(np.diff(seen[:10]), 0.1)
    assert seen[9] == max(seen) == 1.0
    assert all(a > b for a, b in pairwise(seen[9:]))
    assert seen[0] > 0
    assert seen[-1] == pytest.approx(0.0, abs=1e-12)


def test_linear_falls_evenly() -> None:
    assert np.allclose(np.diff(rates(linear, steps=100, warmup=20)[20:]), -1 / 80)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    seen = rates(cosine, steps=100, warmup=20)

    assert seen[60] == pytest.approx(0.5)
    assert seen[40] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_warm_up_below_1_is_a_share_of_all_steps(schedule: Any) -> None:
    assert rates(schedule, steps=200, warmup=0.05) == rates(schedule, steps=200, warmup=10)


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_without_warm_up_the_first_step_has_the_peak_rate(schedule: Any) -> None:
    assert rates(schedule, steps=10, warmup=0.0)[0] == 1.0


@pytest.mark.parametrize("schedule", [linear, cosine])
@pytest.mark.parametrize("warmup", [5, 50])
def test_warm_up_as_long_as_the_run_or_longer_stays_finite(schedule: Any, warmup: int) -> None:
    seen = rates(schedule, steps=5, warmup=warmup)

    assert all(0 <= rate <= 1 for rate in seen)


def test_adamw_decays_matrices_but_neither_vectors_nor_the_head() -> None:
    model = recogniser()
    optimizer = adamw(model, lr=1e-3, weight_decay=0.1)

    decay = {id(w): group["weight_decay"] for group in optimizer.param_groups for w in group["params"]}
    for name, weight in model.named_parameters():
        expected = 0.1 if weight.ndim >= 2 and "lm_head" not in name else 0.0
        assert decay[id(weight)] == expected, name


def test_adamw_shrinks_a_matrix_without_gradient_and_leaves_the_head() -> None:
    model = recogniser()
    optimizer = adamw(model, lr=0.1, weight_decay=0.5)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    matrix, head = (
        model.network.wav2vec2.encoder.layers[0].attention.q_proj.weight,
        model.network.lm_head.weight,
    )
    before = matrix.detach().clone(), head.detach().clone()
    optimizer.step()

    assert torch.allclose(matrix, before[0] * 0.95)
    assert torch.equal(head, before[1])


def test_adamw_takes_trainable_weights_once_and_leaves_frozen_ones() -> None:
    model = recogniser(freeze_feature_encoder=True)
    given = [weight for group in adamw(model, lr=1e-3).param_groups for weight in group["params"]]

    assert {id(weight) for weight in given} == {
        id(weight) for weight in model.parameters() if weight.requires_grad
    }
    assert len(given) == len({id(weight) for weight in given})


def test_adamw_has_the_betas_it_was_given() -> None:
    optimizer = adamw(recogniser(), lr=2e-3, betas=[0.9, 0.98], eps=1e-6)

    assert all(
        (group["lr"], group["betas"], group["eps"]) == (2e-3, (0.9, 0.98), 1e-6)
        for group in optimizer.param_groups
    )
