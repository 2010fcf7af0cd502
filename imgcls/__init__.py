"""Train and test image classifiers on ImageNet, every choice a Hydra config."""
