"""Which device a run takes, its precision, determinism and memory. What is not here is simulated."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from imgcls import device as devices
from imgcls.config import Config, compose
from imgcls.device import autocast_dtype, choose_device, float64_device, is_out_of_memory, set_determinism

FAULTS = """
import resource, numpy as np, torch
from imgcls.device import keep_freed_memory
{}
def step():
    for _ in range(4):
        np.ones(8 << 20)  # 64 MiB: glibc asks the system for it, and returns it
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.e2e
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_large_blocks_that_are_freed_are_used_again_without_a_page_fault() -> None:
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS.format(call)], capture_output=True, text=True, check=True
            ).stdout
        )
        for call in ("", "keep_freed_memory(torch.device('cpu'))")
    ]
    returned, kept = faults
    assert returned > 100
    assert kept < 10


def test_deterministic_sets_what_cuda_needs_and_says_that_it_costs(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        set_determinism(tiny_config("deterministic=true"), torch.device("cuda"))
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert "costs images per second" in caplog.text
    finally:
        set_determinism(tiny_config(), torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what makes torch say how many devices of each kind there are."""

    def give(**numbers: int) -> None:
        for kind in ("cuda", "xpu"):
            number = numbers.get(kind, 0)
            monkeypatch.setattr(getattr(torch, kind), "is_available", lambda number=number: number > 0)
            monkeypatch.setattr(getattr(torch, kind), "device_count", lambda number=number: number)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: numbers.get("mps", 0) > 0)

    return give


@pytest.mark.parametrize(
    "here, chosen",
    [
        ({}, "cpu"),
        ({"cuda": 2}, "cuda:1"),
        ({"xpu": 2}, "xpu:1"),
        ({"mps": 1}, "mps"),
    ],
)
def test_auto_takes_the_gpu_that_is_there(give: Callable[..., None], here: dict[str, int], chosen: str) -> None:
    give(**here)
    assert choose_device("auto", local_rank=1) == torch.device(chosen)


def test_a_device_is_taken_by_name_or_missed_in_one_line(give: Callable[..., None]) -> None:
    give(xpu=2, mps=1)
    assert choose_device("xpu:1", 0) == torch.device("xpu", 1)
    assert choose_device("mps", 0) == torch.device("mps")
    assert choose_device("cpu", 0) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"^device=xpu:2, but there are 2 here; the first is xpu:0$"):
        choose_device("xpu:2", 0)
    give()
    for name, missed in {"cuda:0": "CUDA device", "xpu": r"Intel GPU \(xpu\)", "mps": r"Apple GPU \(mps\)"}.items():
        with pytest.raises(ValueError, match=rf"^device={name}, but torch sees no {missed} here; use device=cpu or "):
            choose_device(name, 0)


@pytest.mark.parametrize("name", ["cuda:x", "mps:1", "gpu", "tpu", "xpu:"])
def test_a_device_of_no_kind_is_refused_by_its_config(name: str) -> None:
    with pytest.raises(ValueError, match=rf"device={name} is none of auto, cpu, cuda, cuda:N, xpu, xpu:N, mps"):
        compose([f"device={name}"])


def test_float64_sums_are_on_the_cpu_where_a_device_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert float64_device(torch.device("mps")) == torch.device("cpu")
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: type("Arc", (), {"has_fp64": False}))
    assert float64_device(torch.device("xpu", 7)) == torch.device("cpu")


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Return what makes this CPU have AMX or not, and take as many seconds for a step of bf16 and of fp32."""

    def speed(*, amx: bool, bf16: float, fp32: float = 1.0) -> None:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(devices, "_seconds_of_a_step", lambda dtype: fp32 if dtype is None else bf16)
        devices.bf16_speed.cache_clear()

    monkeypatch.setenv("IMGCLS_CACHE", str(tmp_path))
    yield speed
    devices.bf16_speed.cache_clear()


def test_auto_on_a_cpu_is_bf16_only_where_it_was_measured_as_faster(
    speed: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cpu = torch.device("cpu")
    speed(amx=False, bf16=0.1)
    assert autocast_dtype("auto", cpu, (224, 224)) is None
    assert not caplog.text  # nothing was measured
    speed(amx=True, bf16=0.5)
    assert autocast_dtype("auto", cpu, (224, 224)) == torch.bfloat16
    assert "bf16, as a convolution is 2.0 times as fast" in caplog.text
    assert autocast_dtype("auto", cpu, (127, 224)) is None  # small images gain nothing
    speed(amx=True, bf16=9.0)
    assert autocast_dtype("auto", cpu, (224, 224)) == torch.bfloat16  # what was measured is kept


def test_a_step_that_another_program_slows_does_not_decide(
    speed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    speed(amx=True, bf16=0.5)
    steps = iter([9.0, 0.5, 1.0, 9.0, 3.0, 0.6, 1.1, 0.5, 1.0, 8.0])  # float32 and bf16 take turns
    monkeypatch.setattr(devices, "_seconds_of_a_step", lambda dtype: next(steps))
    assert devices.bf16_speed() == 2.0


def test_bf16_that_is_slow_on_a_cpu_is_taken_with_a_warning(
    speed: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    cpu = torch.device("cpu")
    speed(amx=True, bf16=10.0)
    assert autocast_dtype("auto", cpu, (224, 224)) is None
    assert autocast_dtype("bf16", cpu, (32, 32)) == torch.bfloat16
    assert "takes 10.0 times as long in it as in float32; precision=fp32 or auto is faster" in caplog.text


def test_a_step_of_the_measurement_takes_time_and_leaves_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_rng_state()
    assert devices._seconds_of_a_step(torch.bfloat16) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_fp16_is_refused_where_it_has_no_scaled_training() -> None:
    for device in ("cpu", "mps"):
        with pytest.raises(ValueError, match=f"precision=fp16 needs a CUDA or Intel GPU, .* is {device}; use "):
            autocast_dtype("fp16", torch.device(device), (32, 32))
        with pytest.raises(ValueError, match="precision=fp16 needs a CUDA or Intel GPU"):
            compose([f"device={device}", "precision=fp16"])


def test_out_of_memory_is_known_on_every_device() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB, max allowed: 18.13 GB)"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


@pytest.mark.parametrize(
    "wanted, variable, cores, expected",
    [(3, None, 8, 3), (None, None, 8, None), (None, None, 2, 2), (None, "4", 2, None), (5, "4", 2, 5)],
)
def test_torch_takes_the_threads_that_are_wanted_or_the_quota(
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, variable: str | None, cores: int, expected: int | None
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(devices, "num_cores", lambda: cores)
    monkeypatch.setattr(devices, "default_num_threads", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    devices.set_num_threads(wanted)
    assert taken == ([] if expected is None else [expected])
