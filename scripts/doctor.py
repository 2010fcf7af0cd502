"""Say before a run whether it will work, and how long it takes: `python scripts/doctor.py --help`."""

from imgcls.commands.doctor import main

if __name__ == "__main__":
    main()
