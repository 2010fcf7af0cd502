"""Start the processes of a run, and end with their exit code: `python scripts/torchrun.py --help`."""

from imgcls.commands.torchrun import main

if __name__ == "__main__":
    main()
