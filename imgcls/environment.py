"""What the machine and its environment variables say: folders, cores, and the place of this process among others.

Imports no torch.
"""

import errno
import functools
import hashlib
import logging
import math
import os
import platform
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from imgcls.errors import ConfigError

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent
# In a wheel conf/ is inside the package, in a checkout beside it.
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _CHECKOUT / "conf"
FILES_OF_A_RUN = 128  # that a process has open besides its images: its logs, libraries, connections
TRUST = "IMGCLS_TRUST_CONFIG"  # set to 1: config folders and checkpoints' configs may name any class and setting


def command(name: str) -> str:
    """Return how this user starts a command: `python scripts/pack.py` in a checkout's scripts, else `imgcls pack`."""
    script = _script(name)
    return f"python {script}" if script else f"imgcls {name}"


def start_command(name: str) -> list[str]:
    """Return the program and first arguments that start a command in a separate process, as this one was started."""
    script = _script(name)
    return [sys.executable, str(_CHECKOUT / script)] if script else [sys.executable, "-m", "imgcls", name]


def torchrun_command(name: str) -> str:
    """Return what this user writes after `torchrun ...` to start the command `name`."""
    return _script(name) or f"-m imgcls {name}"


def _script(name: str) -> str | None:
    """Return the script of a command, below the checkout, if this process was started by one."""
    program = Path(sys.argv[0]).resolve()
    in_checkout = program.parent == _CHECKOUT or program.is_relative_to(_CHECKOUT / "scripts")
    by_script = in_checkout and program.suffix == ".py"
    script = "train.py" if name == "train" else f"scripts/{name}.py"
    return script if by_script and (_CHECKOUT / script).is_file() else None


def trusts_configs() -> bool:
    """Return True if the user trusts whoever wrote the configs, as own code would be trusted."""
    return os.environ.get(TRUST) == "1"


# C0 without tab and newline, DEL and C1, and bytes of C1 in file names that are no UTF-8, as Python reads them.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\udc80-\udc9f]")


def printable(text: str, *, lines: bool = True) -> str:
    r"""Return `text` with its control characters written out, as \x1b: names from strangers must not steer a terminal.

    Args:
        lines: leave newlines and tabs.
    """
    if not lines:
        text = text.replace("\n", "\\n").replace("\t", "\\t")
    return CONTROL.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", text)


def launch() -> tuple[int, int, int] | None:
    """Return (rank, world size, local rank) as torchrun or Slurm set them, or None for a run of one process."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", 0))
    # SLURM_STEP_NUM_TASKS is set by srun alone; a plain `python train.py` inside an allocation stays one process.
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return (
            int(os.environ["SLURM_PROCID"]),
            int(os.environ["SLURM_STEP_NUM_TASKS"]),
            int(os.environ["SLURM_LOCALID"]),
        )
    return None


def quiet_other_ranks() -> None:
    """Log only warnings on ranks other than 0: rank 0 logs what all ranks would, and each logs its own problems."""
    place = launch()
    if place is not None and place[0] != 0:
        logging.getLogger().setLevel(logging.WARNING)


def num_cores() -> int:
    """Return the number of cores that this process may use: of the machine, its affinity, and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = container_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def default_num_threads() -> int:
    """Return the number of cores that this process may use, shared with the other ranks on this machine."""
    return max(1, num_cores() // _ranks_here())


def _ranks_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@functools.cache
def container_quota(root: Path = Path("/")) -> float | None:
    """Return the cores' worth of time that Linux' control groups (v2 or v1) give this process, or None for no limit.

    Args:
        root: of the file system.
    """
    quotas = [_quota_of(folder) for folder in _control_groups(root, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(group: Path) -> float | None:
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()[:2]
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if quota.strip() not in ("max", "-1") and float(period) > 0 else None
    except (OSError, ValueError):
        return None


def available_memory(root: Path = Path("/")) -> float | None:
    """Return the bytes of memory that this process may still take, or None where Linux does not say.

    They are free or hold nothing but cached files, and are within the limit of the process's control groups, above
    which Linux kills it. Swap does not count: a training that needs it hardly moves. Each of the ranks on this machine
    has its share.

    Args:
        root: of the file system.
    """
    try:
        lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        free = 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None
    rooms = [_room_of(folder) for folder in _control_groups(root, "memory")]
    return min([free, *(room for room in rooms if room is not None)]) / _ranks_here()


def _room_of(group: Path) -> float | None:
    """Return the bytes that a control group leaves its processes, or None if it has no limit."""
    v2 = (group / "memory.max").is_file()
    limit, used = ("memory.max", "memory.current") if v2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    # What the system drops first; MemAvailable counts both of them too.
    cached = [f"{'' if v2 else 'total_'}{kind}_file" for kind in ("inactive", "active")]
    try:
        text = (group / limit).read_text().strip()
        if text == "max":
            return None
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        in_cache = sum(int(statistics.get(kind, 0)) for kind in cached)
        return max(0.0, float(text) - int((group / used).read_text()) + in_cache)
    except (OSError, ValueError):
        return None


def _control_groups(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process's control groups of Linux, v2 or v1, and of those above them.

    A limit holds for all groups below it. Inside a container the files may be those of the container's group, at a path
    that is the host's: then only the topmost group is seen.
    """
    try:
        groups = [line.split(":", 2)[1:] for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except (OSError, UnicodeDecodeError):
        return []
    folders = []
    for controllers, path in (group for group in groups if len(group) == 2):
        if controllers and controller not in controllers.split(","):
            continue
        # cgroup v2 has one tree for all controllers, v1 one each, and often a link from `cpu` to `cpu,cpuacct`.
        names = (controllers, controller) if controllers else ("", "unified")
        parts = [part for part in path.split("/") if part and part != ".."]
        folders += [
            (root / "sys/fs/cgroup" / name).joinpath(*parts[:number])
            for name in names
            for number in range(len(parts) + 1)
        ]
    return folders


def processor_name() -> str:
    """Return the name of the machine's CPU, or what is known of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or sys.platform
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cache_folder() -> Path:
    """$IMGCLS_CACHE, else imgcls below $XDG_CACHE_HOME, else ~/.cache/imgcls. It may not exist yet.

    Raises:
        FileNotFoundError: neither is set, and this user has no home folder.
    """
    if named := os.environ.get("IMGCLS_CACHE"):
        return Path(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "imgcls"
    try:
        return Path.home() / ".cache" / "imgcls"
    except RuntimeError:
        raise FileNotFoundError("this user has no home folder; set IMGCLS_CACHE to a folder for the cache") from None


def allow_open_files(num: int, *, what: str) -> None:
    """Raise this process's limit of open files by `num`, which it will keep open.

    Systems let a process open 256 to 1,024 at first, and raise that by itself up to a hard limit.

    Args:
        what: the setting that asks for them, for the error.

    Raises:
        ConfigError: the hard limit is too low.
    """
    try:
        import resource
    except ImportError:  # Windows, which lets a process open 8,192
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and num + FILES_OF_A_RUN > hard:
        raise ConfigError(
            f"{what}: {num:,} files are kept open, and the system lets a process open {hard:,}; raise its hard limit "
            "(ulimit -Hn, or nofile in limits.conf), or put the images into fewer files"
        )
    wanted = soft + num if hard == resource.RLIM_INFINITY else min(soft + num, hard)
    with suppress(ValueError, OSError):  # macOS has a limit below the hard one
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def make_cache_folder(name: str = "") -> Path:
    """Make a folder of the cache folder, or the cache folder itself, and return it.

    Raises:
        FileNotFoundError: this user may not write there, or has no home folder.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FileNotFoundError(
            f"{folder} cannot be written to ({error.strerror}); set IMGCLS_CACHE to a folder where you may write"
        ) from None
    return folder


def cache_file(folder: str, key: bytes, ending: str, *, what: str) -> Path | None:
    """Return the file of the cache folder that belongs to `key`; None, and a log line, if there is no such folder.

    Args:
        what: is kept there, for that line: "the list of files".
    """
    try:
        return cache_folder() / folder / f"{hashlib.sha256(key).hexdigest()[:32]}{ending}"
    except FileNotFoundError as error:
        log.info("%s is not kept for next time: %s", what, error)
        return None


def keep(file: Path | None, write: Callable[[IO[bytes]], object], *, what: str) -> None:
    """Let `write` fill a file of the cache folder, which appears whole or not at all; a disk that refuses is logged."""
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{os.getpid()}.{file.name}")  # another process may write the same
        with partial.open("wb") as stream:
            write(stream)
        partial.replace(file)
    except OSError as error:
        log.info("%s is not kept for next time: %s", what, error)
