"""The command `lf`, also `python -m lf`. An interrupt during the import prints one line."""

import sys


def main() -> None:
    """Import the command line and run it."""
    try:
        from lf.cli import main as run
    except KeyboardInterrupt:
        print("lf: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
