"""One job of Hydra's: runs it, and turns how it ended into an exit code."""

import errno
import math
import sys
import traceback
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.markup import escape

from speechexp.console import errors, say, say_command, say_error
from speechexp.errors import Interrupted, OutOfMemory, UserError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def job(cfg: DictConfig) -> float | None:
    """Run one configuration and return the watched figure.

    A sweep goes on after a job that failed, whose figure is then nan.

    Raises:
        SystemExit: A single run did not end well, or a signal asked to stop.
    """
    from speechexp.run import run

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    if sweeping:
        say(f"\n[bold]job {hydra_config.job.num}[/bold]  {escape(folder.name)}")
    try:
        return run(cfg, folder, list(hydra_config.overrides.task), sweeping)
    except UserError as error:
        say_error(str(error))
        if isinstance(error, OutOfMemory) and (folder / "checkpoints" / "last.ckpt").is_file():
            say("To go on from the last checkpoint:")
            say_command("python -m speechexp", resume=folder, **error.settings)
        code = 2
    except Interrupted as stop:
        if stop.saved or (folder / "checkpoints" / "last.ckpt").is_file():
            say(
                "Saved a checkpoint. To go on:"
                if stop.saved
                else "Stopped. To go on from the last checkpoint:"
            )
            say_command("python -m speechexp", resume=folder)
        else:
            errors.print("Stopped; no checkpoint was saved for it.")
        sys.exit(128 + stop.signal_number)
    except KeyboardInterrupt:
        errors.print("Stopped before anything was done.")
        sys.exit(130)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            traceback.print_exc()
            code = 1
        else:
            say_error(_no_space(error, folder))
            code = 2
    except Exception:
        traceback.print_exc()
        code = 1
    if sweeping:
        return math.nan
    sys.exit(code)


def _no_space(error: OSError, folder: Path) -> str:
    last = folder / "checkpoints" / "last.ckpt"
    then = f" Then go on: python -m speechexp resume={folder}" if last.is_file() else ""
    return (
        f"The disk is full{f' (writing {error.filename})' if error.filename else ''}. Free some space.{then}"
    )
