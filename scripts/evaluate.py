"""Test a network or an ensemble: `python scripts/evaluate.py checkpoint=runs/x/best.pt`; `--help` says more."""

from imgcls.commands.evaluate import main

if __name__ == "__main__":
    main()
