"""Build the documentation site into out/site, with warnings as errors: `python -m scripts.site`.

The pages are those of docs/, CONTRIBUTING.md, CHANGELOG.md, and a reference that is generated from the code. Open
out/site/index.html in a browser: nothing is loaded from elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from scripts.site import offline, sources

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out"


def main() -> int:
    """Write the sources, build, check that the site works from disk; the exit code."""
    source, site = OUT / "site-source", OUT / "site"
    sources.write(ROOT, source)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    if code := subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}).returncode:
        return code
    problems = offline.problems(site)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(site / "index.html")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
