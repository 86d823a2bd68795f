"""python -m tests.fuzz --seed 0 --count 300 [--only NAME,...] [--first N] [--keep DIR]"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the files that tests share


def main() -> int:
    """Try every parser; exit code 1 if something was found."""
    from tests.fuzz.parsers import PARSERS
    from tests.fuzz.runner import run

    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Damaged files for every parser.")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--count", type=int, default=300, help="files for each parser")
    options.add_argument("--first", type=int, default=0, help="number of the first case")
    options.add_argument("--only", default="", help="names of parsers, with commas")
    options.add_argument("--keep", type=Path, help="folder for the files of findings")
    given = options.parse_args()
    total, bad, began = 0, 0, time.monotonic()
    for name in given.only.split(",") if given.only else PARSERS:
        start = time.monotonic()
        tally = run(PARSERS[name], given.seed, given.count, given.keep, first=given.first)
        total, bad = total + tally.total, bad + len(tally.findings)
        spent = time.monotonic() - start
        print(
            f"{name:22} {tally.total:5} files: {tally.read:4} read, {tally.refused:4} refused, {spent:5.0f} s",
            flush=True,
        )
        for number, said in tally.findings:
            print(f"    {given.seed}/{number}: {said}", flush=True)
    print(f"{total} files of {given.seed}, {bad} findings, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
