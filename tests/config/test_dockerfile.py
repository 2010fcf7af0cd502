"""containers/Dockerfile: what it copies is what the package is built of, and its options name what there is."""

import re
import tomllib

import pytest

from imgcls.environment import CONF_DIR

ROOT = CONF_DIR.parent
FILE = ROOT / "containers/Dockerfile"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the image is built in a checkout alone")


def test_the_image_gets_what_the_package_is_built_of_and_nothing_else() -> None:
    everything, *kept = (ROOT / ".dockerignore").read_text().splitlines()
    assert everything == "*"
    names = {line.removeprefix("!") for line in kept if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert names == {"conf", "imgcls", "pyproject.toml", "setup.py", "LICENSE", project["readme"]}
    assert all((ROOT / name).exists() for name in names)


def test_packages_are_installed_before_the_source_is_copied_and_the_program_is_not_process_one() -> None:
    lines = [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]
    packages, source, program = (
        next(number for number, line in enumerate(lines) if start in line)
        for start in ("uv pip install -r pyproject.toml", "COPY . .", "uv pip install --no-deps .")
    )
    assert packages < source < program
    assert 'ENTRYPOINT ["tini", "--", "imgcls"]' in lines
    assert " tini " in FILE.read_text().partition("install --yes")[2].partition("&&")[0] + " "


def test_the_extras_and_python_that_its_comments_name_are_there() -> None:
    text = FILE.read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r'EXTRAS="(.*?)"', text)
    assert set(extras.split()) <= project["optional-dependencies"].keys()
    (python,) = re.findall(r"ARG PYTHON=(.*)", text)
    least = project["requires-python"].removeprefix(">=")
    assert int(python.removeprefix("3.")) >= int(least.removeprefix("3."))
