"""Which hardware a run uses, and how: decided in one place from plain facts, so that it can be tested anywhere."""

import ctypes
import os
import re
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speechexp.errors import UserError
from speechexp.prepare import default_cache_dir, usable_cores

AcceleratorName = Literal["auto", "cpu", "cuda", "rocm"]

# Dense peak rates in TFLOP/s from the vendors' data sheets and whitepapers, by the whole name that torch gives a
# device, since variants of a name differ in rate: fp16 and bf16 with sums in fp32, and what 32-bit training uses, which
# is TF32 where the device has it ("high" matrix precision). Rates with sparsity are halved. Left out is what isn't
# sure: on AMD's MI300 series whether torch uses TF32; "MI250X/MI250", a name of two devices; parts of a GPU.
_PEAKS: dict[str, tuple[float | None, float | None, float | None]] = {
    r"Tesla V100-SXM2-(16|32)GB": (125.0, None, 15.7),
    r"Tesla V100-PCIE-(16|32)GB": (112.0, None, 14.0),
    r"Tesla T4": (65.0, None, 8.1),
    r"NVIDIA A10": (125.0, 125.0, 62.5),
    r"(NVIDIA )?A100-(SXM4|PCIE)-(40|80)GB|NVIDIA A100 80GB PCIe": (312.0, 312.0, 156.0),
    r"NVIDIA L4": (121.0, 121.0, 60.0),
    r"NVIDIA L40S": (362.0, 362.0, 183.0),
    r"NVIDIA H100 80GB HBM3": (989.4, 989.4, 494.7),
    r"NVIDIA H100 PCIe": (756.0, 756.0, 378.0),
    r"NVIDIA H100 NVL": (835.5, 835.5, 417.5),
    r"NVIDIA H200": (989.4, 989.4, 494.7),
    r"NVIDIA H200 NVL": (835.5, 835.5, 417.5),
    r"NVIDIA B200": (2250.0, 2250.0, None),
    r"(NVIDIA )?GeForce RTX 3090": (71.0, 71.0, 35.6),
    r"NVIDIA GeForce RTX 4090": (165.2, 165.2, 82.6),
    r"AMD Instinct MI210": (181.0, 181.0, 45.3),
    r"AMD Instinct MI250X": (191.5, 191.5, 47.9),  # each of its two dies is a device
    r"AMD Instinct MI300X|AMD Instinct MI325X": (1307.4, 1307.4, None),
    r"AMD Instinct MI355X": (2516.6, 2516.6, None),
    r"(AMD )?Radeon RX 7900 XTX": (122.8, 122.8, 61.4),
}


@dataclass(frozen=True)
class Machine:
    """What torch says of the machine.

    Attributes:
        hip_version: ``torch.version.hip``: None unless torch was built for ROCm.
        cuda_version: ``torch.version.cuda``.
        gpus: Names of the GPUs that can be used; ROCm's count, since torch calls them cuda too.
        threads: Threads that torch uses on the CPU.
    """

    hip_version: str | None
    cuda_version: str | None
    gpus: tuple[str, ...]
    threads: int

    @classmethod
    def here(cls) -> "Machine":
        """Look at this machine."""
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return cls(
            hip_version=torch.version.hip,
            cuda_version=torch.version.cuda,
            gpus=tuple(torch.cuda.get_device_name(i) for i in range(count)),
            threads=torch.get_num_threads(),
        )


@dataclass(frozen=True)
class Choice:
    """What a run uses, in Lightning's words, and why, in ours."""

    accelerator: Literal["cpu", "gpu"]
    precision: str
    explanation: str
    rocm: bool


def choose(machine: Machine, accelerator: AcceleratorName, precision: str) -> Choice:
    """Decide on hardware and precision.

    Raises:
        UserError: The accelerator that was asked for is not there.
    """
    rocm = machine.hip_version is not None
    platform = f"ROCm, HIP {machine.hip_version}" if rocm else f"CUDA {machine.cuda_version}"
    if accelerator in ("cuda", "rocm"):
        if rocm != (accelerator == "rocm"):
            built = "ROCm" if rocm else "CUDA" if machine.cuda_version else "CPUs only"
            raise UserError(
                f"trainer={accelerator} needs a torch built for {accelerator.upper()}, but this one is built for "
                f"{built}. Use trainer=auto, or install the other torch (see the README)."
            )
        if not machine.gpus:
            raise UserError(
                f"trainer={accelerator} needs a GPU, but torch sees none. Use trainer=auto or trainer=cpu."
            )
    if accelerator == "cpu" or not machine.gpus:
        why = "asked for" if accelerator == "cpu" else "torch sees no GPU"
        chosen = "32-true" if precision == "auto" else precision
        threads = "1 thread" if machine.threads == 1 else f"{machine.threads} threads"
        return Choice("cpu", chosen, f"CPU, {threads} ({why}), {_words(chosen)}", False)
    chosen = "16-mixed" if precision == "auto" else precision
    return Choice("gpu", chosen, f"{machine.gpus[0]} ({platform}), {_words(chosen)}", rocm)


def _words(precision: str) -> str:
    names = {"32-true": "32-bit", "16-mixed": "fp16 mixed precision", "bf16-mixed": "bf16 mixed precision"}
    return names.get(precision, precision)


def known_peak_tflops(gpu: str, precision: str) -> float | None:
    """Return the dense peak rate of a GPU in TFLOP/s.

    Args:
        gpu: Its name, as ``torch.cuda.get_device_name`` gives it.
        precision: In Lightning's words.

    Returns:
        None where the device or the precision isn't known.
    """
    column = {"16": 0, "bf16": 1, "32": 2}.get(precision.split("-")[0])
    for name, peaks in _PEAKS.items():
        if column is not None and re.fullmatch(name, gpu.strip()):
            return peaks[column]
    return None


def rocm_environment(environment: MutableMapping[str, str], cache_dir: Path | None = None) -> None:
    """Set what MIOpen reads before its first kernel, unless the user has set it.

    MIOpen compiles and searches kernels for each new shape: the fast find mode searches little, and a database
    that outlives the process keeps what was found.
    """
    folder = (cache_dir or default_cache_dir()) / "miopen"
    folder.mkdir(parents=True, exist_ok=True)
    environment.setdefault("MIOPEN_FIND_MODE", "2")
    environment.setdefault("MIOPEN_USER_DB_PATH", str(folder))
    environment.setdefault("MIOPEN_CUSTOM_CACHE_DIR", str(folder))


def share_cores(environment: MutableMapping[str, str]) -> None:
    """Leave a core to everything else, and keep torch's CPU threads from spinning long; before torch is imported.

    A step has hundreds of parallel regions, and each waits for its slowest thread. If anything else wants a core,
    the kernel puts a thread aside while the others spin: measured on two cores with one busy process beside the
    training, two threads took 1.0 to 2.5 s for a step that one thread did in 0.04 to 0.08 s. With both cores free
    the second thread gained a tenth to a fifth.
    """
    environment.setdefault("OMP_NUM_THREADS", str(max(usable_cores() - 1, 1)))
    environment.setdefault("GOMP_SPINCOUNT", "1000")


def keep_freed_memory() -> None:
    """Tell glibc to keep large blocks that a CPU training step frees and asks for again.

    By default each goes back to the kernel, which then clears every page of the next one.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, mmap_threshold = -1, -3  # malloc.h's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # another libc has none
    if mallopt is not None and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)
