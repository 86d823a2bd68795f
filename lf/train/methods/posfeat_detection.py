"""Stage 2 of PoSFeat (arXiv 2203.12993): train scores by reinforcement; descriptors are frozen.

It trains any network that has layers for scores alone: only parameters that descriptors do not depend on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lf.core import UsageError
from lf.models import MODELS, Model
from lf.train import Recipe, parts, posed_pairs
from lf.train.losses import epipolar_losses, policy_gradient
from lf.train.losses.policy_gradient import CELL, Outcome, Points
from lf.train.methods.posfeat_description import views_of
from lf.train.posed_pairs import PosedPairs
from lf.train.sample import Sample, single
from lf.train.views.random_views import Dice


class Method:
    """Scores from camera poses by policy gradient, see `lf.train.losses.policy_gradient`.

    Settings:
        batch_loss: `per_pair`, the mean over pairs; or `published`, the sum over the batch, which ties the learning
            rate to the batch size.
        penalty: cost of each accepted point.
        temperature: similarities are multiplied by it.
        jitter, light: see `lf.train.methods.posfeat_description`.
        max_turn, most_pairs: see `lf.train.posed_pairs.collect`.
    """

    any_network = True  # trains the network of `init`
    collect = staticmethod(posed_pairs.collect)
    extra: nn.Module | None = None
    images = 2  # per pair of the batch

    def __init__(self, recipe: Recipe, pictures: PosedPairs, device: torch.device) -> None:
        """Store the pairs.

        Raises:
            UsageError: the network has no descriptors or no score map.
        """
        self.recipe, self.pairs, self.device = recipe, pictures, device
        self.model = MODELS[recipe.model]
        parts.check(self.model, recipe.model, recipe.method)

    def state(self) -> dict[str, Tensor]:
        """Return an empty state: only the network changes."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Do nothing: there is no state."""

    def begin_step(self, step: int, network: nn.Module) -> None:
        """Do nothing: steps need no preparation."""

    def trained(self, network: nn.Module) -> list[nn.Parameter]:
        """Return the parameters that descriptors do not depend on, and freeze all others.

        Raises:
            UsageError: there are no such parameters, or the recipe has no `init` with descriptors.
        """
        if not self.recipe.init:
            raise UsageError("recipe: init= names no descriptors to match with; type: `init=CHECKPOINT`")
        _, rest = parts.split(network, self.model)
        if not rest:
            raise UsageError(f"recipe: {self.recipe.model} has no layers for scores alone, which could be trained")
        parts.focus(network, rest, others_learn=False)
        return rest

    def loss(self, network: nn.Module, dice: Dice) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the pairs of this process, and numbers for the log."""
        views, there, back = views_of(self.pairs, self.recipe, dice)
        dice.data_ready()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            outputs = network(views.contiguous(memory_format=torch.channels_last))
        outcome = self._outcome(parts.maps_of(self.model, outputs), (there, back), dice)
        mean = outcome.loss / dice.pairs
        loss = mean if self.recipe.settings["batch_loss"] == "per_pair" else mean * self.recipe.batch
        parts_ = {"accepted": outcome.accepted, "correct": outcome.correct, "precision": outcome.precision}
        return loss, {"loss": loss.detach(), **{name: part.detach() for name, part in parts_.items()}}

    def sample(self, dice: Dice) -> list[Sample]:
        """The views of a step."""
        views, _, _ = views_of(self.pairs, self.recipe, dice)
        return single(views[: dice.pairs], torch.zeros(dice.pairs, 0, 3))

    def _outcome(self, maps: dict[str, Tensor], ways: tuple[Tensor, Tensor], dice: Dice) -> Outcome:
        size, corners = self.recipe.size, self.model.family == "posfeat"
        found, described = list[Points](), list[Tensor]()
        for score, raw in zip(score_map(self.model, maps).chunk(2), maps["descriptor"].detach().chunk(2), strict=True):
            count = (size[0] // CELL) * (size[1] // CELL)
            drawn = policy_gradient.propose(score, dice.rand(count, CELL * CELL), dice.rand(count))
            found.append(policy_gradient.points(score, *drawn))
            described.append(epipolar_losses.describe(raw, found[-1].at, size, corners))
        penalty, sharp = (self.recipe.settings[name] for name in ("penalty", "temperature"))
        return policy_gradient.detection((found[0], found[1]), (described[0], described[1]), ways, penalty, sharp)


def score_map(model: Model, maps: dict[str, Tensor]) -> Tensor:
    """Return a logit for every pixel (B, H, W): of the pixel's class against the dustbin class, or of its score.

    Scores of PoSFeat pass through a softplus, as in its decoder.
    """
    if "detector" in maps:
        classes = maps["detector"]
        return F.pixel_shuffle(classes[:, :-1] - classes[:, -1:], CELL)[:, 0]
    score = F.pixel_shuffle(maps["score"], model.heads["score"][1])[:, 0]
    return F.softplus(score) if model.family == "posfeat" else score
