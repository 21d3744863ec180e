"""`python -m mqworker`: the same as the command `mqworker`."""

from mqworker.cli import main

if __name__ == "__main__":
    main()
