"""Try the Slurm commands of the documentation on a real slurmctld and slurmd, which this starts on this machine.

    apt-get install slurmctld slurmd slurm-client munge
    sudo python scripts/dev/slurm_node.py                 all trials; some minutes
    sudo python scripts/dev/slurm_node.py --keep          leave the cluster running until Ctrl-C

A cluster of one node, without cgroups, in a temporary folder; nothing of the system's Slurm is touched. The trials: a
job whose time is nearly up gets a signal, saves, ends with 75, is requeued and goes on; one that is preempted does so
too; what exit codes the scheduler sees; a sweep by submitit. The exit code is 1 if a trial did not end as it should.
"""

import argparse
import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from trials import run_trials

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "sinfo", "squeue")
CONF = """
ClusterName=imgcls
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=30
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""
RUN = "model=lenet5 model.activation=relu data=shapes image_size=32 batch_size=32 logger=none device=cpu"
# The script of docs/distributed.md, for two tasks without GPUs.
SCRIPT = """#!/bin/bash
#SBATCH --ntasks=2 --requeue --signal=USR1@120 --open-mode=append
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT={port}
srun {python} {train} {words} || {{ [ $? = 75 ] && scontrol requeue "$SLURM_JOB_ID"; }}
"""


class Cluster:
    """A running cluster of one node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}

    def call(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(words, env=self.env, cwd=self.folder, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def submit(self, name: str, text: str, *options: str) -> str:
        """Submit a job script; its output goes to NAME.log."""
        file = self.folder / f"{name}.sh"
        file.write_text(text)
        return self.call(
            "sbatch", "--parsable", f"--output={self.log(name)}", f"--job-name={name}", *options, str(file)
        )

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def shown(self, job: str) -> dict[str, str]:
        """Return what `scontrol show job` says."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "job", job)))

    def wait(self, job: str, *states: str, seconds: float = 180) -> dict[str, str]:
        """Wait until a job is in one of `states`; a job that was requeued and waits for its time starts at once."""
        until = time.monotonic() + seconds
        while (shown := self.shown(job))["JobState"] not in states:
            if time.monotonic() > until:
                raise RuntimeError(f"job {job} is still {shown['JobState']} ({shown['Reason']}), not {states}")
            if shown["JobState"] == "PENDING" and shown["Reason"] == "BeginTime":
                # Slurm lets a requeued job wait for some two minutes.
                self.call("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
            time.sleep(0.5)
        return shown

    def wait_for_text(self, file: Path, text: str, *, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while not (file.exists() and text in file.read_text(errors="replace")):
            if time.monotonic() > until:
                shown = file.read_text(errors="replace")[-2000:] if file.exists() else "(no such file)"
                raise RuntimeError(f"{file}: no {text!r} in {seconds} s: {shown}")
            time.sleep(0.2)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Start munged, slurmctld and slurmd in the foreground, and stop them again."""
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, ports=(free_port(), free_port())))
    made = Cluster(folder)
    files = ("key", "socket", "pid", "log")
    munge = ["munged", "--foreground", "--force", *(f"--{f}-file={folder}/munge.{f}" for f in files if f != "socket")]
    munge += [f"--socket={folder}/munge.socket", f"--seed-file={folder}/munge.seed"]
    started = []
    try:
        for words in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", host]):
            log = (folder / f"{words[0]}.log").open("a")
            started.append(subprocess.Popen(words, env=made.env, stdout=log, stderr=subprocess.STDOUT))
            time.sleep(1)
        until = time.monotonic() + 60
        while "idle" not in made.call("sinfo", "--noheader", "--format=%T", check=False):
            if time.monotonic() > until:
                raise RuntimeError(f"the node did not come up: see {folder}/slurmd.log and slurmctld.log")
            time.sleep(0.5)
        yield made
    finally:
        made.call("scancel", "--user=root", check=False)
        time.sleep(1)
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            process.wait(timeout=30)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def script(words: str) -> str:
    return SCRIPT.format(python=sys.executable, train=ROOT / "train.py", words=words, port=free_port())


def time_is_up(made: Cluster) -> str:
    """A job whose time is nearly up gets SIGUSR1, saves, ends with 75, is requeued and goes on."""
    words = f"{RUN} epochs=3 log_every_steps=1 hydra.run.dir={made.folder}/time"
    job = made.submit("time", script(words))
    made.wait_for_text(made.folder / "time/metrics.csv", "\n1,20,")
    made.call("scancel", "--signal=USR1", job)
    made.wait_for_text(made.log("time"), "saving after step")
    shown = made.wait(job, "COMPLETED", "FAILED")
    text = made.log("time").read_text()
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1"), shown
    assert "going on after step" in text, text[-2000:]
    return next(line for line in text.splitlines() if "going on after step" in line)


def preempted(made: Cluster) -> str:
    """A job of higher priority needs the node: Slurm sends SIGTERM, the run saves, and goes on afterwards."""
    words = f"{RUN} epochs=3 log_every_steps=1 hydra.run.dir={made.folder}/low"
    low = made.submit("low", script(words), "--partition=low")
    made.wait_for_text(made.folder / "low/metrics.csv", "\n1,20,")
    high = made.submit("high", "#!/bin/bash\nsleep 5\n", "--partition=high", "--ntasks=2")
    made.wait_for_text(made.log("low"), "saving after step")
    made.wait(high, "COMPLETED")
    shown = made.wait(low, "COMPLETED", "FAILED")
    text = made.log("low").read_text()
    assert shown["JobState"] == "COMPLETED", shown
    assert "going on after step" in text, text[-2000:]
    return f"{next(line for line in text.splitlines() if 'going on after step' in line)}; Restarts={shown['Restarts']}"


def exit_codes(made: Cluster) -> str:
    """What the scheduler sees of a mistake, by srun and by torchrun."""
    python, train = sys.executable, ROOT / "train.py"
    wrong = f"{RUN} batch_size=33 hydra.run.dir={made.folder}/wrong"
    starts = {
        "srun": f"export MASTER_ADDR=localhost MASTER_PORT={free_port()}\nsrun --ntasks=2 {python} {train} {wrong}",
        "torchrun": f"{python} -m torch.distributed.run --standalone --nproc-per-node=2 {train} {wrong}",
        "imgcls torchrun": f"{python} -m imgcls torchrun --standalone --nproc-per-node=2 {train} {wrong}",
    }
    codes = {}
    for name, command in starts.items():
        job = made.submit(f"code-{name.replace(' ', '-')}", f"#!/bin/bash\n{command}\n", "--ntasks=2")
        codes[name] = made.wait(job, "FAILED", "COMPLETED")["ExitCode"]
        errors = [
            line
            for line in made.log(f"code-{name.replace(' ', '-')}").read_text().splitlines()
            if "error: batch_size" in line
        ]
        assert len(errors) == 1, made.log(f"code-{name.replace(' ', '-')}").read_text()[-2000:]
    assert codes["srun"] == codes["imgcls torchrun"] == "2:0", codes
    return ", ".join(f"{name} {code}" for name, code in codes.items())


def by_torchrun(made: Cluster) -> str:
    """A job that starts its ranks by torchrun saves, ends with 75 and is requeued, too."""
    words = f"{RUN} epochs=3 log_every_steps=1 hydra.run.dir={made.folder}/torchrun"
    start = f"{sys.executable} -m imgcls torchrun --standalone --nproc-per-node=2 {ROOT / 'train.py'} {words}"
    again = '{ [ $? = 75 ] && scontrol requeue "$SLURM_JOB_ID"; }'
    options = ["--ntasks=1", "--cpus-per-task=2", "--requeue", "--open-mode=append"]
    job = made.submit("torchrun", f"#!/bin/bash\nsrun {start} || {again}\n", *options)
    made.wait_for_text(made.folder / "torchrun/metrics.csv", "\n1,20,")
    made.call("scancel", "--signal=USR1", job)
    made.wait_for_text(made.log("torchrun"), "saving after step")
    shown = made.wait(job, "COMPLETED", "FAILED")
    text = made.log("torchrun").read_text()
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1"), (shown, text[-2000:])
    return next(line for line in text.splitlines() if "going on after step" in line)


def sweep(made: Cluster) -> str:
    """A sweep by hydra's submitit launcher: each run a job."""
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=low", "hydra.launcher.timeout_min=10"]
    launcher += ["hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=null"]
    words = ["-m", *RUN.split(), "epochs=1", "seed=1,2", *launcher]
    command = [sys.executable, str(ROOT / "train.py"), *words]
    done = subprocess.run(command, env=made.env, cwd=made.folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = sorted(made.folder.glob("runs/*/*/results.json"))
    assert len(results) == 2, results
    return f"{len(results)} runs: {', '.join(path.parent.name for path in results)}"


TRIALS = {
    "time is up": time_is_up,
    "preempted": preempted,
    "exit codes": exit_codes,
    "by torchrun": by_torchrun,
    "submitit": sweep,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the cluster running until Ctrl-C")
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    options = parser.parse_args()
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        print(f"error: this needs root and Slurm's programs; missing: {', '.join(missing)}", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="imgcls-slurm-"))
    folder.chmod(0o755)
    try:
        with cluster(folder) as made:
            print(made.call("sinfo", "--version"))
            failed = run_trials(TRIALS, options.trials, made)
            if options.keep:
                print(f"SLURM_CONF={folder}/slurm.conf; Ctrl-C stops it", flush=True)
                with contextlib.suppress(KeyboardInterrupt):
                    while True:
                        time.sleep(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
