"""Operations counted from a configuration are those that torch's own counter sees."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ASTConfig, ASTForAudioClassification, Wav2Vec2Config, Wav2Vec2ForCTC

from speechexp import ast_flops
from speechexp.flops import forward_flops, training_flops

# eager attention: the counter has no formula for what SDPA runs on a CPU
PLAIN = {"attn_implementation": "eager", "mask_time_prob": 0.0, "layerdrop": 0.0}
TINY = {"conv_dim": [32, 64, 128], "conv_kernel": [20, 8, 8], "conv_stride": [10, 8, 8], "feat_extract_norm": "group",
        "do_stable_layer_norm": True, "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 256, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 16}  # fmt: skip
# XLSR-53 and wav2vec2-base, an eighth as wide
XLSR = {"conv_dim": [64] * 7, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 512}  # fmt: skip
BASE = {"conv_dim": [64] * 7, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2,
        "intermediate_size": 384}  # fmt: skip
ODD = {**BASE, "num_conv_pos_embeddings": 33}
NETWORKS = {"tiny": TINY, "xlsr": XLSR, "base": BASE, "odd kernel": ODD}
BATCH, SAMPLES = 2, 24_123


def network(settings: dict) -> Wav2Vec2ForCTC:
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=34, **PLAIN, **settings)).train()
    model.wav2vec2.feature_extractor._requires_grad = (
        False  # no gradient of the waveform, as SpeechRecognizer
    )
    return model


def counted(model: Wav2Vec2ForCTC, backward: bool) -> int:
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.randn(BATCH, SAMPLES)).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


def overcounted(model: Wav2Vec2ForCTC) -> int:
    """Return what the counter gets wrong in the backward pass.

    For the gradient of a convolution's weight it takes every input channel with every output channel, also where
    groups keep them apart: it counts it as many times as there are groups (torch 2.11, conv_backward_flop).
    """
    config = model.config
    frames = int(model._get_feat_extract_output_lengths(torch.tensor(SAMPLES)))
    kernel, groups = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
    positions = frames + 1 - kernel % 2
    return (groups - 1) * 2 * BATCH * positions * config.hidden_size**2 // groups * kernel


@pytest.mark.parametrize("name", NETWORKS)
def test_a_forward_pass_is_counted_as_torch_counts_it(name):
    model = network(NETWORKS[name])
    assert forward_flops(model.config, BATCH, SAMPLES) == counted(model, False)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("frozen", [False, True], ids=["all trained", "frozen encoder"])
def test_a_training_step_is_counted_as_torch_counts_it(name, frozen):
    model = network(NETWORKS[name])
    if frozen:
        model.freeze_feature_encoder()
    wanted = counted(model, True) - overcounted(model)
    assert training_flops(model.config, BATCH, SAMPLES, frozen) == wanted


def test_layerdrop_counts_the_layers_that_are_expected_to_run():
    config = Wav2Vec2Config(**XLSR, layerdrop=0.0)
    whole = training_flops(config, 1, SAMPLES, False)
    config.layerdrop = 0.25
    three_quarters = training_flops(config, 1, SAMPLES, False)
    config.layerdrop, config.num_hidden_layers = 0.0, 3
    assert training_flops(config, 1, SAMPLES, False) == three_quarters < whole


def test_a_batch_costs_its_clips():
    config = Wav2Vec2Config(**XLSR)
    assert training_flops(config, 7, SAMPLES, True) == pytest.approx(
        7 * training_flops(config, 1, SAMPLES, True)
    )


def test_xlsr_53_takes_about_107_gflop_a_second_of_audio():
    config = Wav2Vec2Config(
        **{**XLSR, "conv_dim": [512] * 7, "hidden_size": 1024, "intermediate_size": 4096},
        vocab_size=34, layerdrop=0.0,
    )  # fmt: skip
    config.num_hidden_layers = 24
    assert training_flops(config, 1, 13 * 16_000, True) / 13 == pytest.approx(107e9, rel=0.01)


# The published AST, an eighth as wide with fewer layers, and one with patches that do not overlap.
AST = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 384,
       "num_labels": 527, "max_length": 128}  # fmt: skip
APART = {
    **AST,
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 8,
    "num_mel_bins": 40,
    "max_length": 101,
}


@pytest.mark.parametrize("settings", [AST, APART], ids=["overlapping", "apart"])
def test_an_asts_operations_are_counted_as_torch_counts_them(settings):
    torch.manual_seed(0)
    model = ASTForAudioClassification(ASTConfig(**settings, attn_implementation="eager")).train()
    config = model.config
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.randn(BATCH, config.max_length, config.num_mel_bins)).logits
        assert ast_flops.forward_flops(config, BATCH) == counter.get_total_flops()
        logits.sum().backward()
    assert ast_flops.training_flops(config, BATCH) == counter.get_total_flops()


def test_the_published_ast_takes_about_261_gflop_a_window():
    config = ASTConfig(num_labels=527)
    assert ast_flops.forward_flops(config, 1) == pytest.approx(261e9, rel=0.01)
