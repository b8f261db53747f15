"""Runs the command line for ``python -m anytalk``."""

from anytalk.cli import main

if __name__ == "__main__":
    main()
