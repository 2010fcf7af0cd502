"""Every command's help, and its line for each mistake, come before torch is imported."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from imgcls import __version__
from imgcls.environment import CONF_DIR

pytestmark = pytest.mark.e2e

ROOT = CONF_DIR.parent
TRAIN, EVALUATE, PREDICT, EXPORT, PLOT, COMPARE = (
    "train.py",
    *(f"scripts/{name}.py" for name in ("evaluate", "predict", "export", "plot", "compare")),
)

# One process runs all command lines, as Python and Hydra take seconds to start; `import torch` ends a command.
DRIVER = """
import contextlib, io, json, runpy, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise SystemExit("torch was imported")

sys.meta_path.insert(0, NoTorch())
answers = []
for script, *words in json.load(sys.stdin):
    sys.argv = [script, *words]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
    answers.append([code, out.getvalue(), err.getvalue()])
json.dump(answers, sys.stdout)
"""

RESNET50 = ["model=resnet50", "model.stride_in_3x3=true"]
MISTAKES = [
    ([TRAIN, "model=vg16"], "model=vg16: there is no such model (did you mean vgg16?)"),
    ([TRAIN, "optimizer.lrr=3"], "optimizer.lrr: there is no such key (did you mean lr?)"),
    ([TRAIN, "precision=fp8"], "precision=fp8 is none of auto, fp32, bf16, fp16"),
    ([TRAIN, "="], "=: an override without a key; write key=value"),
    ([TRAIN, "model=vgg16,vgg11"], "model=vgg16,vgg11: several values; to run one job for each, add -m"),
    ([TRAIN, "model=null"], "model=null: model takes one name"),
    ([TRAIN, "model=lenet5", "-m", "seed=1,2"], "seed=1,2: overrides are on both sides of an option such as -m"),
    ([TRAIN, "--max-stepps", "3"], "--max-stepps: there is no such option (did you mean max_steps?)"),
    ([TRAIN, "--precision", "fp8"], "precision=fp8 is none of"),
    ([TRAIN, "lr=0.1"], "lr: there is no such key (did you mean optimizer.lr?)"),
    ([TRAIN, "bs=3"], "bs: there is no such key (did you mean batch_size?)"),
    ([TRAIN, "momentm=0.9"], "momentm: there is no such key (did you mean optimizer.momentum?)"),
    ([TRAIN, "optimizer.batch_size=3"], "optimizer.batch_size: there is no such key (did you mean batch_size?)"),
    ([TRAIN, "protocol=ten_crop"], "protocol: there is no such key; it belongs to `python scripts/evaluate.py`"),
    ([TRAIN, "--protocol", "ten_crop"], "protocol: there is no such key; it belongs to `python scripts/evaluate.py`"),
    ([TRAIN, "--config-name", "mine"], "--config-name mine: conf/ has config.yaml for `python train.py`"),
    ([TRAIN, "--config-dir", "none"], "--config-dir none: there is no such folder"),
    ([TRAIN, "experiment=/a/b.yaml"], "experiment takes a name, not a file; put the file into a folder of that name"),
    ([TRAIN, "--config-name", "evaluate"], "--config-name: conf/ has config.yaml for `python train.py`"),
    ([TRAIN, "data=imagenet"], "data.source: data.root is not set"),
    ([TRAIN, "data=imagenet", "data.root=nowhere"], "data.source: data.root=nowhere is not a folder"),
    ([TRAIN, "--config-dir", "mine", "recipe=torn"], 'mine/recipe/torn.yaml", line 2, column 1'),
    ([EVALUATE], "name the network: checkpoint=runs/.../best.pt, or model=resnet50 weights=torchvision"),
    ([EVALUATE, "weights=x.pt"], "weights=x.pt of which network"),
    ([EVALUATE, "weights=x.pt", "model.depth=18"], "weights=x.pt of which network"),
    ([EVALUATE, "checkpoint=a.pt", "model=resnet18"], "model=resnet18: a checkpoint brings its network"),
    ([EVALUATE, "checkpoint=a.pt", "data.mean=[0.5]"], "data.mean=[0.5]: a checkpoint brings"),
    ([EVALUATE, "weights=x.pt", "model=resnet81"], "model=resnet81: there is no such model (did you mean resnet18?)"),
    ([EVALUATE, "weights=x.pt", "model=lenet5"], "weights=x.pt: there is no such file"),
    ([EVALUATE, "checkpoint=a.pt", "protocol=ten_corp"], "there is no such protocol (did you mean ten_crop?)"),
    ([EVALUATE, "checkpoint=a.pt", "protocol.flp=true"], "protocol.flp: there is no such key (did you mean flip?)"),
    ([EVALUATE, "checkpoint=a.pt", "batch_sise=3"], "batch_sise: there is no such key (did you mean batch_size?)"),
    ([EVALUATE, "checkpoint=a.pt", "+fresch=true"], "fresch: there is no such key (did you mean fresh?)"),
    ([EVALUATE, "checkpoint=a.pt", "epochs=3"], "epochs: there is no such key; it belongs to `python train.py`"),
    ([EVALUATE, "checkpoint=a.pt", "network=resnet18"], "network: there is no such key; describe the network"),
    ([EVALUATE, "checkpoint=a.pt", "average=weights"], "average=weights needs several checkpoints"),
    ([EVALUATE, "checkpoint=a.pt", "average=median"], "average=median is none of softmax, weights"),
    ([EVALUATE, "checkpoint=a.pt", "compare=papers"], "compare=papers is none of published"),
    ([EVALUATE, "checkpoint=[a.pt,b.pt]", "compare=published"], "of single networks, not of an ensemble"),
    ([EVALUATE, "checkpoint=a.pt", "compare=published", "image_size=64"], "not of image_size=64 but of each network's"),
    ([EVALUATE, "checkpoint=a.pt"], "checkpoint=a.pt: there is no such file"),
    ([EVALUATE, "--checkpoint", "a.pt"], "checkpoint=a.pt: there is no such file"),
    ([EVALUATE, "--chekpoint", "a.pt"], "--chekpoint: there is no such option (did you mean checkpoint?)"),
    ([EVALUATE, "checkpoint=my runs/a=1,b=2/best.pt"], "checkpoint=my runs/a=1,b=2/best.pt: there is no such file"),
    ([EVALUATE, "weights=torchvision", *RESNET50, "data=imagenet"], "data.source: data.root is not set"),
    ([EVALUATE, "weights=torchvision", *RESNET50, "data.root=none"], "data.root=none: there is no such folder or file"),
    ([EVALUATE, "checkpoint=run"], "data.root=gone: there is no such folder or file"),
    ([EVALUATE, "checkpoint=run", "data.root=.", "real=x.json"], "real=x.json: there is no such file"),
    ([PREDICT, "x.png"], "name the network: checkpoint=runs/.../best.pt"),
    ([PREDICT, "weights=torchvision", "x.png"], "weights=torchvision of which network"),
    ([PREDICT, "weights=x.pt", "model=lenet5", "model.pol=max", "x.png"], "model.pol: there is no such key (did you"),
    ([PREDICT, "chekpoint=a.pt", "x.png"], "chekpoint: there is no such option (did you mean checkpoint?)"),
    ([PREDICT, "checkpoint=run", "formt=json", "x.png"], "formt: there is no such option (did you mean format?)"),
    (
        [PREDICT, "checkpoint=run", "--formt", "json", "x.png"],
        "--formt: there is no such option (did you mean format?)",
    ),
    ([PREDICT, "checkpoint=run", "format=jsn", "x.png"], "format=jsn is none of table, csv, json (did you mean json?)"),
    ([PREDICT, "checkpoint=run", "flip=maybe", "x.png"], "flip=maybe must be true or false"),
    ([PREDICT, "checkpoint=run", "top=two", "x.png"], "top=two must be a whole number"),
    ([PREDICT, "checkpoint=run", "top=0", "x.png"], "top=0 shows nothing"),
    ([PREDICT, "checkpoint=run"], "this needs more words, see --help: images"),
    ([PREDICT, "checkpoint=none.pt", "x.png"], "checkpoint=none.pt: there is no such file"),
    ([PREDICT, "weights=none.pt", "--model", "lenet5", "x.png"], "weights=none.pt: there is no such file"),
    ([PREDICT, "checkpoint=run", "--contact-sheet", "a.pnk", "x.png"], "contact-sheet=a.pnk: the suffix says what to"),
    (
        [PREDICT, "checkpoint=run", "contact-sheet=/dev/null/a.png", "x.png"],
        "contact-sheet=/dev/null/a.png: its folder",
    ),
    ([EXPORT, "checkpoint=run", "out=model.h5"], "out=model.h5: the suffix says what to write; use one of .pt2"),
    ([EXPORT, "checkpoint=run", "out=m.safetensors", "--softmax"], "safetensors holds weights alone"),
    ([EXPORT, "checkpoint=run", "out=m.pt2", "opset=18"], "opset=18 is ONNX's"),
    ([EXPORT, "checkpoint=run", "out=m.onnx", "normalise=tru"], "normalise=tru must be true or false"),
    ([EXPORT, "checkpoint=none.pt", "out=m.onnx", "normalise=true"], "checkpoint=none.pt: there is no such file"),
    ([EXPORT, "checkpoint=run"], "this needs more words, see --help: out"),
    ([EXPORT, "checkpoint=run", "--out"], "--out has no value; write out=..., or --out ..."),
    ([PLOT], "name the network: checkpoint=runs/.../best.pt"),
    ([PLOT, "checkpoint=none.pt", "--images", "a.png", "b.png"], "checkpoint=none.pt: there is no such file"),
    ([PLOT, "run", "clas=tench"], "clas: there is no such option (did you mean class?)"),
    ([COMPARE, "nowhere"], "nowhere: there is no such folder"),
    ([COMPARE, "run", "sort=lr"], "lr: no run has such a setting or score"),
]
SHOWN = [[script, "--version"] for script in (TRAIN, EVALUATE, PREDICT, COMPARE)]
SHOWN += [[TRAIN, "--cfg", "job"], [TRAIN, "--config-dir", "mine", "--help"]]
HELPS = [[script, "--help"] for script in (TRAIN, EVALUATE, PREDICT, EXPORT, PLOT, COMPARE)]


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Answer]:
    """What each command line prints, in a folder with the run `run`, whose images were in the folder `gone`."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "run").mkdir()
    (folder / "run/best.pt").touch()
    (folder / "run/results.json").write_text(json.dumps({"data_root": "gone"}))
    (folder / "mine/recipe").mkdir(parents=True)
    (folder / "mine/recipe/torn.yaml").write_text("epochs: 1\nepochs: 2\n")
    lines = [*HELPS, *SHOWN, *(words for words, _ in MISTAKES)]
    text = json.dumps([[str(ROOT / script), *words] for script, *words in lines])
    command = [sys.executable, "-c", DRIVER]
    done = subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {tuple(words): Answer(*answer) for words, answer in zip(lines, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize("words, expected", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], expected: str, answers: dict[tuple[str, ...], Answer]
) -> None:
    code, _, err = answers[tuple(words)]
    assert (code, err.count("\n")) == (2, 1), (code, err)
    assert err.startswith("error: ")
    assert expected in err


def test_help_names_the_models_and_the_commands_to_start_with(answers: dict[tuple[str, ...], Answer]) -> None:
    code, shown, _ = answers[(TRAIN, "--help")]
    assert code == 0
    for word in ("vgg16_1x1", "python train.py model=vgg16", "tensorboard", "-m model=", "scripts/compare.py"):
        assert word in shown


@pytest.mark.parametrize("script", [TRAIN, EVALUATE, PREDICT, COMPARE])
def test_version_is_that_of_imgcls(script: str, answers: dict[tuple[str, ...], Answer]) -> None:
    assert answers[(script, "--version")] == (0, f"imgcls {__version__}\n", "")


def test_the_config_is_shown_as_it_is_trained(answers: dict[tuple[str, ...], Answer]) -> None:
    code, shown, _ = answers[(TRAIN, "--cfg", "job")]
    assert code == 0
    assert "${" not in shown
    assert isinstance(yaml.safe_load(shown)["batch_size"], int)


def test_help_lists_what_the_command_takes_and_names_of_ones_own(answers: dict[tuple[str, ...], Answer]) -> None:
    assert "protocol:" not in answers[(TRAIN, "--help")].out
    (recipes,) = re.findall("^recipe: .*", answers[(TRAIN, "--config-dir", "mine", "--help")].out, re.MULTILINE)
    assert "torn" in recipes
    assert "vgg" in recipes


@pytest.mark.parametrize(
    "words",
    [
        [TRAIN, "--info"],
        [TRAIN, "--hydra-help"],
        [TRAIN, "--help"],
        [TRAIN, "--cfg", "job"],
        [PREDICT, "--help"],
        [COMPARE],
        ["scripts/pack.py", "--help"],
        ["scripts/subset.py", "--help"],
        ["imgcls/__main__.py", "--help"],
    ],
)
def test_a_reader_that_stops_causes_no_error(words: list[str], tmp_path: Path) -> None:
    script, *more = words
    run = tmp_path / "runs/a"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, str(ROOT / script), *more]
        done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", [EVALUATE, PREDICT])
def test_help_names_every_protocol(script: str, answers: dict[tuple[str, ...], Answer]) -> None:
    code, shown, _ = answers[(script, "--help")]
    assert code == 0
    for file in (CONF_DIR / "protocol").glob("*.yaml"):
        assert file.stem in shown


@pytest.mark.parametrize("words", HELPS)
def test_every_help_says_how_options_are_written(words: list[str], answers: dict[tuple[str, ...], Answer]) -> None:
    code, shown, _ = answers[tuple(words)]
    assert code == 0
    assert "Every option may be written key=value, --key value or --key=value." in shown


@pytest.mark.parametrize(
    "file, reason",
    [
        ("runs", "Not a directory"),
        ("runs/lenet5-digits", "Not a directory"),
        ("runs/lenet5-digits/mine", "File exists"),
    ],
)
def test_a_run_directory_that_cannot_be_made_is_one_line(file: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("a file instead of a folder")
    command = [sys.executable, str(ROOT / TRAIN), "model=lenet5", "name=mine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: runs/")
    assert f"the run's directory cannot be made: {reason}; " in done.stderr
    assert done.stderr.count("\n") == 1
