"""`python -m launch <program> ...`: the command line from a bare checkout."""

from .cli import main

if __name__ == "__main__":
    main()
