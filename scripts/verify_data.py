"""Read every image of a set: `python scripts/verify_data.py --help`."""

from imgcls.commands.verify_data import main

if __name__ == "__main__":
    main()
