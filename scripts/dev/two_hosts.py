"""Train on two hosts and cut one off in mid-epoch: network namespaces joined by a cable stand for the machines.

    sudo python scripts/dev/two_hosts.py                        Linux with ip (iproute2); some minutes
    sudo python scripts/dev/two_hosts.py --timeout-minutes 0.5

torchrun's rendezvous (c10d) joins them. Four runs: unbroken; cut off for good, and the same command again once the
cable is back; and cut off for a while under --max-restarts. It prints how each host ended and when, and compares the
weights; the exit code is 1 if a run that went on is not the unbroken one.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOSTS = {"imgcls0": "10.77.0.1", "imgcls1": "10.77.0.2"}
CABLES = {"imgcls0": "cable0", "imgcls1": "cable1"}
FIRST = "imgcls0"  # where the ranks meet; the other one is cut off
PORT = 29511
CUT_AFTER = 12  # optimizer steps, of 8 an epoch
WORDS = ["model=lenet5", "model.activation=relu", "data=shapes", "image_size=32", "batch_size=64", "epochs=3"]
WORDS += [
    "checkpoint.every_minutes=0",
    "recipe.small_image_size=32",
    "logger=none",
    "device=cpu",
    "data.num_threads=1",
    "log_every_steps=1",
]


@dataclass
class Ended:
    """How torchrun ended on one host: its exit code, seconds after the cut, and what it wrote."""

    code: int
    seconds: float
    text: str

    @property
    def errors(self) -> list[str]:
        """The lines in which our program says why."""
        return [line for line in self.text.splitlines() if line.startswith("error: ")]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def network() -> Iterator[None]:
    """Make two hosts, joined by a cable, and remove them again."""
    remove_network()
    for name in HOSTS:
        ip("netns", "add", name)
    try:
        (one, two), (address_one, address_two) = CABLES.items(), HOSTS.values()
        ip("link", "add", one[1], "netns", one[0], "type", "veth", "peer", "name", two[1], "netns", two[0])
        for (name, cable), address in ((one, address_one), (two, address_two)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        remove_network()


def remove_network() -> None:
    for name in HOSTS:
        subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


def plug(*, connected: bool) -> None:
    """Plug the second host's cable in, or pull it out."""
    second = next(name for name in HOSTS if name != FIRST)
    ip("-n", second, "link", "set", CABLES[second], "up" if connected else "down")


def start(run_dir: Path, *words: str, restarts: int = 0) -> dict[str, subprocess.Popen[str]]:
    """Start torchrun on both hosts, with one rank each."""
    hosts = {}
    for name, address in HOSTS.items():
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint={HOSTS[FIRST]}:{PORT}", f"--rdzv-id={run_dir.name}"]
        # By itself torchrun asks whether the host's name means this address.
        torchrun += [f"--rdzv-conf=is_host={int(name == FIRST)}"]
        torchrun += [f"--local-addr={address}", f"--max-restarts={restarts}"]
        log = run_dir.with_name(f"{run_dir.name}.{name}.log").open("w")
        hosts[name] = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                name,
                *torchrun,
                str(ROOT / "train.py"),
                *WORDS,
                *words,
                f"hydra.run.dir={run_dir}",
            ],
            env=os.environ | {"GLOO_SOCKET_IFNAME": CABLES[name], "OMP_NUM_THREADS": "1"},
            cwd=run_dir.parent,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    return hosts


def wait(hosts: dict[str, subprocess.Popen[str]], run_dir: Path, *, minutes: float) -> dict[str, Ended]:
    """Wait until torchrun has ended on both hosts, and stop what has not after so many minutes."""
    begun, ended = time.monotonic(), {}
    while len(ended) < len(hosts):
        for name, process in hosts.items():
            late = time.monotonic() - begun > 60 * minutes
            if name not in ended and (process.poll() is not None or late):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                text = run_dir.with_name(f"{run_dir.name}.{name}.log").read_text()
                ended[name] = Ended(process.wait(), time.monotonic() - begun, text)
        time.sleep(0.2)
    return ended


def wait_for_step(run_dir: Path, step: int, hosts: dict[str, subprocess.Popen[str]]) -> None:
    """Wait until the run has logged an optimizer step."""
    file = run_dir / "metrics.csv"
    while not (file.exists() and any(_step(line) >= step for line in file.read_text().splitlines()[1:])):
        if any(process.poll() is not None for process in hosts.values()):
            raise RuntimeError(f"the run ended before step {step}; see {run_dir}.*.log")
        time.sleep(0.05)


def _step(line: str) -> int:
    words = line.split(",")
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def report(title: str, ended: dict[str, Ended]) -> None:
    print(f"{title}:")
    for name, end in ended.items():
        print(f"  {name}: exit code {end.code} after {end.seconds:.0f} s; {' | '.join(end.errors) or 'no error'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout-minutes", type=float, default=0.25, help="ranks.timeout_minutes (default: 0.25)")
    parser.add_argument("--folder", type=Path, help="where to keep the runs (default: nowhere)")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("error: this makes network namespaces: it needs root and ip (iproute2)", file=sys.stderr)
        return 2
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="imgcls-hosts-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    patience = f"ranks.timeout_minutes={options.timeout_minutes}"
    most = 3 + 2 * options.timeout_minutes
    try:
        with network():
            whole, cut, restarted = folder / "whole", folder / "cut", folder / "restarted"
            report("unbroken", wait(start(whole, patience), whole, minutes=most))

            hosts = start(cut, patience)
            wait_for_step(cut, CUT_AFTER, hosts)
            plug(connected=False)
            report("cut off", wait(hosts, cut, minutes=most))
            plug(connected=True)
            report("the same command again", wait(start(cut, patience), cut, minutes=most))

            hosts = start(restarted, patience, restarts=3)
            wait_for_step(restarted, CUT_AFTER, hosts)
            plug(connected=False)
            time.sleep(60 * options.timeout_minutes + 5)
            plug(connected=True)
            report("cut off for a while under --max-restarts=3", wait(hosts, restarted, minutes=most))
        return compare(whole, cut, restarted)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def compare(whole: Path, *others: Path) -> int:
    """Print whether each run ended with the bits of the unbroken one; return 1 if one did not."""
    from imgcls.checkpoints import compare_runs, verdict_table

    wrong = 0
    for other in others:
        verdicts = [verdict for verdict in compare_runs(whole, other) if verdict.differences]
        print(f"{other.name}: {'the bits of the unbroken run' if not verdicts else verdict_table(verdicts)}")
        wrong |= bool(verdicts)
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
