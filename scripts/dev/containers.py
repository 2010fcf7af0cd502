"""Build the image of containers/Dockerfile and try it: as any user, read-only, stopped, as two hosts, with the docs.

    python scripts/dev/containers.py                                         Docker or podman; half an hour
    python scripts/dev/containers.py --build-options "--build-arg UV_TORCH_BACKEND=cpu"
    python scripts/dev/containers.py --image imgcls:cpu --trials users stopped
    sudo python scripts/dev/containers.py --stand-in ~/.pyenv/versions/3.12.1    without a registry

The stand-in for the base image is Debian by debootstrap with a copy of this machine's Python. What the network asks for
(a proxy's certificate, an index of packages) is given by --build-options, such as volumes, which stay out of the image.
The exit code is 1 if a trial did not end as it should; the images stay.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from trials import run_trials

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "containers/Dockerfile"
STRANGER = "1234:1234"  # a user that the image does not know
DOCS_EXTRAS = "timm sweep export parquet hf remote"  # what the commands of docs/ use
PATHS = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
# The libraries that Python's modules are linked with.
LIBRARIES = "ca-certificates,netbase,tzdata,libffi8,libsqlite3-0,libssl3,libbz2-1.0,liblzma5,libreadline8,zlib1g"
LIBRARIES += ",libncursesw6,libuuid1,libexpat1,libnsl2,libtirpc3,libcrypt1"
# As in the base image: apt keeps nothing.
CLEAN = """DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""
RUN = ["train", "model=lenet5", "device=cpu", "logger=none", "log_every_steps=1", "threads=1"]


class Engine:
    """Docker or podman, an image, and a folder that its containers share as /project."""

    def __init__(self, program: str, image: str, project: Path) -> None:
        self.program, self.image, self.project = program, image, project

    def call(self, *words: str, code: int = 0) -> str:
        """Run a command of the engine; return what it wrote.

        Raises:
            RuntimeError: it ended with another exit code than `code`.
        """
        done = subprocess.run([self.program, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != code:
            raise RuntimeError(f"{shlex.join(words)}: exit code {done.returncode}, not {code}: {done.stdout[-3000:]}")
        return done.stdout

    def run(self, *words: str, options: Sequence[str] = (), code: int = 0) -> str:
        """Run `imgcls WORDS` in a container."""
        volume = f"--volume={self.project}:/project"
        return self.call("run", "--rm", "--pull=never", volume, *options, self.image, *words, code=code)

    def start(self, name: str, *words: str, options: Sequence[str] = ()) -> None:
        """Start `imgcls WORDS` in a container in the background."""
        volume = f"--volume={self.project}:/project"
        self.call("run", "--detach", f"--name={name}", "--pull=never", volume, *options, self.image, *words)

    def end(self, name: str, *, stop: bool = False) -> tuple[int, str, float]:
        """Wait for a container, or stop it; return its exit code, what it wrote, and the seconds that it took."""
        started = time.monotonic()
        if stop:
            self.call("stop", "--time=90", name)
        code = int(self.call("wait", name).split()[-1])
        text = self.call("logs", name)
        self.call("rm", name)
        return code, text, time.monotonic() - started

    def wait_for_steps(self, name: str, *, seconds: float = 600) -> None:
        """Wait until the run in a container has shown its first steps."""
        until = time.monotonic() + seconds
        while "epoch 1/" not in self.call("logs", name):
            if time.monotonic() > until:
                raise RuntimeError(f"{name}: no step in {seconds:.0f} s: {self.call('logs', name)[-3000:]}")
            time.sleep(0.5)


def help_and_doctor(engine: Engine) -> str:
    """The help is quick; the doctor finds the native decoder, and one core where the container has a quota of one."""
    started = time.monotonic()
    assert "imgcls train" in engine.run()
    took = time.monotonic() - started
    text = engine.run("doctor", "model=lenet5", options=["--cpus=1"])
    assert "libjpeg-turbo, native" in text, text
    assert "1 cores for this process" in text, text
    return f"the help takes {took:.1f} s"


def users(engine: Engine) -> str:
    """Root and a user whom the image does not know train, draw a set, compile; the files are theirs."""
    for user in ("0:0", STRANGER):
        name = user.partition(":")[0]
        options = [f"--user={user}"]
        engine.run(*RUN, "data=shapes", "image_size=32", "max_steps=2", f"hydra.run.dir=runs/{name}", options=options)
        words = ["max_steps=2", "compile=true", f"hydra.run.dir=runs/{name}-compiled"]
        engine.run(*RUN, *words, options=options)
        owner = (engine.project / f"runs/{name}/last.pt").stat().st_uid
        assert str(owner) == name, owner
    return "both train, and own their files"


def read_only(engine: Engine) -> str:
    """With a read-only root file system and 1 MB of shared memory a run trains and is tested; a cache is a volume."""
    cache = Path(tempfile.mkdtemp(prefix="cache-", dir=engine.project))
    options = ["--read-only", "--tmpfs=/tmp", "--shm-size=1m", f"--volume={cache}:/cache"]
    words = [*RUN, "data=shapes", "image_size=32", "max_steps=2"]
    engine.run(*words, "hydra.run.dir=runs/read-only", options=options)
    data = f"--volume={cache}/.cache/imgcls:/data:ro"
    tested = engine.run("evaluate", "checkpoint=runs/read-only/best.pt", "device=cpu", options=[*options, data])
    assert "top-1" in tested, tested
    error = engine.run(*words, "hydra.run.dir=runs/other", options=options[:3], code=2)
    assert "set IMGCLS_CACHE to a folder where you may write" in error, error
    return "trained and tested; without a cache one line says what to set"


def stopped(engine: Engine) -> str:
    """A run that the engine stops saves, ends with 75, and goes on; one that has not begun to train ends at once."""
    words = [*RUN, "epochs=3", "hydra.run.dir=runs/stopped"]
    engine.start("imgcls-stopped", *words)
    engine.wait_for_steps("imgcls-stopped")
    code, text, seconds = engine.end("imgcls-stopped", stop=True)
    assert code == 75, (code, text)
    text = engine.run(*words)
    line = next(line for line in text.splitlines() if "going on after step" in line)
    engine.start("imgcls-early", *RUN, "epochs=1000", "hydra.run.dir=runs/early")
    early, _, early_seconds = engine.end("imgcls-early", stop=True)
    assert early in (75, 128 + 15), early
    assert early_seconds < 60, early_seconds
    starting = f"while it starts, {early} after {early_seconds:.1f} s"
    return f"75 after {seconds:.1f} s, then: {line.strip()}; {starting}"


def two_hosts(engine: Engine) -> str:
    """Two containers on a network train as the Job of kubernetes.yaml does; a stop of one saves and ends both."""
    words = ["-m", "imgcls", *RUN, "epochs=2", "batch_size=32", "hydra.run.dir=runs/hosts"]
    engine.call("network", "create", "imgcls-net")

    def start() -> None:
        for rank in range(2):
            rendezvous = [f"--node-rank={rank}", "--master-addr=imgcls-0", "--master-port=29500"]
            options = ["--network=imgcls-net"]
            torchrun = ["torchrun", "--nnodes=2", "--nproc-per-node=1", *rendezvous]
            engine.start(f"imgcls-{rank}", *torchrun, *words, options=options)

    try:
        start()
        engine.wait_for_steps("imgcls-0")
        ends = [engine.end("imgcls-1", stop=True), engine.end("imgcls-0")]
        assert [code for code, *_ in ends] == [75, 75], ends
        start()
        ends = [engine.end(f"imgcls-{rank}") for rank in range(2)]
        assert [code for code, *_ in ends] == [0, 0], ends
        return next(line.strip() for line in ends[0][1].splitlines() if "going on after step" in line)
    finally:
        for rank in range(2):
            subprocess.run([engine.program, "rm", "--force", f"imgcls-{rank}"], capture_output=True)
        engine.call("network", "rm", "imgcls-net")


def docs(engine: Engine) -> str:
    """The commands of README.md and docs/ run in the container, small and for two steps, as tests/docs has them."""
    folder = engine.project / "docs"
    options = ["--rm", "--interactive", "--pull=never", f"--volume={folder}:{folder}", "--entrypoint=python"]
    python = [engine.program, "run", *options, "--env=IMGCLS_CACHE", "--env=COLUMNS", engine.image]
    command = [sys.executable, "-m", "pytest", "-m", "e2e", f"--basetemp={folder}", "tests/docs/test_running.py"]
    environment = {**os.environ, "IMGCLS_DOCS_PYTHON": shlex.join(python)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-10000:]
    return done.stdout.strip().splitlines()[-1]


def manifest(engine: Engine) -> str:
    """containers/kubernetes.yaml fits Kubernetes' own schema, as PyPI's kubernetes-validate has it."""
    command = ["uvx", "kubernetes-validate", "--strict", str(ROOT / "containers/kubernetes.yaml")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout.strip().replace("\n", "; ")


TRIALS = {
    "help": help_and_doctor,
    "users": users,
    "read-only": read_only,
    "stopped": stopped,
    "two-hosts": two_hosts,
    "manifest": manifest,
    "docs": docs,
}


def make_stand_in(program: str, prefix: Path) -> None:
    """Import an image that stands for python:3.X-slim-bookworm: Debian with the Python of `prefix` in /usr/local."""
    (version,) = (path.name for path in (prefix / "lib").glob("python3.*") if path.is_dir())
    folder = Path(tempfile.mkdtemp(prefix="imgcls-base-"))
    try:
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={LIBRARIES}", "bookworm", folder], check=True)
        skipped = shutil.ignore_patterns("test", "__pycache__", "idlelib", "*.a", "site-packages")
        for name in ("lib", "include"):
            target = folder / "usr/local" / name
            shutil.copytree(prefix / name, target, symlinks=True, dirs_exist_ok=True, ignore=skipped)
        shutil.copy2(prefix / "bin" / version, folder / "usr/local/bin" / version)
        for name in ("python", "python3"):
            (folder / "usr/local/bin" / name).symlink_to(version)
        (folder / "etc/apt/apt.conf.d/docker-clean").write_text(CLEAN)
        for words in (["ldconfig"], ["/usr/local/bin/python", "-m", "ensurepip", "--default-pip"]):
            subprocess.run(["chroot", folder, *words], check=True, env={"PATH": PATHS})
        for path in (*(folder / "var/lib/apt/lists").iterdir(), *(folder / "var/cache/apt").iterdir()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        packed = subprocess.Popen(["tar", "c", "-C", folder, "."], stdout=subprocess.PIPE)
        change = ["--change", f"ENV PATH={PATHS}", "--change", "CMD python3"]
        tag = f"docker.io/library/python:{version.removeprefix('python')}-slim-bookworm"
        subprocess.run([program, "import", *change, "-", tag], stdin=packed.stdout, check=True)
    finally:
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    programs = [name for name in ("docker", "podman") if shutil.which(name)]
    parser.add_argument("--engine", default=programs[0] if programs else None, help="docker or podman")
    parser.add_argument("--image", help="try this image instead of building one")
    parser.add_argument("--build-options", default="", help="for the engine's build, in one word")
    parser.add_argument("--stand-in", type=Path, metavar="PREFIX", help="make the base image with the Python below it")
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    options = parser.parse_args()
    if options.engine is None:
        print("error: this needs docker or podman", file=sys.stderr)
        return 2
    if options.stand_in and (os.geteuid() != 0 or shutil.which("debootstrap") is None):
        print("error: --stand-in needs root and debootstrap", file=sys.stderr)
        return 2
    if options.stand_in:
        make_stand_in(options.engine, options.stand_in)
    image = options.image or "imgcls:trial"
    if not options.image:
        started = time.monotonic()
        extras = ["--build-arg", f"EXTRAS={DOCS_EXTRAS}"] if "docs" in options.trials else []
        build = [options.engine, "build", f"--file={FILE}", f"--tag={image}", *extras]
        build += shlex.split(options.build_options)
        subprocess.run([*build, str(ROOT)], check=True)
        print(f"built in {time.monotonic() - started:.0f} s", flush=True)
    project = Path(tempfile.mkdtemp(prefix="imgcls-containers-"))
    project.chmod(0o777)
    (project / "runs").mkdir()
    (project / "runs").chmod(0o777)
    engine = Engine(options.engine, image, project)
    try:
        print(f"{image}: {int(engine.call('image', 'inspect', '--format={{.Size}}', image)) / 1e9:.2f} GB", flush=True)
        return int(run_trials(TRIALS, options.trials, engine) > 0)
    finally:
        shutil.rmtree(project, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
