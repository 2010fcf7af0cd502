"""Look at the machine: torch, its device, the driver, the cores, and the decoder."""

import shutil
import subprocess
from collections.abc import Generator

import torch

from imgcls.config import Config
from imgcls.data.decoding import describe_decoder
from imgcls.device import (
    autocast_dtype,
    choose_device,
    device_name,
    free_memory,
    precision_name,
    set_num_threads,
    total_memory,
)
from imgcls.doctor.findings import Finding, bytes_text, fail, note
from imgcls.environment import default_num_threads


def look_at_machine(config: Config) -> Generator[Finding, None, torch.device | None]:
    """Yield what there is to say of the machine, and return the run's device, or None where it is not there."""
    driver = _driver()
    build = torch.version.cuda
    yield Finding("torch", f"{torch.__version__}, {f'CUDA {build}' if build else 'without CUDA'}")
    try:
        device = choose_device(config.device, 0)
        set_num_threads(config.threads)
        dtype = autocast_dtype(config.precision, device, config.input_size)
    except ValueError as error:
        why = f"; the driver {driver} is there, but torch was built {'for' if build else 'without'} CUDA {build or ''}"
        yield fail("device", f"{error}{why if driver else ''}")
        return None
    precision, free, total = precision_name(dtype), free_memory(device), total_memory(device)
    if free is not None and total is not None:
        by = f", driver {driver or 'unknown'}" if device.type == "cuda" else ""
        text = f"{device_name(device)}{by}, {precision}, "
        text += f"{bytes_text(free)} of {bytes_text(total)} free"
        others = free < 0.8 * total
        yield (note("device", f"{text}: another program has the rest") if others else Finding("device", text))
    elif driver:
        reason = (
            f"torch was built without CUDA: install one for it, driver {driver}" if not build else "torch sees none"
        )
        yield note("device", f"cpu, {precision}, though there is an NVIDIA driver {driver}: {reason}")
    else:
        yield Finding("device", f"cpu, {torch.get_num_threads()} threads, {precision}")
    cores, threads = default_num_threads(), config.data.num_threads or default_num_threads()
    text = f"{cores} cores for this process, {threads} threads decode"
    yield (Finding("cores", text) if threads >= cores else note("cores", f"{text}: data.num_threads={cores}"))
    decoder = describe_decoder()
    yield (note("decoder", decoder) if decoder.startswith("Pillow") else Finding("decoder", decoder))
    return device


def _driver() -> str | None:
    """Return the version of NVIDIA's driver, or None if there is none."""
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter(done.stdout.split()), None) if done.returncode == 0 else None
