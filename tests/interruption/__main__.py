"""python -m tests.interruption [--seed 0] [--moments 20] [--only train,label] [--trouble]"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the files that tests share


def main() -> int:
    """Print a table; exit code 1 if something went wrong."""
    from tests.interruption import forked, moments, trouble
    from tests.interruption.commands import COMMANDS

    options = argparse.ArgumentParser(prog="python -m tests.interruption", description="Kill lf and go on.")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--moments", type=int, default=20, help="kills of each command")
    options.add_argument("--only", default=",".join(COMMANDS), help="names of commands, with commas")
    options.add_argument("--trouble", action="store_true", help="also full disks, two processes, a wrong clock ...")
    given = options.parse_args()
    bad = 0
    forked.load()
    with tempfile.TemporaryDirectory(prefix="lf-interruption-") as folder:
        place = Path(folder)
        os.chdir(place)
        moments.stage(place)
        for name in given.only.split(","):
            began, reference = time.monotonic(), moments.whole(name, place)
            tried = {f"moment {n}": moments.moment(name, place, reference, given.seed, n) for n in range(given.moments)}
            if given.trouble:
                tried |= {kind: cause(name, place, reference, given.seed) for kind, cause in trouble.TROUBLE.items()}
            wrong = {what: said for what, said in tried.items() if said and not said.startswith("skipped")}
            spent = time.monotonic() - began
            counts = f"{len(tried):3} tried, {len(wrong):2} wrong"
            print(f"{name:8} {counts}; one run {reference.seconds:.1f} s, all {spent:.0f} s", flush=True)
            for what, said in tried.items():
                if said:
                    print(f"    {what}: {said}", flush=True)
            bad += len(wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
