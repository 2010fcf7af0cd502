"""Sort ImageNet's flat validation images into class folders: `python scripts/sort_val.py --help`."""

from imgcls.commands.sort_val import main

if __name__ == "__main__":
    main()
