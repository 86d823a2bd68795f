"""The command `lf`, also `python -m lf`: even an interrupt while it is being imported is one line."""

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
