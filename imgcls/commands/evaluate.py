"""Test a network or an ensemble."""

from pathlib import Path

from imgcls.config import EvaluateConfig, any_names, command_line
from imgcls.startup import check_test_files


def evaluate(config: EvaluateConfig, folder: Path) -> None:
    """Test the network that `config` names."""
    del folder
    check_test_files(config)
    from imgcls.distributed import process_group  # here: torch takes seconds, which no mistake should wait for
    from imgcls.evaluation import run_evaluation

    with process_group(config.device, threads=config.threads) as device:
        run_evaluation(config, device)


def main() -> None:
    """Run the command line."""
    any_names()
    command_line(evaluate, config_name="evaluate", kind=EvaluateConfig)
