"""`python -m imgcls train ...` is `imgcls train ...`; torchrun starts it as `torchrun ... -m imgcls train ...`."""

from imgcls.commands import main

if __name__ == "__main__":
    main()
