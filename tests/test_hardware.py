"""Which hardware is chosen, decided from plain facts: ROCm and CUDA without either."""

import pytest

from speechexp.errors import UserError
from speechexp.hardware import Machine, choose, rocm_environment, share_cores

LAPTOP = Machine(hip_version=None, cuda_version="13.0", gpus=(), threads=2)
NVIDIA = Machine(hip_version=None, cuda_version="13.0", gpus=("NVIDIA H200",), threads=16)
AMD = Machine(hip_version="7.2.0", cuda_version=None, gpus=("AMD Instinct MI300X",), threads=64)


@pytest.mark.parametrize(
    ("machine", "accelerator", "expected"),
    [
        (LAPTOP, "auto", ("cpu", "32-true")),
        (LAPTOP, "cpu", ("cpu", "32-true")),
        (NVIDIA, "auto", ("gpu", "16-mixed")),
        (NVIDIA, "cuda", ("gpu", "16-mixed")),
        (NVIDIA, "cpu", ("cpu", "32-true")),
        (AMD, "auto", ("gpu", "16-mixed")),
        (AMD, "rocm", ("gpu", "16-mixed")),
    ],
)
def test_the_best_that_is_there(machine, accelerator, expected):
    choice = choose(machine, accelerator, "auto")
    assert (choice.accelerator, choice.precision) == expected
    assert choice.rocm == (machine is AMD and choice.accelerator == "gpu")


def test_it_says_what_it_chose_and_why():
    assert "torch sees no GPU" in choose(LAPTOP, "auto", "auto").explanation
    explanation = choose(AMD, "auto", "auto").explanation
    assert "AMD Instinct MI300X" in explanation
    assert "HIP 7.2.0" in explanation
    assert "fp16 mixed precision" in explanation


def test_a_precision_that_is_asked_for_is_kept():
    assert choose(NVIDIA, "auto", "bf16-mixed").precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("machine", "accelerator", "words"),
    [
        (LAPTOP, "cuda", "torch sees none"),
        (LAPTOP, "rocm", "built for CUDA"),
        (NVIDIA, "rocm", "built for CUDA"),
        (AMD, "cuda", "built for ROCm"),
    ],
)
def test_what_is_not_there_is_refused_with_a_way_out(machine, accelerator, words):
    with pytest.raises(UserError, match=words) as refused:
        choose(machine, accelerator, "auto")
    assert "trainer=auto" in str(refused.value)


def test_miopen_keeps_what_it_finds_and_searches_little(tmp_path):
    environment = {"MIOPEN_FIND_MODE": "1"}
    rocm_environment(environment, tmp_path)
    assert environment["MIOPEN_FIND_MODE"] == "1"  # the user's own stays
    assert environment["MIOPEN_USER_DB_PATH"] == str(tmp_path / "miopen")
    assert (tmp_path / "miopen").is_dir()


def test_a_core_is_left_to_others_unless_the_user_says_otherwise():
    environment: dict[str, str] = {}
    share_cores(environment)
    assert int(environment["OMP_NUM_THREADS"]) >= 1
    environment = {"OMP_NUM_THREADS": "7"}
    share_cores(environment)
    assert environment["OMP_NUM_THREADS"] == "7"
