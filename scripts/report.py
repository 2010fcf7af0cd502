"""Write runs as one HTML page: `python scripts/report.py runs out=report.html`."""

from imgcls.commands.report import main

if __name__ == "__main__":
    main()
