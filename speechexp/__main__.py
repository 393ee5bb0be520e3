"""The command line: ``python -m speechexp`` and ``speechexp``.

Everything that can be refused is refused here, in well under a second, before torch is imported.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from speechexp.console import say_error
from speechexp.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 mendable by the user, 1 a defect.

    Args:
        arguments: What follows the program's name; by default what was typed.
    """
    import hydra
    from hydra._internal.utils import get_args_parser

    from speechexp import __version__
    from speechexp.config import CONFIG_MODULE
    from speechexp.job import job

    typed = list(sys.argv[1:] if arguments is None else arguments)
    if "--version" in typed:
        print(f"speechexp {__version__}")
        return 0
    parsed = get_args_parser().parse_args(typed)
    looking = parsed.help or parsed.hydra_help or parsed.shell_completion
    if looking or parsed.info is not None or parsed.experimental_rerun is not None:
        plan = typed
    else:
        try:
            plan = _checked(typed, parsed)
        except UserError as error:
            say_error(str(error))
            return 2
    before = sys.argv
    sys.argv = [before[0], *plan]
    try:
        hydra.main(config_path=f"pkg://{CONFIG_MODULE}", config_name="config", version_base="1.3")(job)()
    except KeyboardInterrupt:
        return 130
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    finally:
        sys.argv = before
    if parsed.multirun and not parsed.cfg:
        from speechexp.sweep import finish_sweep

        return finish_sweep(Path(_value_of(plan, "hydra.sweep.dir")))
    return 0


def _checked(typed: list[str], parsed: object) -> list[str]:
    """Return the arguments for Hydra: what was typed, what a run recorded, and where to write.

    Raises:
        UserError: Anything is wrong.
    """
    from speechexp.config import check, compose_config, variants
    from speechexp.recorded import with_recorded
    from speechexp.run_folder import refuse_used

    typed_overrides: list[str] = parsed.overrides  # type: ignore[attr-defined]
    config_dir: str | None = parsed.config_dir  # type: ignore[attr-defined]
    multirun: bool = parsed.multirun  # type: ignore[attr-defined]
    options = [each for each in typed if each not in typed_overrides]
    overrides = with_recorded(typed_overrides)
    configs = []
    for variant in variants(overrides) if multirun else [overrides]:
        cfg = compose_config(variant, config_dir)
        check(cfg)
        configs.append(cfg)
    if parsed.cfg:  # type: ignore[attr-defined]
        return [*options, *overrides]
    hydra_config = configs[0].hydra
    setting = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    folder = Path(str(hydra_config.sweep.dir if multirun else hydra_config.run.dir))
    chosen = any(each.split("=", 1)[0].lstrip("+~") == setting for each in overrides)
    if not chosen:
        folder = _free(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{setting}={folder} can't be written ({error.strerror}). Choose another with {setting}=DIR."
        ) from error
    if not multirun:
        refuse_used(folder, resume=configs[0].resume is not None)
    extra = []
    if not chosen:
        extra.append(f"{setting}='{folder}'")
    if multirun and "hydra.sweep.subdir" not in " ".join(overrides):
        extra.append(_subdir(overrides))
    return [*options, *overrides, *extra]


def _free(folder: Path) -> Path:
    """Return a folder that isn't there yet: two runs may begin in the same second."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate


def _subdir(overrides: list[str]) -> str:
    """Name a sweep's job folders by what is swept, so that TensorBoard shows it: ``0_lr-0.001``."""
    from speechexp.config import parse

    parts = ["${hydra.job.num}"]
    for override in parse(overrides):
        name = override.key_or_group
        values = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
        if not values or any(len(value) > 24 or not _is_tame(value) for value in values):
            continue
        group = "/" in name or name in ("task", "model", "data", "trainer", "experiment")
        reference = f"${{hydra:runtime.choices.{name}}}" if group else f"${{{name}}}"
        parts.append(f"{name.split('.')[-1]}-{reference}")
    return f"hydra.sweep.subdir='{'_'.join(parts[:4])}'"


def _is_tame(value: str) -> bool:
    return all(character.isalnum() or character in "._+-" for character in value)


def _value_of(arguments: Sequence[str], setting: str) -> str:
    values = [each.split("=", 1)[1] for each in arguments if each.split("=", 1)[0] == setting]
    return values[-1].strip("'\"")


if __name__ == "__main__":
    sys.exit(main())
