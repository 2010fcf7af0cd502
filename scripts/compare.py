"""Print tables of runs, best first: `python scripts/compare.py [FOLDER ...]` (default: runs)."""

from imgcls.commands.compare import main

if __name__ == "__main__":
    main()
