"""Test a network or an ensemble: `python scripts/evaluate.py checkpoint=runs/x/best.pt`; `--help` says more."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from imgcls import config, words


def evaluate(cfg: config.EvaluateConfig, folder: Path) -> None:
    """Test what `cfg` names."""
    from imgcls import distributed, testing  # here: torch takes seconds, which a config error need not wait for

    del folder
    with distributed.process_group(cfg.device) as device:
        testing.run(cfg, device)


if __name__ == "__main__":
    words.any_names()
    config.command_line(evaluate, config_name="evaluate", kind=config.EvaluateConfig)
