"""Train and test image classifiers on ImageNet, every choice a Hydra config."""

__version__ = "0.1.0"
