"""Evaluate files on another machine through SSH: copy them, run its `lf`, copy the results back."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lf.benchmarks.run import results
from lf.benchmarks.run.pool import made_on
from lf.benchmarks.run.record import Run
from lf.benchmarks.run.suite import RESULTS
from lf.core import Artifact, BadInput, GateFailed, LfError, Unavailable, UsageError

ADDRESS = r"ssh://(?P<host>(?:[\w.-]+@)?(?:[\w.-]+|\[[0-9a-fA-F:]+\]))(?::(?P<port>\d+))?(?P<lf>/.+)?"
EXPECTED = "ssh://[USER@]HOST[:PORT][/PATH/OF/lf]"
OUT = "out"  # folder on the machine, beside the files
NO_ANSWER = 255  # exit code of ssh itself
SECONDS = 10  # s, timeout of the connection
KINDS = {kind.exit_code: kind for kind in (UsageError, GateFailed, Unavailable, BadInput)}


@dataclass(frozen=True)
class Host:
    """A machine that is reached by SSH with a key: its name, its port, and the path of its `lf`."""

    name: str
    port: str = ""
    lf: str = "lf"

    @property
    def options(self) -> list[str]:
        """Options of ssh and sftp that forbid questions."""
        port = ["-o", f"Port={self.port}"] if self.port else []
        return ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={SECONDS}", *port]


def parse(address: str) -> Host:
    """Parse the address of a host.

    Raises:
        UsageError: it is not an address.
    """
    found = re.fullmatch(ADDRESS, address)
    if not found or found["host"].startswith("-"):
        raise UsageError(f"`on={address}`: expected {EXPECTED}")
    return Host(found["host"], found["port"] or "", found["lf"] or "lf")


def evaluate_on(address: str, artifacts: Sequence[Artifact], words: Sequence[str]) -> list[Run]:
    """Evaluate files on another machine.

    Args:
        address: see `parse`.
        artifacts: the files; they are copied to the machine, and removed at the end.
        words: options of `lf bench`. Results go to the folder OUT; data are read on that machine.

    Raises:
        UsageError: not an address.
        Unavailable: ssh is not installed, the machine does not answer, or it has no `lf`.
        LfError: an error of `lf` on the machine.
    """
    host = parse(address)
    if shutil.which("ssh") is None:
        raise Unavailable("`on` needs the program ssh; type: sudo apt install openssh-client")
    with _folder(host) as folder, tempfile.TemporaryDirectory(prefix="lf-on-") as here:
        names = [f"{index}/{artifact.path.name}" for index, artifact in enumerate(artifacts)]
        for name, artifact in zip(names, artifacts, strict=True):
            _copy(host, artifact, f"{folder}/{name}")
        command = [host.lf, "bench", *names, *words]
        _said(host, f"cd {shlex.quote(folder)} && {shlex.join(command)}")
        data = _run(host, f"cat {shlex.quote(f'{folder}/{OUT}/{RESULTS}')}").stdout
        Path(here, RESULTS).write_bytes(data)
        runs = results.load(Path(here, RESULTS))
    return [made_on(run, machine=host.name) for run in runs]


@contextmanager
def _folder(host: Host) -> Iterator[str]:
    """Make a folder on the machine, and remove it at the end of the block."""
    made = _run(host, "mktemp -d -t lf-bench.XXXXXXXX")
    if made.returncode == NO_ANSWER:
        typed = shlex.join(["ssh", *host.options[4:], host.name])
        raise Unavailable(f"{host.name} cannot be reached ({_last(made.stderr)}); try: {typed}")
    folder = made.stdout.decode(errors="replace").strip()
    if made.returncode or not re.fullmatch(r"/.*/lf-bench\.\w+", folder):
        raise Unavailable(f"{host.name}: no folder could be made there ({_last(made.stderr)})")
    try:
        yield folder
    finally:
        _run(host, f"rm -rf {shlex.quote(folder)}")


def _copy(host: Host, artifact: Artifact, target: str) -> None:
    command = f"mkdir -p {shlex.quote(target.rpartition('/')[0])} && cat > {shlex.quote(target)}"
    with artifact.path.open("rb") as file:
        done = subprocess.run(_words(host, command), stdin=file, capture_output=True, check=False)
    if done.returncode:
        raise Unavailable(f"{artifact.path}: cannot be copied to {host.name} ({_last(done.stderr)})")


def _said(host: Host, command: str) -> None:
    """Run `lf` on the machine, and raise its error."""
    done = _run(host, command)
    if done.returncode == 0:
        return
    if done.returncode == 127:
        raise Unavailable(f"{host.name}: has no {host.lf}; install it there, or give its path: {EXPECTED}")
    if done.returncode == NO_ANSWER:
        raise Unavailable(f"{host.name}: the connection was lost ({_last(done.stderr)}); type the same command again")
    raise KINDS.get(done.returncode, LfError)(f"{host.name}: {_last(done.stderr).removeprefix('lf: ')}")


def _run(host: Host, command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(_words(host, command), stdin=subprocess.DEVNULL, capture_output=True, check=False)


def _words(host: Host, command: str) -> list[str]:
    return ["ssh", *host.options, "--", host.name, command]


def _last(said: bytes) -> str:
    return ([line for line in said.decode(errors="replace").strip().splitlines() if line] or ["no reason given"])[-1]
