"""lf: export, quantize and benchmark local-feature networks.

    import lf

    net = lf.load("wren")  # a model file, a public checkpoint, or the name of shipped weights
    first, second = net.extract("1.png"), net.extract("2.png")
    matches = lf.match(first, second)
    print(len(matches), matches.homography().estimate)

`import lf` is light: an engine is imported when it is first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lf import process

__version__ = "0.2.0"
process.prepare()

if TYPE_CHECKING:
    from lf.api.matches import Matches as Matches
    from lf.api.matches import match as match
    from lf.api.network import Network as Network
    from lf.api.network import adopt as adopt
    from lf.api.network import load as load
    from lf.api.network import read as read
    from lf.api.runs import Runs as Runs
    from lf.api.runs import evaluate as evaluate
    from lf.core import Artifact as Artifact
    from lf.core import BadInput as BadInput
    from lf.core import Features as Features
    from lf.core import GateFailed as GateFailed
    from lf.core import LfError as LfError
    from lf.core import Unavailable as Unavailable
    from lf.core import UsageError as UsageError

PUBLIC = {  # name -> the module that defines it
    "load": "lf.api.network",
    "read": "lf.api.network",
    "adopt": "lf.api.network",
    "Network": "lf.api.network",
    "match": "lf.api.matches",
    "Matches": "lf.api.matches",
    "evaluate": "lf.api.runs",
    "Runs": "lf.api.runs",
    "Features": "lf.core",
    "Artifact": "lf.core",
    "LfError": "lf.core",
    "UsageError": "lf.core",
    "GateFailed": "lf.core",
    "Unavailable": "lf.core",
    "BadInput": "lf.core",
}
__all__ = ["__version__", *PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'lf' has no attribute '{name}'; it offers {', '.join(PUBLIC)}")
    value = getattr(importlib.import_module(PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return sorted({*globals(), *PUBLIC})
