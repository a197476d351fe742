"""`python -m mlmtune`, which is also how launchers start it."""

from mlmtune.cli import main

if __name__ == "__main__":
    main()
