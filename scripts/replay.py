"""Run a run again from its capsule, and compare the results: `python scripts/replay.py runs/x`."""

from imgcls.commands.replay import main

if __name__ == "__main__":
    main()
