"""Say what a training will take: `python scripts/plan.py model=resnet50 data=imagenet hardware=h100`."""

from imgcls.commands.plan import main

if __name__ == "__main__":
    main()
