"""Open what a user names: shipped weights, a file of lf, or a public checkpoint."""

from __future__ import annotations

from pathlib import Path

from lf.core import Artifact, BadInput, Card, UsageError, hint
from lf.formats import model_file
from lf.models import MODELS, row_of

SHIPPED = Path(__file__).parent / "weights"


def shipped() -> dict[str, Path]:
    """Return the files of shipped weights and baselines by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.*")) if path.suffix in (".safetensors", ".card")}


def resolve(name_or_path: str | Path) -> Artifact:
    """Open a model by name or path. A public checkpoint gets its card here; torch is imported only for that.

    Raises:
        UsageError: neither the name of shipped weights nor the path of a file.
        BadInput: see `lf.formats.model_file.load` and `lf.models.checkpoint.load`.
    """
    name = str(name_or_path)
    path = located(name_or_path)
    if path.suffix == ".safetensors":
        card = model_file.read_card(path)  # without torch, which a device may not have
        return _known(Artifact(path, card)) if card else _public(path)
    if path.suffix == ".onnx" and path.stem in shipped() and not path.exists():
        raise BadInput(f"{path}: no such file; to make it, type: `export({path.stem}, output={path})`")
    if path.suffix in model_file.CODECS:
        return _known(model_file.load(path))
    if not path.exists():  # check first: the import of torch takes seconds
        raise BadInput(f"{path}: no such file; expected a checkpoint") if path.suffix else UsageError(_no_such(name))
    return _public(path)


def located(name_or_path: str | Path) -> Path:
    """Return the path of what a user names, which need not exist: a file of shipped weights, else the path itself."""
    return shipped().get(str(name_or_path), Path(name_or_path))


def as_typed(path: Path) -> str:
    """What a user types for a model file: the name of shipped weights, else the path."""
    return path.stem if shipped().get(path.stem) == path else str(path)


def _public(path: Path) -> Artifact:
    from lf.models import checkpoint

    row, state, weights = checkpoint.load(path)
    model = MODELS[row].for_classes(checkpoint.classes_of(state))
    return Artifact(path, Card(row, weights, (model.channels, None, None), outputs=dict(model.heads)))


def _known(artifact: Artifact) -> Artifact:
    if artifact.card.network:
        row_of(artifact.card)  # raises if the description in the card is invalid
    elif artifact.card.model not in MODELS:
        known = ", ".join(MODELS)
        raise BadInput(f"{artifact.path}: its card names model '{artifact.card.model}'; known: {known}")
    return artifact


def _no_such(name: str) -> str:
    if name in MODELS:
        return (
            f"no weights of '{name}' come with lf; give the path of its checkpoint (.pth, .safetensors ...); "
            f"lf models {name} says where to get it"
        )
    known = shipped()
    return f"'{name}' is neither a file nor shipped weights; {hint(name, known)}shipped: {', '.join(known) or 'none'}"
