"""torch.compile for training: the whole network, or its repeated blocks, with what was compiled kept for next time."""

import logging
import os
import shutil
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from imgcls.config import Config
from imgcls.environment import make_cache_folder
from imgcls.errors import ConfigError

log = logging.getLogger(__name__)

# What torch.compile calls each mode of `compile_mode`; blocks are compiled in the default one. max-autotune brings CUDA
# graphs as well, which are a mode by themselves here, so that the gain of each can be seen.
TORCH_MODES = {"default": None, "blocks": None, "max-autotune": "max-autotune-no-cudagraphs"}


def compile_network(network: nn.Module, mode: str) -> nn.Module:
    """Return `network` compiled by torch.compile; with `mode` blocks, itself with its repeated blocks compiled.

    Blocks of one structure share their code: ResNet-50 has 16 blocks of 8 structures.
    """
    keep_compiled_code()
    if mode == "blocks":
        blocks = repeated_blocks(network)
        # Each structure of a block counts as a compilation of its class, of which torch allows eight.
        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(limit, len(blocks))
        for block in blocks:
            block.compile()
        return network
    options: dict[str, Any] = {"mode": TORCH_MODES.get(mode, mode)}
    return torch.compile(network, **options)  # pyright: ignore[reportReturnType]


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the outermost modules of four layers or more of a class that the network has more than once.

    Raises:
        ConfigError: there are none, as in LeNet-5, AlexNet and VGG.
    """
    if found := find_repeated_blocks(network):
        return found
    raise ConfigError(
        "compile_mode=blocks: the network has no repeated blocks; leave compile_mode out, which compiles all of it"
    )


def find_repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """Return what `repeated_blocks` does, and an empty list where there are none."""
    kinds = Counter(type(module) for module in network.modules() if _is_block(module))
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> None:
        if _is_block(module) and kinds[type(module)] > 1:
            found.append(module)
            return
        for child in module.children():
            visit(child)

    visit(network)
    return found


def _is_block(module: nn.Module) -> bool:
    # torch's own classes are containers and layers; a convolution with its normalisation is too small to gain by it.
    return not type(module).__module__.startswith("torch.") and sum(1 for _ in module.modules()) > 4


def keep_compiled_code() -> None:
    """Let torch keep what it compiles in the cache folder, not in /tmp, unless the user names another folder."""
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    try:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(make_cache_folder("compiled"))
    except FileNotFoundError as error:  # torch takes /tmp
        log.info("what is compiled is not kept for next time: %s", error)


def check_compiler(device: torch.device) -> None:
    """Check that what torch.compile writes for a device can be compiled: C++ for a CPU, C that starts a GPU's kernels.

    Raises:
        ConfigError: there is no compiler.
    """
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler  # here: it takes seconds
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise ConfigError(
                "compile=true needs a C++ compiler on a CPU; install g++, name yours by CXX=..., or leave compile out"
            ) from None
    elif device.type == "cuda" and not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise ConfigError("compile=true needs a C compiler; install gcc, name yours by CC=..., or leave compile out")


def uncompiled(config: Config) -> AbstractContextManager[Any]:
    """Return a context in which compiled blocks run as they are written: validation has batches of other sizes."""
    blocks = config.compile and config.compile_mode == "blocks"
    return torch.compiler.set_stance("force_eager") if blocks else nullcontext()


def kept_logits(logits: Tensor, config: Config) -> Tensor:
    """Return the logits of a step in memory that the next step leaves alone, which CUDA graphs write over."""
    return logits.clone() if config.compile and config.compile_mode == "reduce-overhead" else logits
