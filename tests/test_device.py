"""Determinism on CUDA, and memory that a step frees and the next one reuses."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from imgcls.config import Config
from imgcls.device import set_determinism

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
