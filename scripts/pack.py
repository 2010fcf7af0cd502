"""Write a set of images into one file that trains faster: `python scripts/pack.py DIR a.pack`; `--help` says more."""

from imgcls.commands.pack import main

if __name__ == "__main__":
    main()
