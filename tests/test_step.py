"""The training step: no wait for the device, the stock network's figures, clipping, precision, compiled layers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers_ast import FRAMES, save
from helpers_models import NORMS, clips, collate, recogniser
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from speechexp.asr import SpeechRecognizer
from speechexp.ast_network import build_network
from speechexp.batch import AudioBatch
from speechexp.compiling import compile_layers
from speechexp.errors import UserError
from speechexp.forward import draw_spans, encode_features
from speechexp.optim import adamw
from speechexp.wav2vec2 import normalise_waveform

# everything that is drawn or decided in a step
RANDOM = {
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "layerdrop": 0.3,
    "mask_time_prob": 0.2,
    "mask_feature_prob": 0.1,
    "mask_feature_length": 4,
}


def trainer(*plugins: Any, precision: Any = None) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", precision=precision, plugins=list(plugins), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def stock(model: SpeechRecognizer, batch: AudioBatch) -> torch.Tensor:
    """Return the logits that transformers' own forward pass gives."""
    valid = torch.arange(batch.audio.shape[1], device=batch.audio.device) < batch.lengths[:, None]
    waveform = normalise_waveform(batch.audio, valid)
    logits: torch.Tensor = model.network(waveform, attention_mask=valid.long()).logits
    return logits


# --------------------------------------------------------------------------------------- no wait for the device


# Tensors of the meta device have no values: whatever would read one, and so wait for a device, raises.
@pytest.mark.parametrize("recompute", [False, True], ids=["", "recompute"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_training_step_reads_nothing_from_the_device(norm: str, attention: str, recompute: bool) -> None:
    model = recogniser(network={**NORMS[norm], **RANDOM}, gradient_checkpointing=recompute)
    model.network.set_attn_implementation(attention)
    model = model.to("meta").train()
    model.trainer = trainer()
    batch = collate(clips(0.5, 0.8)).to("meta")

    logits, frames = model(batch)
    losses = model._losses(logits, frames, batch)
    logits.sum().backward()  # the loss's own backward pass is not written for meta tensors
    model.configure_gradient_clipping(torch.optim.SGD(model.parameters()), 1.0)
    assert losses.device.type == model.gradient_norm.device.type == "meta"


@pytest.mark.parametrize("network", [{}, {"mask_time_prob": 0.2}], ids=["padding", "masking"])
def test_transformers_own_forward_pass_would_fail_that_test(network: dict[str, Any]) -> None:
    model = recogniser(network={**NORMS["layer"], **network}).to("meta").train()

    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        stock(model, collate(clips(0.5, 0.8)).to("meta"))


class Reads(TorchDispatchMode):
    """Lists the operators that need a tensor's values on the host."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in func.__name__ for name in self.NAMES):
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_loss_backward_clipping_and_optimizer_read_nothing_either() -> None:
    model = recogniser(network={**NORMS["group"], **RANDOM}).train()
    model.trainer = trainer()
    optimizer, batch = adamw(model, lr=1e-3), collate(clips(0.5, 0.8))

    with Reads() as reads:
        model.training_step(batch, 0).backward()
        model.configure_gradient_clipping(optimizer, 1.0)
        optimizer.step()
    assert reads.found == []


def test_a_read_put_into_the_step_would_fail_that_test() -> None:
    with Reads() as reads:
        torch.ones(1).item()
    assert reads.found == ["_local_scalar_dense.default"]


class Calls(TorchFunctionMode):
    """Lists the calls that give a tensor's values to the host."""

    NAMES = frozenset({"cpu", "numpy", "item", "tolist", "__bool__", "__int__", "__float__", "nonzero"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, torch.dtype]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in self.NAMES:
            self.found.append((name, args[0].dtype))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("step", ["validation_step", "test_step", "predict_step"])
def test_of_an_evaluation_batch_only_the_ids_go_to_the_host(step: str) -> None:
    model, batch = recogniser(network=NORMS["group"]), collate(clips(0.5, 0.8))

    with Calls() as calls, torch.inference_mode():
        getattr(model, step)(batch, 0)
    assert calls.found == [("cpu", torch.int64), ("numpy", torch.int64)]


def test_the_evaluations_loss_is_the_mean_over_clips_of_all_batches() -> None:
    model = recogniser(network=NORMS["layer"])
    batches = [collate(clips(0.5, 0.8)), collate(clips(0.6, seed=1))]
    logged = {}
    model.log = lambda name, value: logged.update({name: float(value)})  # type: ignore[method-assign]

    with torch.inference_mode():
        for number, batch in enumerate(batches):
            model.validation_step(batch, number)
        model.on_validation_epoch_end()
        losses = torch.cat([model._losses(*model(batch), batch) for batch in batches])
    assert logged["val/loss"] == pytest.approx(float(losses.mean()), rel=1e-6)


def test_a_batch_is_copied_to_the_device_whole_and_keeps_what_the_host_knows() -> None:
    batch = collate(clips(0.5, 0.8))
    moved = batch.to("meta")

    assert moved.audio.device.type == moved.lengths.device.type == "meta"
    assert moved.num_samples == batch.lengths.tolist()
    assert moved.num_labels == batch.target_lengths.tolist()


@pytest.mark.gpu
def test_on_a_gpu_the_step_waits_nowhere_but_in_torchs_own_ctc_loss() -> None:
    """torch's CTC copies the lengths of a batch to the device, forward and backward, and waits for each copy."""
    model = recogniser(network={**NORMS["layer"], **RANDOM}, freeze_feature_encoder=True).cuda().train()
    model.trainer = trainer(MixedPrecision("16-mixed", "cuda"))
    scaler, optimizer = model.trainer.precision_plugin.scaler, adamw(model, lr=1e-3)
    batch = collate(clips(0.5, 0.8)).pin_memory()

    def step() -> None:
        moved = batch.to("cuda")
        with torch.autocast("cuda", torch.float16):
            loss = model.training_step(moved, 0)
        scaler.scale(loss).backward()
        model.configure_gradient_clipping(optimizer, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    def loss_alone(logits: torch.Tensor, frames: list[int], moved: AudioBatch) -> None:
        model._losses(logits, frames, moved).mean().backward()

    def waits(function: Any, *arguments: Any) -> int:
        with pytest.warns(UserWarning) as caught:
            torch.cuda.set_sync_debug_mode("warn")
            try:
                function(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(each.message) for each in caught)

    for _ in range(2):  # the first step makes handles, workspaces and the optimizer's state
        step()
    moved = batch.to("cuda")
    logits, frames = model(moved)
    logits = logits.detach().requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(moved)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits(step) == waits(loss_alone, logits, frames, moved)


# ---------------------------------------------------------------------------------------- the stock network's figures


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("norm", ["layer", "layer, post-norm"])
@pytest.mark.parametrize("durations", [(0.35, 1.31, 0.8), (0.5, 0.5), (0.7,)], ids=str)
def test_logits_are_those_of_transformers_own_forward_pass(
    norm: str, attention: str, durations: tuple[float, ...]
) -> None:
    model = recogniser(network=NORMS[norm])
    model.network.set_attn_implementation(attention)
    batch = collate(clips(*durations), padded_seconds=1.4 if len(durations) == 3 else None)

    with torch.inference_mode():
        ours, frames = model(batch)
        theirs = stock(model, batch)
    assert ours.shape == theirs.shape
    for row, count in enumerate(frames):
        assert (ours[row, :count] - theirs[row, :count]).abs().max() <= 1e-5


@pytest.mark.parametrize("norm", ["layer", "layer, post-norm"])
def test_gradients_are_those_of_transformers_own_forward_pass(norm: str) -> None:
    model = recogniser(network=NORMS[norm]).train()
    batch, found = collate(clips(0.5, 0.8)), []
    for logits in (model(batch)[0], stock(model, batch)):
        model.zero_grad()
        model._losses(logits, model(batch)[1], batch).mean().backward()
        found.append({name: weight.grad for name, weight in model.named_parameters()})

    for name, gradient in found[1].items():
        assert torch.allclose(found[0][name], gradient, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("norm", ["layer", "layer, post-norm"])
def test_what_is_masked_in_training_is_what_transformers_would_mask(norm: str) -> None:
    masking = {"mask_time_prob": 0.3, "mask_feature_prob": 0.3, "mask_feature_length": 4}
    model = recogniser(network={**NORMS[norm], **masking}).train()
    batch = collate(clips(0.5, 1.2, 0.8))

    np.random.seed(3)
    ours = model(batch)[0]
    np.random.seed(3)
    assert torch.allclose(ours, stock(model, batch), atol=1e-5)
    np.random.seed(4)
    assert not torch.allclose(ours, model(batch)[0], atol=1e-2)


def test_a_pretrained_network_is_trained_with_dropout_and_masks_too(tmp_path: Path) -> None:
    recogniser(network=NORMS["layer"]).network.save_pretrained(tmp_path / "pretrained")
    task = recogniser().task
    network = {"mask_time_prob": 0.3, "hidden_dropout": 0.1, "layerdrop": 0.1}
    model = SpeechRecognizer(
        task, str(tmp_path / "pretrained"), network=network, optimizer=lambda module: adamw(module, lr=0.0)
    )
    batch, losses = collate(clips(0.5, 0.8)), []
    model.on_train_batch_end = lambda outputs, *_: losses.append(float(outputs["loss"]))  # type: ignore[method-assign]
    fitting = trainer()
    fitting.fit_loop.max_epochs = 1
    fitting.fit(model, torch.utils.data.DataLoader([batch, batch, batch], batch_size=None))

    assert len(set(losses)) == 3  # nothing was learned: it is what is drawn that differs


def test_evaluation_masks_and_drops_nothing() -> None:
    plain, random = recogniser(network=NORMS["layer"]), recogniser(network={**NORMS["layer"], **RANDOM})
    random.load_state_dict(plain.state_dict(), strict=False)
    batch = collate(clips(0.5, 0.8))

    with torch.inference_mode():
        assert torch.equal(plain(batch)[0], random(batch)[0])


def test_clips_shorter_than_a_masked_span_are_trained_on_unmasked() -> None:
    model = recogniser(network={**NORMS["layer"], "mask_time_prob": 0.9, "mask_time_length": 30}).train()
    batch = collate(clips(0.1, 0.12))
    assert model(batch)[0].shape[1] < 30

    assert torch.isfinite(model.training_step(batch, 0))
    assert draw_spans(model.network.config, [20, 25], 25) == (None, None)


def test_a_dropped_layer_is_not_computed() -> None:
    model = recogniser(network={**NORMS["layer"], "layerdrop": 0.5}).train()
    seen: list[int] = []
    for number, layer in enumerate(model.network.wav2vec2.encoder.layers):
        layer.register_forward_hook(lambda *_, number=number: seen.append(number))

    counts = []
    for seed in range(40):
        np.random.seed(seed)
        seen.clear()
        model(collate(clips(0.2)))
        counts.append(len(seen))
    assert set(counts) == {0, 1, 2}
    assert 0.3 < 1 - np.mean(counts) / 2 < 0.7


def test_a_network_with_an_adapter_is_refused() -> None:
    with pytest.raises(UserError, match=r"Set model\.network\.add_adapter=false"):
        recogniser(network={**NORMS["layer"], "add_adapter": True})


# ------------------------------------------------------------------------------------------- frozen convolutions


@pytest.mark.parametrize("recompute", [False, True], ids=["", "recompute"])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_of_frozen_convolutions_nothing_is_kept_for_the_backward_pass(norm: str, recompute: bool) -> None:
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    batch = collate(clips(0.5, 0.8))
    model = recogniser(network=NORMS[norm], freeze_feature_encoder=True).train()
    model.network.wav2vec2.feature_extractor._requires_grad = True  # asks for the waveform's gradient
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = encode_features(model.network, batch, recompute)
        assert kept == []
        trained = encode_features(recogniser(network=NORMS[norm]).train().network, batch)
    assert features.grad_fn is None and not features.requires_grad
    assert trained.grad_fn is not None and kept
    assert torch.equal(features, trained)


# ---------------------------------------------------------------------------------------------- gradient clipping


def moments_after_a_step(scaler: torch.amp.GradScaler | None, limit: float | None) -> dict[str, Any]:
    """Return the gradient's norm, and Adam's first moments, which are a tenth of the gradient it was given."""
    model = recogniser(network=NORMS["layer"]).train()
    model.trainer = trainer(*([MixedPrecision("16-mixed", "cpu", scaler)] if scaler else []))
    optimizer = adamw(model, lr=1e-3)
    loss = model.training_step(collate(clips(0.5, 0.8)), 0)
    (scaler.scale(loss) if scaler else loss).backward()
    model.configure_gradient_clipping(optimizer, limit)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    moments = [optimizer.state[weight]["exp_avg"] for weight in model.parameters()]
    return {"norm": model.gradient_norm, "moments": moments}


@pytest.mark.parametrize("limit", [0.05, 1e6, None])
def test_a_scaled_loss_is_clipped_by_its_true_norm(limit: float | None) -> None:
    plain = moments_after_a_step(None, limit)
    scaled = moments_after_a_step(torch.amp.GradScaler("cpu", init_scale=2.0**16), limit)

    assert plain["norm"] > 0.05
    assert scaled["norm"].item() == pytest.approx(plain["norm"].item(), rel=1e-5)
    for one, other in zip(scaled["moments"], plain["moments"], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-8)


def test_clipping_leaves_the_limits_norm() -> None:
    moments = moments_after_a_step(None, 0.05)["moments"]

    assert torch.nn.utils.get_total_norm(moments).item() == pytest.approx(0.005, rel=1e-3)


def test_a_step_whose_scaled_gradient_overflows_is_left_out() -> None:
    model = recogniser().train()
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    model.trainer = trainer(MixedPrecision("16-mixed", "cpu", scaler))
    optimizer = adamw(model, lr=1e-3)
    before = [weight.detach().clone() for weight in model.parameters()]
    scaler.scale(1e9 * model.training_step(collate(clips(0.5, 0.8)), 0)).backward()
    model.configure_gradient_clipping(optimizer, 1.0)
    scaler.step(optimizer)
    scaler.update()

    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    assert scaler.get_scale() < 3e38


class Batches(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(
            [collate(clips(0.5, 0.8, seed=n)) for n in range(4)], batch_size=None
        )


def test_lightning_with_a_scaler_gives_the_same_norm_as_without() -> None:
    norms = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**12)):
        plugin = [MixedPrecision("16-mixed", "cpu", scaler)] if scaler else []
        model = recogniser(network=NORMS["layer"], optimizer=lambda module: adamw(module, lr=1e-4))
        fitting = trainer(*plugin)
        fitting.fit_loop.max_epochs, fitting.gradient_clip_val = 1, 0.5
        fitting.fit(model, Batches())
        norms.append(model.gradient_norm.item())
    assert norms[1] == pytest.approx(norms[0], rel=0.2)  # fp16 beside 32-bit


# ---------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("norm", NORMS)
def test_in_bf16_the_waveform_and_the_loss_stay_in_32_bits(norm: str) -> None:
    model = recogniser(network=NORMS[norm]).train()
    batch = collate(clips(0.5, 1.0))
    waveforms: list[torch.Tensor] = []
    model.network.wav2vec2.feature_extractor.register_forward_pre_hook(
        lambda _, inputs: waveforms.append(inputs[0])
    )

    plain = model.training_step(batch, 0)
    with torch.autocast("cpu", torch.bfloat16):
        logits, frames = model(batch)
        losses = model._losses(logits, frames, batch)
    assert logits.dtype == torch.bfloat16
    assert torch.equal(waveforms[1], waveforms[0]) and waveforms[1].dtype == torch.float32
    assert losses.dtype == torch.float32
    assert losses.mean().item() == pytest.approx(plain.item(), rel=0.05)


# ----------------------------------------------------------------------------------------------------- compiling


def compiles() -> bool:
    from speechexp.compiling import missing_to_compile

    return not missing_to_compile(torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.skipif(not compiles(), reason="needs a C++ compiler and Python's headers")
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_compiled_layers_give_the_logits_and_gradients_of_eager_ones(norm: str) -> None:
    settings: dict[str, Any] = {"network": NORMS[norm], "gradient_checkpointing": norm == "layer"}
    eager, compiled = recogniser(**settings).train(), recogniser(**settings).train()
    compile_layers(compiled.network, torch.device("cpu"))
    assert list(compiled.state_dict()) == list(eager.state_dict())

    for durations in ((0.5, 0.8), (1.31, 1.0, 0.4)):
        batch, found = collate(clips(*durations)), []
        for model in (eager, compiled):
            model.zero_grad()
            logits, frames = model(batch)
            model._losses(logits, frames, batch).mean().backward()
            gradients = {name: weight.grad for name, weight in model.named_parameters()}
            found.append((logits.detach(), gradients))
        assert torch.allclose(found[0][0], found[1][0], atol=1e-4)
        scale = torch.nn.utils.get_total_norm(list(found[0][1].values()))
        for name, gradient in found[0][1].items():
            assert (found[1][1][name] - gradient).abs().max() <= 1e-4 * scale, name

    compiled.eval()
    with torch.inference_mode():  # what was compiled for training serves evaluation as well
        assert torch.allclose(compiled(batch)[0], eager.eval()(batch)[0], atol=1e-4)
    eager.load_state_dict(compiled.state_dict())


@pytest.mark.slow
@pytest.mark.skipif(not compiles(), reason="needs a C++ compiler and Python's headers")
@pytest.mark.parametrize("recompute", [False, True], ids=["", "recompute"])
def test_compiled_layers_of_an_ast_give_the_logits_and_gradients_of_eager_ones(
    tmp_path: Path, recompute: bool
) -> None:
    save(tmp_path)
    models = [build_network(None, False, pretrained=str(tmp_path), head="own").network for _ in range(2)]
    eager, compiled = models
    compile_layers(compiled, torch.device("cpu"))
    assert list(compiled.state_dict()) == list(eager.state_dict())

    for windows in (3, 1):
        features = torch.randn(windows, FRAMES, 26)
        for model in models:
            if recompute:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            model.zero_grad()
            logits = model.train()(features).logits
            logits.square().mean().backward()
            model.last = logits.detach()
        assert torch.allclose(compiled.last, eager.last, atol=1e-4)
        for (name, weight), other in zip(compiled.named_parameters(), eager.parameters(), strict=True):
            assert torch.allclose(weight.grad, other.grad, rtol=1e-3, atol=1e-5), name
    layer = compiled.audio_spectrogram_transformer.layers[0]
    assert layer._compiled_call_impl is not None
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0


def test_without_a_compiler_compiling_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = recogniser(compile=True)
    model.trainer = trainer()

    with pytest.raises(
        UserError, match=r"model\.compile=true needs a C\+\+ compiler.*set model\.compile=false"
    ):
        model.setup("fit")
    model.setup("test")


def test_a_network_of_a_checkpoint_is_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = recogniser(compile=True)
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")

    again = SpeechRecognizer.from_checkpoint(model.task, tmp_path / "last.ckpt")
    again.trainer = trainer()
    again.setup("fit")
    batch = collate(clips(0.5, 0.8))
    with torch.inference_mode():
        assert torch.equal(again.eval()(batch)[0], model(batch)[0])
