"""The device of a run: which one, its precision, its determinism, its random draws and its memory.

All that differs between kinds of devices is here: CUDA (also AMD's ROCm, which torch calls cuda), Intel's xpu, Apple's
mps, and the CPU.
"""

import ctypes
import functools
import json
import logging
import os
import sys
import time
from typing import Any

import torch

from imgcls.config import Config
from imgcls.environment import cache_file, default_num_threads, keep, num_cores, processor_name
from imgcls.errors import ConfigError

log = logging.getLogger(__name__)
# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
CPU = torch.device("cpu")
KINDS = {"cuda": "CUDA device", "xpu": "Intel GPU (xpu)", "mps": "Apple GPU (mps)"}  # as auto looks for them
WORTH_BF16 = 1.2  # times as fast as float32: less is not worth its rounding
# Pixels on the shorter side from which a CPU's bf16 is tried: with AMX it gained at 224, and nothing at 72 and below.
BF16_SIDE = 128


def choose_device(device: str, local_rank: int) -> torch.device:
    """Return the device that `device=` names; auto is the first kind that is here, and cuda the GPU of the local rank.

    Raises:
        ValueError: there is no such device here.
    """
    if device == "auto":
        device = next((kind for kind in KINDS if _is_available(kind)), "cpu")
    if device == "cpu":
        return CPU
    kind, _, number = device.partition(":")
    if not _is_available(kind):
        raise ValueError(f"device={device}, but torch sees no {KINDS[kind]} here; use device=cpu or device=auto")
    if kind == "mps":
        return torch.device("mps")
    index, count = int(number) if number else local_rank, getattr(torch, kind).device_count()
    if index >= count:
        raise ValueError(f"device={kind}:{index}, but there are {count} here; the first is {kind}:0")
    return torch.device(kind, index)


def _is_available(kind: str) -> bool:
    return torch.backends.mps.is_available() if kind == "mps" else getattr(torch, kind).is_available()


def device_name(device: torch.device) -> str:
    """Return what logs and capsules call the device: the name of a GPU, or its kind."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).get_device_name(device)
    return "mps (Apple GPU)" if device.type == "mps" else device.type


def float64_device(device: torch.device) -> torch.device:
    """Return where sums in float64 are kept: on `device`, or on the CPU for a device that has no float64."""
    return device if _has_float64(device) else CPU


def _has_float64(device: torch.device) -> bool:
    if device.type == "xpu":  # integrated GPUs and the Arc A series have none
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def autocast_dtype(precision: str, device: torch.device, size: tuple[int, int]) -> torch.dtype | None:
    """Return the dtype of mixed precision on `device` for images of `size` (H, W), or None for plain float32.

    auto is bfloat16 where the device computes in it, else float16 on CUDA and float32 elsewhere. A CPU may have
    instructions for bfloat16 and be slower with it than in float32 all the same: there a measurement decides, for
    images of 128 px or more; the passes over smaller ones are too short to gain by it.

    Raises:
        ConfigError: fp16 on a device that has no scaled float16 training.
    """
    if precision == "auto":
        return _automatic_dtype(device, size)
    if precision == "fp16" and device.type not in ("cuda", "xpu"):
        raise ConfigError(
            f"precision=fp16 needs a CUDA or Intel GPU, and the device here is {device.type}; "
            "use precision=fp32 or auto"
        )
    if precision == "bf16" and device.type == "cpu" and (speed := bf16_speed()) < 1:
        log.warning(
            "precision=bf16 is slow on this CPU: a convolution takes %.1f times as long in it as in float32; "
            "precision=fp32 or auto is faster",
            1 / speed,
        )
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _automatic_dtype(device: torch.device, size: tuple[int, int]) -> torch.dtype | None:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "xpu":
        return torch.bfloat16 if torch.xpu.is_bf16_supported(including_emulation=False) else None
    # Without AMX no CPU that was measured gained by it, and those with AVX512-BF16 lost.
    if device.type != "cpu" or min(size) < BF16_SIDE or not torch.cpu._is_amx_tile_supported():
        return None
    speed = bf16_speed()
    faster = speed >= WORTH_BF16
    log.info(
        "precision=auto: bf16, as a convolution is %.1f times as fast in it as in float32 on this CPU"
        if faster
        else "precision=auto: fp32, as a convolution in bf16 is only %.1f times as fast as in float32 on this CPU",
        speed,
    )
    return torch.bfloat16 if faster else None


@functools.cache
def bf16_speed() -> float:
    """Return how many times as fast as in float32 this CPU trains a convolution in bfloat16; it is measured once.

    The result is kept in the cache folder, by CPU, threads and version of torch.
    """
    key = f"{processor_name()} {torch.get_num_threads()} {torch.__version__}"
    file = cache_file("bf16", key.encode(), ".json", what="the speed of bf16")
    try:
        speed = json.loads(file.read_text())["speed"] if file is not None else None
    except (OSError, ValueError, KeyError, TypeError):
        speed = None
    if not isinstance(speed, float):
        # Another program may slow some of the steps: the two take turns, and the fastest of each counts.
        turns = [[_seconds_of_a_step(dtype) for dtype in (None, torch.bfloat16)] for _ in range(5)]
        fp32, bf16 = map(min, zip(*turns, strict=True))
        speed = fp32 / bf16
        keep(file, lambda stream: stream.write(json.dumps({"speed": speed}).encode()), what="the speed of bf16")
    return speed


def _seconds_of_a_step(dtype: torch.dtype | None) -> float:
    """Return the seconds of a forward and backward pass of a convolution of ResNet's, after one to warm up."""
    with torch.random.fork_rng(devices=[]):
        layer: Any = torch.nn.Conv2d(64, 64, 3, padding=1)
        layer = layer.to(memory_format=torch.channels_last)
        images = torch.randn(16, 64, 28, 28).to(memory_format=torch.channels_last).requires_grad_()
    seconds = 0.0
    with torch.enable_grad():
        for _ in range(2):
            started = time.perf_counter()
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                loss = layer(images).float().sum()
            loss.backward()
            seconds = time.perf_counter() - started
    return seconds


def precision_name(dtype: torch.dtype | None) -> str:
    """Return what logs and checkpoints call the dtype of mixed precision."""
    return "fp32" if dtype is None else str(dtype).removeprefix("torch.")


def set_determinism(config: Config, device: torch.device) -> None:
    """With `deterministic=true`, make CUDA give the same bits for the same seed, and log what that costs.

    On a CPU they are the same in any case.
    """
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cudnn.deterministic = config.deterministic
    if config.deterministic or torch.are_deterministic_algorithms_enabled():
        # It imports torch.compile's machinery, which takes as long as all the rest of torch.
        torch.use_deterministic_algorithms(config.deterministic)
    if config.deterministic and device.type == "cuda":
        # cuBLAS reads it before its first product; with workspaces that it chooses the order of its sums varies.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        log.info(
            "deterministic=true: cuDNN takes kernels that add in a fixed order instead of timing which are fastest; "
            "that costs images per second (compare usage/images_per_second in TensorBoard)"
        )


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators that a step on `device` draws from.

    Not `torch.manual_seed`: it visits every kind of device, and formats stack traces if CUDA is not initialised.
    """
    torch.default_generator.manual_seed(seed)
    if device.type in ("cuda", "xpu"):
        module = getattr(torch, device.type)
        index = module.current_device() if device.index is None else device.index
        module.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def copies_in_background(device: torch.device) -> bool:
    """Return True if batches are copied to `device` while it computes: from pinned memory, in a stream of their own."""
    return device.type == "cuda"


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given, as every timing must."""
    if device.type in ("cuda", "xpu"):
        getattr(torch, device.type).synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def set_num_threads(wanted: int | None) -> None:
    """Let torch compute with as many threads on the CPU as `wanted`.

    None leaves torch's number, which is OMP_NUM_THREADS or one a core, unless a container's quota gives this process
    less: torch counts the cores of the machine.
    """
    if wanted is None and "OMP_NUM_THREADS" not in os.environ and num_cores() < torch.get_num_threads():
        wanted = default_num_threads()
    if wanted is not None:
        torch.set_num_threads(wanted)


def keep_freed_memory(device: torch.device) -> None:
    """Let the C library keep freed blocks for the next step, if it is glibc and `device` is the CPU.

    By default it returns them to the system, which then clears every page of the next step's activations again: on a
    CPU a sixth of ResNet-18's training step at 224 pixels, and 40 % of AlexNet's. With this a process does not shrink.
    """
    if not sys.platform.startswith("linux") or device.type != "cpu":
        return
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def total_memory(device: torch.device) -> int | None:
    """Return the bytes of the device's memory, or None for the CPU, where other programs and the system need some."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).get_device_properties(device).total_memory
    return torch.mps.recommended_max_memory() if device.type == "mps" else None


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of the device's memory that no program has, or None for the CPU."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return None


def most_memory_used(device: torch.device, *, reserved: bool = False) -> int | None:
    """Return the most bytes that this process had on the device so far, or None for the CPU.

    On mps, which keeps no such record, what it has now.

    Args:
        reserved: count what torch has reserved too, as other programs see it.
    """
    if device.type in ("cuda", "xpu"):
        module = getattr(torch, device.type)
        return (module.max_memory_reserved if reserved else module.max_memory_allocated)(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() if reserved else torch.mps.current_allocated_memory()
    return None


def return_freed_memory(device: torch.device) -> None:
    """Return the memory that torch keeps for later to the device, so that another size of it can be tried."""
    if device.type in KINDS:
        getattr(torch, device.type).empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if `error` says that a tensor did not fit on its device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # mps and the CPU's allocator raise a plain RuntimeError.
    text = str(error) if isinstance(error, RuntimeError) else ""
    return "MPS backend out of memory" in text or "DefaultCPUAllocator" in text
