"""Test a network or an ensemble: `python scripts/evaluate.py checkpoint=runs/x/best.pt`; `--help` says more."""

from pathlib import Path

from imgcls.config import EvaluateConfig, any_names, command_line


def evaluate(cfg: EvaluateConfig, folder: Path) -> None:
    """Test what `cfg` names."""
    from imgcls import distributed
    from imgcls.evaluation import run_evaluation  # here: torch takes seconds, which a config error need not wait for

    del folder
    with distributed.process_group(cfg.device) as device:
        run_evaluation(cfg, device)


if __name__ == "__main__":
    any_names()
    command_line(evaluate, config_name="evaluate", kind=EvaluateConfig)
