"""The module around AST: what it makes of clips, alone and in batches, and that a run resumes exactly."""

import copy
import json
import pickle
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers_audio import RATE
from transformers import ASTFeatureExtractor, ASTForAudioClassification

from speechexp.ast_tagger import AudioTagger
from speechexp.batch import AudioBatch, Clip
from speechexp.batches import DurationBatches
from speechexp.corpora.sound_mini import SoundMini
from speechexp.errors import Interrupted, UserError
from speechexp.labels import SoundClass
from speechexp.optim import adamw, linear
from speechexp.signals import StopSignal
from speechexp.tagging import AudioTagging
from speechexp.trainer import build_trainer

CLASSES = [SoundClass("Siren"), SoundClass("Speech"), SoundClass("Whistle")]
TINY: dict[str, Any] = {
    "num_mel_bins": 32,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "initializer_range": 0.5,  # steep enough that a difference would show
    "hidden_dropout_prob": 0.1,
}


def tagger(mode: str = "multi_label", window_seconds: float = 1.0, **settings: Any) -> AudioTagger:
    torch.manual_seed(0)
    task = AudioTagging(mode=mode)  # type: ignore[arg-type]
    task.adopt(CLASSES, "a test")
    return AudioTagger(task, window_seconds=window_seconds, network=TINY, **settings)


def clip(seconds: float, *target: int, seed: int = 0) -> Clip:
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(round(seconds * RATE)) * 3000 * np.linspace(0.1, 1, round(seconds * RATE))
    return Clip(f"clip{seconds}-{seed}", samples.astype(np.int16), "[]", target, {})


def batch_of(*clips: Clip, padded_seconds: float | None = None) -> AudioBatch:
    longest = max(len(each.audio) for each in clips)
    return AudioBatch.collate(clips, round(padded_seconds * RATE) if padded_seconds else longest, RATE)


def scores(module: AudioTagger, batch: AudioBatch) -> torch.Tensor:
    with torch.inference_mode():
        return module._scores(batch)[1]


def test_scores_are_those_of_the_extractor_and_the_network_of_transformers(tiny_audioset_checkpoint):
    task = AudioTagging(mode="multi_label")
    module = AudioTagger(task, pretrained=str(tiny_audioset_checkpoint), head="own").eval()
    extractor = ASTFeatureExtractor.from_pretrained(tiny_audioset_checkpoint)
    network = ASTForAudioClassification.from_pretrained(tiny_audioset_checkpoint).eval()
    clips = [clip(0.1), clip(0.7), clip(1.28)]
    with torch.inference_mode():
        waves = [each.audio.astype(np.float32) / 32768 for each in clips]
        features = extractor(waves, sampling_rate=RATE, return_tensors="pt")
        wanted = network(**features).logits.sigmoid()
    assert scores(module, batch_of(*clips)) == pytest.approx(wanted, abs=1e-3)
    assert len(task.classes) == 527


@pytest.mark.parametrize("mode", ["multi_label", "single_label"])
def test_a_long_clip_has_the_mean_scores_of_windows_that_cover_it(mode):
    module = tagger(mode).eval()
    long = clip(2.5)
    starts = module.window_starts(len(long.audio))
    frames = module.filterbank.num_frames(len(long.audio))
    assert starts[0] == 0
    assert starts[-1] == frames - module.window_frames
    assert max(np.diff(starts)) <= module.window_frames
    samples = (module.window_frames - 1) * 160 + 400
    windows = [Clip("", long.audio[first * 160 : first * 160 + samples], "[]", (), {}) for first in starts]
    wanted = torch.cat([scores(module, batch_of(each)) for each in windows]).mean(0)
    assert scores(module, batch_of(long))[0] == pytest.approx(wanted, abs=1e-5)


def test_scores_do_not_depend_on_the_batch_or_its_padding():
    module = tagger().eval()
    clips = [clip(0.3, seed=1), clip(1.0, seed=2), clip(3.7, seed=3), clip(1.02, seed=4)]
    together = scores(module, batch_of(*clips, padded_seconds=5.0))
    alone = torch.cat([scores(module, batch_of(each)) for each in clips])
    assert together == pytest.approx(alone, abs=1e-5)


def test_the_loss_of_a_long_clip_is_that_of_its_mean_scores():
    for mode in ("multi_label", "single_label"):
        module = tagger(mode).eval()
        batch = batch_of(clip(2.5, 1))
        given = scores(module, batch)[0].double()
        loss = module._losses(module._scores(batch)[0], module._targets(batch))[0]
        if mode == "single_label":
            wanted = -given[1].log()
        else:
            wanted = -(given[1].log() + (1 - given[0]).log() + (1 - given[2]).log()) / 3
        assert float(loss) == pytest.approx(float(wanted), rel=1e-4)


def test_rolling_keeps_all_of_a_clip_whatever_is_behind_it():
    from speechexp.augment import roll

    np.random.seed(0)
    features = torch.arange(12.0)[None, :, None].repeat(2, 1, 1)
    rolled = roll(features, [12, 7])
    assert sorted(rolled[0].flatten().tolist()) == list(range(12))
    assert sorted(rolled[1, :7].flatten().tolist()) == list(range(7))
    assert rolled[1, 7:].flatten().tolist() == list(range(7, 12))
    assert not torch.equal(rolled, features)


def test_every_weight_gets_a_gradient_from_mixed_masked_rolled_clips():
    module = tagger(mixup_share=1.0, mask_frames=20, mask_bins=8, roll=True).train()
    loss = module.training_step(batch_of(clip(1.5, 0, seed=1), clip(0.5, 1, 2, seed=2)), 0)
    loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in module.parameters())


def test_a_training_step_asks_the_device_for_nothing():
    # tensors on torch's meta device have no values to read
    module = tagger(mixup_share=1.0, mask_frames=20, mask_bins=8, roll=True).train().to("meta")
    batch = batch_of(clip(1.5, 0, seed=1), clip(0.5, 1, 2, seed=2)).to("meta")
    assert module.training_step(batch, 0).device.type == "meta"


def test_a_network_that_diverged_is_told_as_such():
    module = tagger().eval()
    with torch.no_grad():
        module.network.classifier.dense.bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"diverged.*model\.optimizer\.lr"), torch.inference_mode():
        module.score(batch_of(clip(0.5, 0)))


def test_normalisation_and_thresholds_come_back_with_a_checkpoint(tagged):
    from speechexp.checkpoint import read_checkpoint

    ckpt = tagged / "checkpoints" / "best.ckpt"
    state = read_checkpoint(ckpt)["speechexp"]
    task = AudioTagging()
    module = AudioTagger.from_checkpoint(task, ckpt)
    assert module.normalisation.mean == pytest.approx(state["normalisation"]["mean"])
    assert -12 < module.normalisation.mean < -4  # measured, not AudioSet's -4.27
    written = [json.loads(line) for line in (tagged / "classes.jsonl").read_text().splitlines()]
    assert module.thresholds == [each["threshold"] for each in written]
    assert [str(each) for each in task.classes] == [
        str(SoundClass(each["name"], each["mid"])) for each in written
    ]


def test_a_task_and_its_data_reach_other_processes(cache_dir):
    task = AudioTagging()
    data = SoundMini(task, train_clips=60, validation_clips=20, test_clips=20, silence_peak=None)
    data.load(lambda *_: None)
    task.learn(data)
    module = AudioTagger(task, window_seconds=1.0, network=TINY)
    clips = pickle.loads(pickle.dumps(data.clips("train")))
    assert clips[0].target == data.clips("train")[0].target
    assert copy.deepcopy(module).task.classes == task.classes  # as the search for a batch size does


def test_balanced_classes_come_equally_often():
    task = AudioTagging(mode="single_label")
    task.adopt(CLASSES, "a test")
    references = [
        f'["{name}"]' for name, count in (("Siren", 30), ("Speech", 6), ("Whistle", 3)) for _ in range(count)
    ]
    weights = task.balancing_weights(references)
    lengths = np.full(len(references), RATE)
    batches = DurationBatches(lengths, 4 * RATE, RATE, seed=1, weights=weights)
    counts = {"Siren": 0, "Speech": 0, "Whistle": 0}
    for epoch in range(10):
        drawn = [number for batch in batches.epoch(epoch) for number in batch]
        assert len(drawn) == len(references)
        for number in drawn:
            counts[references[number][2:-2]] += 1
    assert all(abs(count - 130) <= 10 for count in counts.values()), counts
    assert list(batches.epoch(3, 2)) == list(batches.epoch(3))[2:]  # a run that resumes draws the same


# ---------------------------------------------------------------------------------------------- resuming


class StopAt(pl.Callback):
    def __init__(self, stop: StopSignal, step: int) -> None:
        self.stop, self.step = stop, step

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            self.stop.received = signal.SIGTERM


def train(folder: Path, stop_at: int | None, resume: bool) -> AudioTagger:
    pl.seed_everything(3, verbose=False)
    task = AudioTagging()
    data = SoundMini(
        task, train_clips=60, validation_clips=20, test_clips=20, seed=3, balance_classes=True, silence_peak=None,
        batch_seconds=12.0,
    )  # fmt: skip
    data.load(lambda *_: None)
    task.learn(data)
    module = AudioTagger(
        task, window_seconds=1.0, network=TINY, mixup_share=0.5, mask_frames=20, mask_bins=8, roll=True,
        optimizer=partial(adamw, lr=1e-2), schedule=partial(linear, warmup=3),
    )  # fmt: skip
    module.meet(data)
    module.learn_from(data)
    stop = StopSignal()
    trainer = build_trainer(folder, seed=3, stop=stop, accelerator="cpu", max_epochs=2, weight_averaging=0.9)
    if stop_at is not None:
        trainer.callbacks.insert(0, StopAt(stop, stop_at))
    ckpt = str(folder / "checkpoints" / "last.ckpt") if resume else None
    if stop_at is None:
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    else:
        with pytest.raises(Interrupted):
            trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    return module


def test_stopped_and_resumed_equals_never_stopped(tmp_path, cache_dir):
    wanted = train(tmp_path / "whole", None, resume=False)
    train(tmp_path / "stopped", 6, resume=False)
    found = train(tmp_path / "stopped", None, resume=True)
    for name, weight in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name
    assert found.thresholds == wanted.thresholds
