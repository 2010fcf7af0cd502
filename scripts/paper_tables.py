"""Print the papers' tables of their networks: `python scripts/paper_tables.py vgg`."""

from imgcls.commands.paper_tables import main

if __name__ == "__main__":
    main()
