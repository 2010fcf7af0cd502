"""Memory that a step frees is there for the next, without the system's help."""

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, numpy as np, torch
from imgcls import memory
{}
def step():
    for _ in range(4):
        np.ones(8 << 20)  # 64 MiB: glibc asks the system for it, and gives it back
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_large_blocks_that_are_freed_are_used_again_without_a_page_fault():
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS.format(call)], capture_output=True, text=True, check=True
            ).stdout
        )
        for call in ("", "memory.keep_freed(torch.device('cpu'))")
    ]
    given_back, kept = faults
    assert given_back > 100
    assert kept < 10
