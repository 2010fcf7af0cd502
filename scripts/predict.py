"""Name what images show: `python scripts/predict.py checkpoint=runs/x/best.pt photo.jpg folder/ '*.png'`."""

from imgcls.commands.predict import main

if __name__ == "__main__":
    main()
