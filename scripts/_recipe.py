"""The other side of bench_training: the 2024 reference recipe for XLSR-53 on FLEURS, run by Hugging Face's Trainer.

Its settings are the recipe's (batches of 4 clips grouped by length and padded to the longest, fp16 on a GPU, an
evaluation each epoch that collects all logits, argmax, ``batch_decode``), written anew. What differs favours it:

- labels are those of the text; the recipe decodes and encodes them again, and damages them;
- lengths for the grouping are a column, so that the Trainer need not read every clip to know them;
- nothing is saved; the run beside it writes its best and its last checkpoint;
- references are scored by torchmetrics, the recipe's `evaluate` being a package more.

Called with a JSON file that bench_training writes.
"""

import io
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STARTED = time.perf_counter()

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402
from _bench import weights_digest  # noqa: E402
from torchmetrics.text import WordErrorRate  # noqa: E402
from transformers import (  # noqa: E402
    Trainer,
    TrainerCallback,
    TrainingArguments,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from speechexp.text import normalise  # noqa: E402

_IGNORED = -100


@dataclass
class PaddedCollator:
    """Pads clips and labels to the longest of their batch; padded labels are ignored by the loss."""

    processor: Any

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        """Return a batch of tensors."""
        extractor, tokenizer = self.processor.feature_extractor, self.processor.tokenizer
        clips = [{"input_values": feature["input_values"]} for feature in features]
        batch = extractor.pad(clips, padding=True, return_tensors="pt")
        labels = tokenizer.pad(
            [{"input_ids": feature["labels"]} for feature in features], return_tensors="pt"
        )
        batch["labels"] = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, _IGNORED)
        return batch


class EpochClock(TrainerCallback):  # type: ignore[misc]
    """Adds up the time of the epochs' training steps, evaluations left out."""

    seconds = 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._began = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Stop; the epoch's evaluation comes after this."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._began


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Prepare, train and evaluate as a job says; return figures."""
    notes: dict[str, Any] = {
        "imports_seconds": time.perf_counter() - _STARTED,
        "threads": torch.get_num_threads(),
    }
    processor = _processor(Path(job["initial"]))
    clock = time.perf_counter()
    data = _prepared(job, processor)
    notes["data_seconds"] = time.perf_counter() - clock

    model = Wav2Vec2ForCTC.from_pretrained(
        job["initial"],
        **job["dropout"],
        ctc_loss_reduction="mean",
        pad_token_id=processor.tokenizer.pad_token_id,
        vocab_size=len(processor.tokenizer),
    )
    if job["freeze_feature_encoder"]:
        model.freeze_feature_encoder()
    if weights_digest(model.state_dict()) != job["initial_weights"]:
        raise RuntimeError(f"the weights are not those of {job['initial']}")

    last: dict[str, Any] = {}

    def compute_metrics(evaluated: Any) -> dict[str, float]:
        # The Trainer pads logits with -100 to the longest clip of the split; argmax of those is token 0, which is
        # the blank in this vocabulary. In the recipe's own it can be a letter.
        ids = np.argmax(evaluated.predictions, axis=-1)
        labels = np.where(
            evaluated.label_ids == _IGNORED, processor.tokenizer.pad_token_id, evaluated.label_ids
        )
        texts = processor.batch_decode(ids)
        references = processor.batch_decode(labels, group_tokens=False)
        last.update(texts=texts, references=references, wer=float(WordErrorRate()(texts, references)))
        return {"wer": last["wer"]}

    epochs = EpochClock()
    trainer = Trainer(
        model=model,
        args=_arguments(job),
        data_collator=PaddedCollator(processor),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=processor.feature_extractor,
        compute_metrics=compute_metrics,
        callbacks=[epochs],
    )
    clock = time.perf_counter()
    trainer.train()
    notes["training_seconds"] = time.perf_counter() - clock
    notes["steps_seconds"] = epochs.seconds
    notes["steps"] = trainer.state.global_step
    if torch.cuda.is_available():
        notes["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return {**notes, **last}


def _processor(folder: Path) -> Any:
    """Return a processor for the vocabulary and the kind of network that a folder holds."""
    norm = json.loads((folder / "config.json").read_text(encoding="utf-8"))["feat_extract_norm"]
    tokenizer = Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"),
        bos_token=None,
        eos_token=None,
        unk_token="<unk>",
        pad_token="<pad>",
        word_delimiter_token="|",
    )
    extractor = Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=16_000,
        padding_value=0.0,
        do_normalize=True,
        return_attention_mask=norm
        == "layer",  # transformers' documentation: networks with group norm take none
    )
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def _prepared(job: dict[str, Any], processor: Any) -> dict[str, Any]:
    """Decode, normalise and tokenise the clips, as each run of the recipe does."""
    files = {split: f"{job['clips']}/{split}-*.parquet" for split in ("train", "validation")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=job["cache"])

    def prepare(row: dict[str, Any]) -> dict[str, Any]:
        samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        values = processor.feature_extractor(samples, sampling_rate=rate).input_values[0]
        text = normalise(row["transcription"], job["normaliser"])
        return {"input_values": values, "labels": processor.tokenizer(text).input_ids, "length": len(values)}

    def prepared(rows: Any) -> Any:
        # datasets decodes with torchcodec, which needs FFmpeg's libraries; soundfile is no slower and needs none.
        encoded = rows.cast_column("audio", datasets.Audio(decode=False))
        return encoded.map(prepare, remove_columns=encoded.column_names)

    return {split: prepared(rows) for split, rows in loaded.items()}


def _arguments(job: dict[str, Any]) -> Any:
    gpu = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=job["output"],
        per_device_train_batch_size=job["batch"],
        num_train_epochs=job["epochs"],
        learning_rate=job["lr"],
        adam_beta1=job["betas"][0],
        adam_beta2=job["betas"][1],
        adam_epsilon=job["eps"],
        weight_decay=job["weight_decay"],
        lr_scheduler_type=job["schedule"],
        warmup_steps=job["warmup"],
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        remove_unused_columns=False,  # or the lengths would go before the sampler sees them
        gradient_checkpointing=job["gradient_checkpointing"],
        fp16=gpu,
        use_cpu=not gpu,
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        seed=job["seed"],
    )


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = main(given)
    Path(given["notes"]).write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
