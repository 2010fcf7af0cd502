"""Train an image classifier: `python train.py model=vgg16 data=imagenet data.root=DIR`; `--help` says more."""

from imgcls.commands.train import main

if __name__ == "__main__":
    main()
