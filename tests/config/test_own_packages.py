"""Classes of the user's own: called where the command trusts their package, never because a checkpoint does."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgcls.config import build_component, compose, locate, package_names, trust_packages
from imgcls.environment import CONF_DIR
from imgcls.errors import ConfigError
from imgcls.models import build_model

ROOT = CONF_DIR.parent


@pytest.fixture
def mynet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a network, a data set, and configs of both."""
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n"
        "from imgcls.data.sets import open_folder\n"
        "def my_photos(root: str | None, channels: int = 3):\n"
        "    return open_folder(root, channels=channels)\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes: int = 10, *, in_channels: int = 3, width: int = 8):\n"
        "        pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "        super().__init__(nn.Conv2d(in_channels, width, 3), *pool, nn.Linear(width, num_classes))\n"
    )
    for group, text in (
        ("model", "_target_: mynet.Net\nwidth: 4\n"),
        ("data", "name: mine\nsource:\n  _target_: mynet.my_photos\nmean: [0.5]\nstd: [0.25]\n"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    trust_packages(())
    sys.modules.pop("mynet", None)


def test_a_package_is_refused_with_the_way_out_and_allowed_once_it_is_trusted(mynet: Path) -> None:
    with pytest.raises(ConfigError, match=r"mynet.Net is not allowed; .*; if you trust the code of mynet: trust=\[myn"):
        locate("model", "mynet.Net")
    trust_packages(["mynet"])
    assert len(build_component("model", {"_target_": "mynet.Net", "width": 4})) == 4
    with pytest.raises(ConfigError, match=r"model.widht=4: mynet.Net takes no widht \(did you mean width\?\)"):
        build_component("model", {"_target_": "mynet.Net", "widht": 4})
    with pytest.raises(ConfigError, match="is not allowed"):  # what a trusted module imports is not its own
        locate("model", "mynet.open_folder")
    trust_packages(())
    with pytest.raises(ConfigError, match="is not allowed"):
        locate("model", "mynet.Net")


def test_a_network_that_takes_no_channels_is_built_all_the_same(mynet: Path) -> None:
    code = (mynet / "mynet.py").read_text()
    (mynet / "mynet.py").write_text(code.replace(", in_channels: int = 3", "").replace("(in_channels,", "(3,"))
    trust_packages(["mynet"])
    config = compose(["trust=[mynet]"])
    config.model = {"_target_": "mynet.Net"}
    assert build_model(config, num_classes=7)[-1].out_features == 7


def test_composing_a_config_trusts_nothing_by_itself(mynet: Path) -> None:
    config = compose(["trust=[mynet]"])
    assert config.trust == ["mynet"]
    with pytest.raises(ConfigError, match="is not allowed"):
        locate("model", "mynet.Net")


@pytest.mark.parametrize(
    "value, message",
    [
        ("os", "trust=os is a part of Python"),
        (["my-net"], "must name packages"),
        ({"a": 1}, "must name packages"),
        ([3], "must name packages"),
    ],
)
def test_what_is_no_package_of_ones_own_is_refused(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        package_names(value)


def test_a_name_or_a_list_is_a_list() -> None:
    assert (package_names("mynet"), package_names(["a.b"]), package_names(None)) == (["mynet"], ["a.b"], [])


@pytest.mark.e2e
def test_own_network_and_data_train_and_the_checkpoint_brings_no_trust(mynet: Path, tiny_folder: Path) -> None:
    def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / script), *words]
        return subprocess.run(command, cwd=mynet, capture_output=True, text=True, timeout=120)

    words = ["--config-dir", "conf", "model=mine", "data=mine", f"data.root={tiny_folder}", "device=cpu", "epochs=1"]
    words += ["image_size=32", "batch_size=12", "max_steps=2", "logger=none"]
    refused = run("train.py", *words)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "trust=[mynet]" in refused.stderr
    done = run("train.py", *words, "trust=mynet")
    assert done.returncode == 0, done.stderr
    (best,) = mynet.glob("runs/mine-mine/*/best.pt")
    assert "trust" not in best.parent.name
    assert json.loads((best.parent / "config.json").read_text())["trust"] == ["mynet"]

    image = str(tiny_folder / "val/red/00.JPEG")
    for script, more in (("scripts/evaluate.py", (f"data.root={tiny_folder}",)), ("scripts/predict.py", (image,))):
        refused = run(script, f"checkpoint={best}", "device=cpu", *more)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert "trust=[mynet]" in refused.stderr
        done = run(script, f"checkpoint={best}", "device=cpu", "trust=[mynet]", *more)
        assert done.returncode == 0, done.stderr
