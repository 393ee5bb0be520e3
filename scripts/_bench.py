"""What the benchmarks share: child processes with their time and memory, and the figures as a table and as JSON."""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import speechexp
from speechexp.console import console, say_error, say_row, say_table

__all__ = [
    "WORDS",
    "Ended",
    "arguments",
    "command_line",
    "environment",
    "fail",
    "median",
    "report",
    "run_child",
    "say_row",
    "say_table",
    "scratch_folder",
    "watched",
    "weights_digest",
]

# Common Spanish words, with what a clean-up of text tends to lose: ñ, ü, accents and doubled letters.
_TEXT = (
    "a al año ayer agua amarillo antes aquí así aunque avión bajo barco bien cada calle cañón ciudad clase comer "
    "común cómo con corazón cuando cuatro de debajo desde después día dijo donde él ella en encontró entonces "
    "entre era es español está este fue gente gobierno gran guerra ha había hacia hasta historia hizo hombre hoy "
    "investigación isla jamás joven la las leer leyó libro llamó llegó lluvia lo los luego lugar mañana más mayor "
    "menos mientras montaña muchos mujer mundo muy nación niños noche nombre norte nunca obra océano otra país "
    "palabra para parte pequeño pero perro población por porque primero pueblo puede que quién región río se según "
    "señor si sin sobre sólo su también tan tiempo todo tres tuvo último un una universidad varios vergüenza vez "
    "viaje vida viejo y ya zona"
)
WORDS = _TEXT.split()
WATCH_FILE = "SPEECHEXP_BENCH_WATCH"
_HERE = Path(__file__).resolve().parent
_PACKAGES = (
    "speechexp",
    "torch",
    "transformers",
    "pytorch-lightning",
    "datasets",
    "torchmetrics",
    "hydra-core",
    "numpy",
    "rapidfuzz",
    "accelerate",
)
# A child gets the threads that it would have on a user's machine, whatever this shell has set.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOMP_SPINCOUNT")


# -------------------------------------------------------------------------------------------- command line


def arguments(description: str, epilog: str = "", scratch: bool = False) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark takes.

    Args:
        description: What is measured.
        epilog: What to know beside the options.
        scratch: It writes into a `scratch_folder`, which can be chosen.
    """
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON, too")
    if scratch:
        parser.add_argument(
            "--scratch",
            type=Path,
            metavar="DIR",
            help="work in DIR and leave it there (default: a temporary one)",
        )
    return parser


def fail(message: str) -> None:
    """Say what is wrong and end with the code for what the user can mend."""
    say_error(message)
    sys.exit(2)


@contextlib.contextmanager
def scratch_folder(chosen: Path | None) -> Iterator[Path]:
    """Give an empty folder: a temporary one, or a new one within the chosen one, which stays."""
    if chosen is None:
        with tempfile.TemporaryDirectory(prefix="speechexp-bench-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    chosen.mkdir(parents=True, exist_ok=True)
    yield Path(tempfile.mkdtemp(prefix=time.strftime("%Y-%m-%d_%H-%M-%S_"), dir=chosen.resolve()))


# ------------------------------------------------------------------------------------------------- children


@dataclass(frozen=True)
class Ended:
    """How a child process ended.

    Attributes:
        started: `time.time` just before it was started.
        seconds: From there to its end.
        peak_bytes: The most memory that its main process had resident.
        output: What it wrote to stdout and stderr.
    """

    started: float
    seconds: float
    peak_bytes: int
    output: str


def environment(
    threads: int | None = None, cache: Path | None = None, more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of a child that imports the same speechexp as this process.

    Args:
        threads: Sets ``OMP_NUM_THREADS``; None leaves the number to the child.
        cache: Sets ``SPEECHEXP_CACHE``.
        more: Other variables.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _THREADS}
    root = str(Path(speechexp.__file__).resolve().parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    if threads is not None:
        kept["OMP_NUM_THREADS"] = str(threads)
    if cache is not None:
        kept["SPEECHEXP_CACHE"] = str(cache)
    return {**kept, **(more or {})}


def watched(child: Mapping[str, str], folder: Path, file: Path) -> dict[str, str]:
    """Return an environment in which a training notes what can't be seen from outside (see `_watch`).

    Lightning takes callbacks from installed packages by their entry points: a package that is nothing but such
    an entry point goes on the child's path, and the command line stays what a user types.

    Args:
        child: The child's environment.
        folder: Where that package is put.
        file: Where the notes are written, as JSON.
    """
    package = folder / "watch" / "speechexp_bench_watch-0.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: speechexp-bench-watch\nVersion: 0\n")
    (package / "entry_points.txt").write_text(
        "[pytorch_lightning.callbacks_factory]\nwatch = _watch:callbacks\n"
    )
    path = os.pathsep.join([child["PYTHONPATH"], str(package.parent), str(_HERE)])
    return {**child, "PYTHONPATH": path, WATCH_FILE: str(file)}


def command_line(*settings: str) -> list[str]:
    """Return the command of a run."""
    return [sys.executable, "-m", "speechexp", *settings]


def run_child(command: Sequence[str], child: Mapping[str, str], folder: Path, code: int = 0) -> Ended:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        child: Its environment.
        folder: Its working directory.
        code: The exit code that it must end with; otherwise this process ends, with what it wrote.
    """
    with tempfile.TemporaryFile() as output:
        started, clock = time.time(), time.perf_counter()
        process = subprocess.Popen(
            command, env=dict(child), cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        peak = _PeakMemory(process.pid)
        try:
            found = process.wait()
            seconds = time.perf_counter() - clock
        finally:
            process.kill()  # after Ctrl-C; one that has ended is left alone
            peak.stop()
        output.seek(0)
        written = output.read().decode(errors="replace")
    if found != code:
        fail(f"{shlex.join(command)}\nended with {found} instead of {code}:\n{written[-4000:]}")
    return Ended(started, seconds, peak.bytes, written)


class _PeakMemory(threading.Thread):
    """Reads the kernel's high-water mark of a process until it ends; the last tenth of a second may be missed.

    What `wait` tells (``ru_maxrss``) would count this process's own memory, which a child shares until it execs.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._status = Path(f"/proc/{pid}/status")
        self._stopped = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stopped.wait(0.1):
            with contextlib.suppress(OSError):  # it has just ended
                for line in self._status.read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self.bytes = max(self.bytes, int(line.split()[1]) * 1024)

    def stop(self) -> None:
        """End."""
        self._stopped.set()
        self.join()


def weights_digest(state: Mapping[str, Any]) -> str:
    """Return a hash of a network's weights: names, shapes and some values of each.

    Args:
        state: A ``state_dict``, with or without the prefix that a LightningModule puts before its names.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        weight = state[name].detach()
        sample = weight.flatten()[:: max(weight.numel() // 64, 1)].float().cpu().numpy().tobytes()
        digest.update(f"{name.removeprefix('network.')} {tuple(weight.shape)}".encode() + sample)
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------- figures


def median(values: Sequence[float]) -> float:
    """Return the middle of some values."""
    return float(statistics.median(values))


def report(figures: Mapping[str, Any], out: Path | None) -> None:
    """Say what was measured on what, and write it as JSON if a file is named.

    Args:
        figures: Flat names and values.
        out: The file.
    """
    here = _machine()
    gpu = f", {here['gpu']}" if here["gpu"] else ""
    load = here["load_average_at_the_end"]
    say_row("machine", f"{here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB{gpu}, load {load}")
    if out is None:
        return
    record = {
        **figures,
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": here,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    console.print(f"written     {out}", markup=False)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _machine() -> dict[str, Any]:
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    total = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(total.split()[1]) / 2**20, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "load_average_at_the_end": round(os.getloadavg()[0], 2),
    }
