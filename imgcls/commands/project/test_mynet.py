"""The network of this project trains, and its checkpoint names images: `python -m pytest`."""

from pathlib import Path

import imgcls
import torch
from PIL import Image

from mynet import Net

CONF = Path(__file__).parent / "conf"


def test_the_logits_have_a_column_for_each_class():
    assert Net(7, in_channels=1, width=4)(torch.zeros(2, 1, 32, 40)).shape == (2, 7)


def test_it_trains_and_names_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["experiment=mine", "epochs=1", "max_steps=2", "device=cpu", "logger=none"]
    results = imgcls.train(*words, config_dir=CONF)
    network = imgcls.load(results["run_dir"], device="cpu", trust="mynet")
    ((guess,),) = network.predict([Image.new("RGB", (64, 64))], top=1)
    assert guess.class_name in network.classes
