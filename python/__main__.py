"""`python -m metagrad`: hands over to the command line in metagrad/cli.py."""

from metagrad.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
