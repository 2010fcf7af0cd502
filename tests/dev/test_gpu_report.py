"""scripts/dev/gpu_report.py: all of it runs at toy size on a CPU, in calls that go on with each other."""

import json
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import gpu_report
import pytest
from gpu_parts import BATCH_SIZES, Item, NotHereError, Part, Place, failures, parts, training_flops
from gpu_report import measure, work
from gpu_tables import TABLES, markdown

from imgcls.config import compose
from imgcls.environment import CONF_DIR


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "items").mkdir()
    return Place(folder=tmp_path, toy=True)


def test_every_network_has_a_batch_size() -> None:
    networks = {path.stem for path in (CONF_DIR / "model").glob("*.yaml")} - {"timm", "torchvision"}
    assert networks == set(BATCH_SIZES)


def test_the_flops_of_a_step_are_three_times_those_of_the_papers_forward_pass() -> None:
    # He et al. 2015, table 1: 3.8e9 multiply-adds with the stride in the 1x1 convolution, 2 FLOP each.
    config = compose(["model=resnet50", "data=imagenet", "image_size=224"])
    assert training_flops(config, 1000) == pytest.approx(3 * 2 * 3.86e9, rel=0.02)


def test_an_item_that_lacks_something_says_so_and_the_others_are_measured(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_package(place: Place) -> dict[str, float]:
        raise ModuleNotFoundError("No module named 'timm'", name="timm")

    def no_folder(place: Place) -> dict[str, float]:
        raise NotHereError("give --imagenette FOLDER")

    def broken(place: Place) -> dict[str, float]:
        raise RuntimeError("no kernel")

    figures = {"megabytes": 1.0, "waited_s": 0.1, "lost_s": 0.2, "in_loop_s": 0.3}
    items = [Item("a", no_package), Item("b", no_folder), Item("c", broken), Item("d", lambda place: figures)]
    saving = Part("saving", "Saving", items)
    monkeypatch.setattr(gpu_report, "parts", lambda place: [saving])
    work(place, "saving", until=time.time() + 100)
    records = list(gpu_report._recorded(place.folder, saving))
    assert [record["status"] for record in records] == ["not here", "not here", "failed", "measured"]
    about = {"machine": "m", "date": "today", "toy": True}
    text = markdown(about, [saving], {"saving": records})
    assert "- a: not here: there is no package timm" in text
    assert "- b: not here: give --imagenette FOLDER" in text
    assert "- c: failed: RuntimeError: no kernel" in text
    assert "the loop waits 100 ms" in text
    monkeypatch.setattr(gpu_report, "_measure", lambda item, place: pytest.fail(f"{item.name} is measured already"))
    work(place, "saving", until=time.time() + 100)


def test_a_test_that_fails_is_named_with_its_reason() -> None:
    failed = '<testcase name="b"><failure message="no"/></testcase><testcase name="d"><error message="x"/></testcase>'
    passed = '<testcase name="a"/><testcase name="c"><skipped/></testcase>'
    suite = ElementTree.fromstring(f"<testsuite>{passed}{failed}</testsuite>")
    assert failures(suite) == ["b: no", "d: x"]


def test_no_item_is_begun_when_the_time_is_up(place: Place) -> None:
    saving = Part("saving", "Saving", [Item("a", lambda place: {}), Item("b", lambda place: {})])
    assert measure(place, [saving], until=time.time() + 5) == 2
    assert not list((place.folder / "items").iterdir())


def test_each_part_has_a_table(place: Place) -> None:
    assert [part.name for part in parts(place)] == list(TABLES)


@pytest.mark.slow
def test_the_whole_report_is_made_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--toy", "--folder", str(tmp_path), "--minutes", "0.1"]
    assert gpu_report.main(words) == 75  # the time is up before anything is begun
    words[-1] = "60"
    assert gpu_report.main(words) == 0, capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    statuses = {record["status"] for records in report["parts"].values() for record in records}
    assert statuses <= {"measured", "not here"}
    (same, _) = report["parts"]["deterministic"]
    assert same["same"] is True
    text = (tmp_path / "report.md").read_text()
    assert text.count("\n## ") == 8
    assert "failed" not in text.replace("0 failed", "")
