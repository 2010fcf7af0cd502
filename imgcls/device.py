"""The device of a run: which one, its precision, its determinism, and the memory it keeps."""

import ctypes
import logging
import os

import torch

from imgcls.config import Config
from imgcls.errors import ConfigError

log = logging.getLogger(__name__)
# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory(device: torch.device) -> None:
    """Let the C library keep freed blocks for the next step, if it is glibc and `device` is the CPU.

    By default it returns them to the system, which then clears every page of the next step's activations again: on a
    CPU a sixth of ResNet-18's training step at 224 pixels, and 40 % of AlexNet's. With this a process does not shrink.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and device.type == "cpu":
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of mixed precision on `device`, or None for plain float32.

    Raises:
        ConfigError: fp16 on a CPU, whose gradients would underflow unscaled and which gains nothing by it.
    """
    if precision == "auto":
        if device.type == "cpu":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision=fp16 needs a CUDA device, and there is none here; use precision=fp32 or auto")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


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
            "that costs images per second (compare train/images_per_second in TensorBoard)"
        )


def choose_device(device: str, local_rank: int) -> torch.device:
    """Return the device that `device=` names; auto is CUDA if there is any, and cuda is the GPU of the local rank.

    Raises:
        ValueError: there is no such device here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(f"device={device}, but torch sees no CUDA device here; use device=cpu or device=auto")
    index = int(device[5:]) if device.startswith("cuda:") else local_rank
    if index >= torch.cuda.device_count():
        raise ValueError(f"device=cuda:{index}, but there are {torch.cuda.device_count()} here; the first is cuda:0")
    return torch.device("cuda", index)
