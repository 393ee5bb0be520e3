"""Memory: whether it ran out, how much is left, and how much was taken."""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

# What the allocators of torch and of the libraries below it say, all of it in a RuntimeError. Not among them is
# CUBLAS_STATUS_NOT_INITIALIZED, which has other causes as well.
_REFUSALS = (
    "CUDA out of memory",
    "HIP out of memory",
    "CUDA error: out of memory",
    "HIP error: out of memory",
    "cudaErrorMemoryAllocation",
    "hipErrorOutOfMemory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "HIPBLAS_STATUS_ALLOC_FAILED",
    "rocblas_status_memory_error",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "miopenStatusAllocFailed",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
# oneDNN says no more than this, whatever the cause. On a CPU malloc fails only where the address space has a limit.
_PERHAPS_REFUSALS = ("could not create a primitive", "could not execute a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error, or what it came from, is that memory ran out: a GPU's or the machine's."""
    return any(_refuses(each) for each in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        shadowed = None if each.__suppress_context__ else each.__context__
        waiting += [cause for cause in (each.__cause__, shadowed) if cause is not None]


def _refuses(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    told = (*_REFUSALS, *(_PERHAPS_REFUSALS if _address_space_is_limited() else ()))
    return isinstance(error, RuntimeError) and any(words in str(error) for words in told)


def _address_space_is_limited() -> bool:
    try:
        import resource
    except ImportError:  # Windows
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


# ------------------------------------------------------------------------------------------- the machine's


def available_memory(root: Path = Path("/")) -> int | None:
    """Return how many bytes processes may still take before the kernel kills one; None where there is no telling.

    That is what the machine has and what its control groups (a container's, a batch job's) leave. Where the system
    does not say what is free, half of what is built in.

    Args:
        root: Holds ``proc`` and ``sys``.
    """
    found = _numbers(root / "proc/meminfo", 1024).get("MemAvailable:")
    if found is None:
        names = getattr(os, "sysconf_names", {})
        if "SC_PHYS_PAGES" not in names or root != Path("/"):
            return None
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return max(min([found, *_left_in_groups(root)]), 0)


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield what each control group with a limit leaves; file pages that the kernel can drop count as free."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        old = controllers == "memory"
        limit, used = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
        )
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            try:
                most, taken = int((folder / limit).read_text()), int((folder / used).read_text())
            except (OSError, ValueError):  # not seen from within the container, or without a limit
                most = None
            if most is not None:
                idle = _numbers(folder / "memory.stat").get("total_inactive_file" if old else "inactive_file")
                yield most - taken + (idle or 0)
            if folder == mount:
                break


def _numbers(path: Path, unit: int = 1) -> dict[str, int]:
    """Read a file of names and numbers; empty if it can't be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines]
    return {each[0]: int(each[1]) * unit for each in words if len(each) > 1 and each[1].isdigit()}


def give_back_freed_memory() -> None:
    """Return to the kernel what was freed: glibc keeps it, so the next that takes it would seem to take nothing."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # another libc has none
        if trim is not None:
            trim(0)


class PeakMemory:
    """Measures the largest memory that this process has held since the measurement was begun anew."""

    def begin(self) -> None:
        """Forget what was before, where the system can; elsewhere the peak is that of the process's whole life."""
        give_back_freed_memory()
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return

    def now(self) -> int:
        """Return bytes."""
        return self._read("VmRSS:")

    def peak(self) -> int:
        """Return bytes."""
        return self._read("VmHWM:")

    def _read(self, name: str) -> int:
        found = _numbers(Path("/proc/self/status"), 1024).get(name)
        if found is not None:
            return found
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
