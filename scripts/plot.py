"""Draw a run, or several: `python scripts/plot.py runs/resnet18-shapes/x`: curves, first filters, Grad-CAM."""

from imgcls.commands.plot import main

if __name__ == "__main__":
    main()
