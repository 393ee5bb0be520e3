"""What an earlier run was given: ``resume=`` and ``ckpt=`` take its settings over."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from speechexp.config import GROUPS, flatten, parse
from speechexp.errors import UserError
from speechexp.paths import expand
from speechexp.run_folder import read_record

_NOT_RECORDED = ("stage", "ckpt", "inputs", "resume")
# Names, or how names begin. Batches may change, since a run that ran out of memory must be able to go on.
_FREE = (
    "trainer.",
    *_NOT_RECORDED,
    "data.num_workers",
    "data.cache_dir",
    "data.batch_seconds",
    "data.eval_batch_seconds",
    "model.gradient_checkpointing",
    "model.compile",
    "model.segmentation_batch",
    "model.embedding_batch",
    "model.tune_trials",
)
# A checkpoint's weights are averages, or they are not.
_FIXED = ("trainer.weight_averaging",)
# What makes a network what it is, by how names begin: a checkpoint has its own.
_NETWORK = ("model.network.", "model.window_seconds", "model.pretrained", "model.head")


def to_record(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that make a run what it is: not the stage, nor where it was written."""
    kept = []
    for text, override in zip(overrides, parse(overrides), strict=True):
        if override.key_or_group not in _NOT_RECORDED and not override.key_or_group.startswith("hydra"):
            kept.append(text)
    return kept


def with_recorded(typed: Sequence[str]) -> list[str]:
    """Put the recorded overrides of the run that ``resume=`` or ``ckpt=`` names before what was typed.

    What was typed wins; where it chooses a group, what was recorded below that group goes.

    Raises:
        UserError: ``resume=`` names no run that can be gone on with.
    """
    given = {each.key_or_group: each.value() for each in parse(typed) if not each.is_sweep_override()}
    result = list(typed)
    run: Path | None = None
    resume = given.get("resume")
    if resume not in (None, False):
        if any(key in ("hydra.run.dir", "hydra.sweep.dir") for key in given):
            raise UserError("resume= goes on in the run's own folder: leave hydra.run.dir out.")
        run = _latest_unfinished() if resume is True else expand(str(resume))
        _check_resumable(run)
        result = [each for each in result if each.split("=", 1)[0] != "resume"]
        result += [f"resume='{run}'", f"hydra.run.dir='{run}'"]
    elif given.get("ckpt") is not None:
        run = expand(str(given["ckpt"])).parent.parent
    if run is None:
        return result
    chosen = {name for name in given if name in (*GROUPS, "experiment")}
    record = read_record(run)
    if "task" in record and given.get("task", record["task"]) != record["task"]:
        raise UserError(
            f"{run} is a run of task={record['task']}, not of task={given['task']}. Leave task= out."
        )
    recorded: list[str] = record.get("overrides", [])
    if record and given.get("ckpt") is not None:
        _refuse_other_network(typed, recorded, run)
    kept = []
    for text, override in zip(recorded, parse(recorded), strict=True):
        key = override.key_or_group
        if key not in given and key.split(".")[0] not in chosen:
            kept.append(text)
    return [*kept, *result]


def _refuse_other_network(typed: Sequence[str], recorded: Sequence[str], run: Path) -> None:
    """Refuse settings of the network that a checkpoint would not take up."""
    for text, override in zip(typed, parse(typed), strict=True):
        if override.key_or_group.startswith(_NETWORK) and text not in recorded:
            raise UserError(
                f"{text} can't be changed now: the checkpoint's network is as {run / 'config.yaml'} has it. "
                "Leave it out."
            )


def _check_resumable(run: Path) -> None:
    record = read_record(run)
    if not record:
        raise UserError(f"resume={run} must be the folder of a run, but holds no run.json.")
    if not (run / "checkpoints" / "last.ckpt").is_file():
        raise UserError(
            f"resume={run}: the run stopped before it saved a checkpoint, there is nothing to go on from. "
            "Start it anew, in another folder."
        )
    if record.get("state") == "done" and record.get("stage") != "fit":
        raise UserError(f"resume={run}: that run was a {record.get('stage')}, not a training.")


def _latest_unfinished() -> Path:
    """Return the unfinished run below ``outputs`` that began last."""
    found = []
    for file in Path("outputs").glob("**/run.json"):
        record = read_record(file.parent)
        if record.get("state") != "done" and (file.parent / "checkpoints" / "last.ckpt").is_file():
            found.append((record.get("started", ""), file.parent))
    if not found:
        raise UserError(
            f"resume=true: no unfinished run lies below {Path('outputs').resolve()}. Name it: resume=RUN-FOLDER"
        )
    return max(found)[1]


def refuse_changes(cfg: DictConfig, folder: Path) -> None:
    """Refuse to resume with what would make the weights those of neither run.

    Raises:
        UserError: The model, the data, the task or the seed differ from the run's ``config.yaml``.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"resume={folder} must be the folder of a run, but holds no config.yaml.")
    before, now = flatten(OmegaConf.load(path)), flatten(cfg)
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key) and (key in _FIXED or not key.startswith(_FREE)):
            raise UserError(
                f"resume={folder} goes on with that run's settings, where {key} is {before.get(key)!r}, not "
                f"{now.get(key)!r}. Leave {key} out, or start a new run without resume=."
            )
