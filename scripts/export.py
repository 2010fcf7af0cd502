"""Write a network for other programs: `python scripts/export.py checkpoint=runs/x/best.pt out=model.onnx`."""

from imgcls.commands.export import main

if __name__ == "__main__":
    main()
