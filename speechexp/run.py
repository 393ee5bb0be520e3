"""A run: builds the four objects and goes through the stage that was asked for."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from speechexp import __version__
from speechexp.config import flatten
from speechexp.console import progress_bar, say, say_command, say_row, say_table
from speechexp.errors import OutOfMemory, UserError
from speechexp.hardware import share_cores
from speechexp.paths import expand, write_text
from speechexp.recorded import refuse_changes, to_record
from speechexp.run_folder import RunFolder
from speechexp.signals import StopSignal

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from speechexp.data import AudioData
    from speechexp.module import TaskModule
    from speechexp.task import Task


_COMPARED = ("model.optimizer.lr", "data.batch_seconds", "trainer.max_epochs", "seed")


def run(cfg: DictConfig, folder: Path, overrides: Sequence[str] = (), sweeping: bool = False) -> float | None:
    """Run a configuration in a folder.

    Args:
        cfg: Composed and checked.
        folder: The run's own.
        overrides: What was typed, for ``run.json``.
        sweeping: Keep the folder of a refused job, so that the sweep can list it.

    Returns:
        The watched figure where the stage has one.

    Raises:
        UserError: Something the user can mend.
        Interrupted: A signal asked to stop.
    """
    folder = folder.resolve()
    _say_header(cfg, folder)
    facts = {"stage": cfg.stage, "task": cfg.task.name, "seed": cfg.seed, "overrides": to_record(overrides)}
    resume = cfg.resume is not None
    stop = StopSignal()
    if resume:
        refuse_changes(cfg, folder)
    with RunFolder.claimed(folder, resume, facts) as run_folder, stop.installed():
        write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        try:
            return Run(cfg, run_folder, stop).stage()
        except UserError as error:
            begun = isinstance(error, OutOfMemory) or (folder / "checkpoints").exists()
            run_folder.refused = not (resume or sweeping or begun)
            raise


def _say_header(cfg: DictConfig, folder: Path) -> None:
    say(f"[bold]speechexp {__version__}[/bold]")
    say_row("stage", cfg.stage + (f"  {cfg.ckpt}" if cfg.ckpt else ""))
    for group in ("task", "data", "model"):
        say_row(group, _choice(cfg, group))
    say_row("run folder", str(folder))


def _choice(cfg: DictConfig, group: str) -> str:
    from hydra.core.hydra_config import HydraConfig

    named = HydraConfig.get().runtime.choices.get(group) if HydraConfig.initialized() else None
    return str(named or cfg[group]["_target_"])


class Run:
    """The stages of a run, over the objects that they share.

    Args:
        cfg: The configuration.
        folder: The claimed folder.
        stop: Tells that a signal has come.
    """

    def __init__(self, cfg: DictConfig, folder: RunFolder, stop: StopSignal) -> None:
        self.cfg = cfg
        self.folder = folder
        self.stop = stop

    def stage(self) -> float | None:
        """Go through the stage that ``cfg.stage`` names."""
        with self.folder.phase("imports"):
            share_cores(os.environ)
            import pytorch_lightning as pl
            from hydra.utils import instantiate

            self._instantiate = instantiate
            pl.seed_everything(self.cfg.seed, workers=True, verbose=False)
            self.task: Task = self._build("task")
            self.trainer = (
                self._build_trainer()
            )  # first: a GPU that isn't there is said before data is prepared
        self._require_access()
        stages = {"fit": self.fit, "test": self.test, "predict": self.predict, "prepare": self.prepare}
        try:
            return stages[self.cfg.stage]()
        except Exception as error:
            from speechexp.memory import is_out_of_memory

            if isinstance(error, UserError) or not is_out_of_memory(error):
                raise
            raise self._out_of_memory(error) from error

    def _require_access(self) -> None:
        """Name every page on the hub whose conditions must be accepted, before anything is fetched."""
        from hydra.utils import get_class

        pages = []
        if self.cfg.stage != "predict":
            self._data = self._build_data()
            pages += self._data.gated_pages()
        if self.cfg.stage != "prepare" and self.cfg.ckpt is None:
            kind: Any = get_class(self.cfg.model["_target_"])
            pages += kind.gated_pages(self.cfg.model)
        if pages:
            from speechexp.gated import require_access

            require_access(pages)

    def _build_data(self) -> "AudioData":
        data: AudioData = self._build("data", task=self.task, seed=self.cfg.seed)
        return data

    def _out_of_memory(self, error: Exception) -> OutOfMemory:
        from speechexp.ran_out import BatchUnderWay, out_of_memory

        watch = next(c for c in self.trainer.callbacks if isinstance(c, BatchUnderWay))  # type: ignore[attr-defined]
        checkpointing = bool(self.cfg.model.get("gradient_checkpointing"))
        on_gpu = self.trainer.strategy.root_device.type != "cpu"
        return out_of_memory(error, watch.facts, checkpointing, on_gpu)

    def _build(self, group: str, **beside: Any) -> Any:
        """Instantiate a group; what its own constructor refuses is the user's to mend."""
        from hydra.errors import InstantiationException

        try:
            return self._instantiate(self.cfg[group], **beside, _convert_="all")
        except InstantiationException as error:
            cause = error.__cause__
            if isinstance(cause, UserError):
                raise cause from None
            if isinstance(cause, (TypeError, ValueError)) or cause is None:
                raise UserError(f"{group} can't be built: {str(cause or error).splitlines()[0]}") from error
            raise

    # ----------------------------------------------------------------------------------------- stages

    def prepare(self) -> None:
        """Fill the cache."""
        self._report_data(self._load_data())

    def fit(self) -> float | None:
        """Train, then test the best checkpoint."""
        last = self.folder.path / "checkpoints" / "last.ckpt"
        resume = self.cfg.resume is not None
        if resume:
            from speechexp.checkpoint import STATE_KEY, read_checkpoint

            self.task.load_state(read_checkpoint(last)[STATE_KEY]["task"], last)
        data = self._load_data()
        data.require("train", "validation")
        self.task.learn(data)
        module = self._module()
        with self.folder.phase("model"):
            module.make_optimizer()  # so that what it refuses is refused now
            module.meet(data)
            module.learn_from(data)
        data.require("train", "validation")
        self._report_data(data)
        self._say_model(module)
        self._settle_batches(module, data)
        trainer = self.trainer
        (self.folder.path / "checkpoints").mkdir(exist_ok=True)
        self.task.save_labels(self.folder.path / "checkpoints")
        self.folder.write_record()
        if module.tests_before:
            self._test_before(trainer, module, data)
        with self.folder.phase("fit"), self.stop.deferred():
            trainer.fit(module, data, ckpt_path=str(last) if resume else None, weights_only=True)
        return self._finish_fit(trainer, module, data)

    def _finish_fit(self, trainer: "pl.Trainer", module: "TaskModule", data: "AudioData") -> float | None:
        from speechexp.epochs import best_epoch, read_epochs
        from speechexp.report import say_cost
        from speechexp.tensorboard import log_hparams, writer_of
        from speechexp.throughput import Throughput

        throughput = next(c for c in trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
        say_cost(throughput.figures())
        figures = self.folder.read_metrics() | throughput.figures()
        epochs = read_epochs(self.folder.path)
        best = best_epoch(epochs, self.task.watched, self.task.watched_mode)
        figures |= {key: value for key, value in best.items() if key.startswith("val/")}
        checkpoint = self.folder.path / "checkpoints" / "best.ckpt"
        if not checkpoint.is_file():
            checkpoint = checkpoint.with_name("last.ckpt")
        if checkpoint.name == "best.ckpt":
            with self.folder.phase("tune"):
                figures |= module.after_training(trainer, data, checkpoint, self.cfg.seed)
        if data.count("test") and trainer.limit_test_batches != 0:
            figures |= self._test(trainer, module, data, checkpoint)
        else:
            say("[yellow]There is no test clip, so nothing was tested.[/yellow]")
        self.folder.write_metrics(figures)
        writer = writer_of(trainer)
        if writer is not None:
            shown = {self.task.watched, *self._test_titles()}
            tagged = {key: value for key, value in figures.items() if key in shown}
            log_hparams(writer, self._hparams(), tagged)
            writer.flush()
        table = self.task.describe_training(figures)
        if table:
            say_table(table[0], table[1:])
        self._report()
        say_row("figures", str(self.folder.path / "metrics.json"))
        exported = type(module).export(self.task, checkpoint, self.folder.path)
        if exported is not None:
            say_row("exported", str(exported))
        which = f"epoch {best['epoch']}" if best else "the last step"
        say_row("checkpoint", f"{checkpoint} ({which})")
        say("\n[bold]next[/bold]")
        say_command(f"tensorboard --logdir {shlex.quote(str(self.folder.path.parent))}")
        say_command("python -m speechexp stage=test", ckpt=checkpoint)
        say_command("python -m speechexp stage=predict", "inputs=FILES-OR-FOLDER", ckpt=checkpoint)
        longer = 2 * self.cfg.trainer.get("max_epochs", 5)
        say_command("python -m speechexp", f"trainer.max_epochs={longer}", resume=self.folder.path)
        watched = figures.get(self.task.watched)
        return None if watched is None else float(watched)

    def test(self) -> float | None:
        """Score a checkpoint on the test split."""
        module = self._module()
        data = self._load_data()
        data.require("test")
        self.task.learn(data)
        module.meet(data)
        self._report_data(data)
        self._say_model(module)
        trainer = self.trainer
        figures = self._test(trainer, module, data, None)
        self.folder.write_metrics(figures)
        self._report()
        say_row("figures", str(self.folder.path / "metrics.json"))
        return figures.get(f"test/{self.task.headline}")

    def predict(self) -> None:
        """Say of files what the network hears in them."""
        from speechexp.config import input_paths
        from speechexp.predict import predict_files

        module = self._module()
        data = self._build_data()
        trainer = self.trainer
        data.trainer = trainer
        module.meet(data)
        with self.folder.phase("predict"):
            records = predict_files(module, trainer, data, input_paths(self.cfg.inputs))
        self.task.write_predicted(self.folder.path, records)
        say_row("\nwritten", str(self.folder.path / "predictions.jsonl"))
        if (self.folder.path / "diarization").is_dir():
            say_row("", f"{self.folder.path / 'diarization'}: an RTTM and a JSON file for each recording")

    # ------------------------------------------------------------------------------------------ parts

    def _load_data(self) -> "AudioData":
        data = self._data
        with self.folder.phase("data"), progress_bar() as show:
            data.load(show, check=self.cfg.stage == "prepare")
        self.folder.record["data_fingerprint"] = data.prepared.fingerprint
        return data

    def _report_data(self, data: "AudioData") -> None:
        from speechexp.report import say_data, say_labels

        say_data(data)
        if data.drops:
            self.folder.write_lines("dropped.jsonl", [vars(drop) for drop in data.drops])
            say_row("dropped", f"each clip, with its reason, is in {self.folder.path / 'dropped.jsonl'}")
        self.folder.record |= {"watched": self.task.watched, "watched_mode": self.task.watched_mode}
        if self.cfg.stage == "prepare":
            say_row("cache", str(data.prepared.folder))
        else:
            self.folder.record |= say_labels(self.task, data)

    def _say_model(self, module: "TaskModule") -> None:
        weights = sum(weight.numel() for weight in module.parameters())
        trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
        share = "" if trained == weights else f", {trained / 1e6:.2f} M of them trained"
        name = type(module.network).__name__
        say_row("network", f"{name}, {weights / 1e6:.2f} M weights{share}: {', '.join(module.notes)}")

    def _settle_batches(self, module: "TaskModule", data: "AudioData") -> None:
        """Find what ``data.batch_seconds=auto`` stands for; a run that resumes keeps what it had."""
        known = self.folder.record.get("batch_seconds")
        if data.batch_seconds == "auto" and known is not None:
            data.batch_seconds = known
            say_row("batch", f"auto: {known:g} s of audio, as before")
        elif data.batch_seconds == "auto":
            from speechexp.largest_batch import settle

            with self.folder.phase("batch"):
                say_row("batch", settle(module, data, self.trainer))
        self.folder.record["batch_seconds"] = data.batch_seconds

    def _build_trainer(self) -> "pl.Trainer":
        from speechexp.hardware import Machine

        trainer: pl.Trainer = self._build(
            "trainer",
            run_folder=self.folder.path,
            seed=self.cfg.seed,
            stop=self.stop,
        )
        machine = Machine.here()
        on_gpu = trainer.strategy.root_device.type == "cuda"
        self.folder.record["device"] = machine.gpus[0] if on_gpu else f"CPU, threads: {machine.threads}"
        self.folder.record["hip"] = machine.hip_version
        self.folder.record["cuda"] = machine.cuda_version
        self.folder.record["precision"] = str(trainer.precision)
        return trainer

    def _module(self) -> "TaskModule":
        """Build the network: a checkpoint's, or the one that the model's settings describe."""
        from hydra.utils import get_class

        with self.folder.phase("model"):
            if self.cfg.ckpt is None:
                module: TaskModule = self._build("model", task=self.task)
            else:
                kind: Any = get_class(self.cfg.model["_target_"])
                module = kind.from_checkpoint(self.task, expand(str(self.cfg.ckpt)))
                module.adjust(
                    **{name: self.cfg.model[name] for name in kind.adjustable if name in self.cfg.model}
                )
        return module

    def _test_before(self, trainer: "pl.Trainer", module: "TaskModule", data: "AudioData") -> None:
        """Score the network as it comes; a run that resumes has done so already."""
        known = self.folder.read_metrics()
        name = f"test/before/{self.task.headline}"
        if not data.count("test") or trainer.limit_test_batches == 0:
            return
        if name not in known:
            with self.folder.phase("test before"):
                trainer.test(module, data, verbose=False)
            scored = self.task.score(self._scored(module, data), self.cfg.seed)
            known |= {f"test/before/{name}": value for name, value in scored.items()}
            self.folder.write_metrics(known)
        say_row("before", f"test/{self.task.headline} {known[name]:.4f} as the network comes")

    def _test(
        self, trainer: "pl.Trainer", module: "TaskModule", data: "AudioData", ckpt: Path | None
    ) -> dict[str, float]:
        from speechexp.report import say_examples, say_figures

        with self.folder.phase("test"):
            trainer.test(
                module, data, ckpt_path=None if ckpt is None else str(ckpt), verbose=False, weights_only=True
            )
        records = self._scored(module, data)
        figures = {f"test/{name}": value for name, value in self.task.score(records, self.cfg.seed).items()}
        figures["test/loss"] = float(trainer.callback_metrics["test/loss"])
        figures |= {f"test/{name}": value for name, value in module.costs().items()}
        self.task.write_predictions(self.folder.path, records)
        self.folder.write_metrics(self.folder.read_metrics() | figures)
        for logger in trainer.loggers:
            scalars = {key: figures[key] for key in self._test_titles()}
            logger.log_metrics(scalars, step=trainer.global_step)
        say_figures(self.task, figures)
        say_examples(self.task, records)
        return figures

    def _scored(self, module: "TaskModule", data: "AudioData") -> list[dict[str, Any]]:
        """Return what the module has recorded of the test clips, in the data's order."""
        if not module.records:
            raise UserError("No test clip was scored. See trainer.limit_test_batches.")
        order = {clip_id: place for place, clip_id in enumerate(data.ids("test"))}
        return sorted(module.records, key=lambda record: order[record["id"]])

    def _test_titles(self) -> list[str]:
        """Return the names of the test figures that curves and tables show."""
        return [name.replace("val/", "test/") for name in self.task.titles]

    def _hparams(self) -> dict[str, Any]:
        """Return the settings that TensorBoard compares: those always asked for, and those that were typed.

        It shows few columns at once, in alphabetical order: with all settings the swept one would be hidden.
        """
        typed = [override.split("=", 1)[0].lstrip("+~") for override in self.folder.record["overrides"]]
        flat = flatten(self.cfg) | {"data.batch_seconds": self.folder.record["batch_seconds"]}
        chosen = {
            name: _choice(self.cfg, name) for name in typed if name in ("task", "model", "data", "trainer")
        }
        return chosen | {name: flat[name] for name in (*_COMPARED, *typed) if flat.get(name) is not None}

    def _report(self) -> None:
        from speechexp.report import write_report

        with self.folder.phase("report"):
            write_report(self.folder.path)
        say_row("report", str(self.folder.path / "report.html"))
