"""Make a tiny subset of a data set in ImageNet's layout: `python scripts/subset.py --help`."""

from imgcls.commands.subset import main

if __name__ == "__main__":
    main()
