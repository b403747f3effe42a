"""The two values of search.mode: this package's inversion and search, and the published ones as a baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from blobex.config.explain import InversionParams
from blobex.core.errors import BlobexError
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.published import LAMBDA_KEY, search_published
from blobex.counterfactual.search import SearchOptions, search
from blobex.counterfactual.verify import Counterfactuals
from blobex.counterfactual.whole_objects import ObjectExamples
from blobex.explain.request import Plan
from blobex.inversion.inversion import Inversion
from blobex.inversion.invert import invert
from blobex.inversion.published import invert_published
from blobex.layout.blobs import BlobLayout
from blobex.optim.networks import NetworkPair, Networks


@dataclass(frozen=True)
class FastMethod:
    """This package's inversion and search."""

    networks: NetworkPair
    batch_size: int
    inversion: InversionParams
    seed: int
    examples: ObjectExamples | None

    def check(self, plan: Plan) -> None:
        """Raise BlobexError if the method does not support the plan; this one supports all."""

    def compose(self, plan: Plan) -> Literal["photo", "full"]:
        """Return how counterfactual images are made."""
        return plan.compose

    def invert(self, queries: Tensor, start: BlobLayout | None = None, steps: int | None = None) -> Inversion:
        """Invert images (N,3,H,W), from layouts `start`, in `steps` steps; None: encoder and parameters."""
        params = self.inversion if steps is None else dataclasses.replace(self.inversion, steps=steps)
        return invert(queries, self.networks, params, self.batch_size, start)

    def lambda_key(self, plan: Plan) -> Mapping[Any, float]:
        """Return the price of the mean absolute change of each key."""
        return plan.search.lambda_key

    def search(self, problems: Problems, plan: Plan, skip: Tensor | None = None) -> Counterfactuals:
        """Search the counterfactuals of all problems but those to `skip`, bool (P,)."""
        options = SearchOptions(plan.variant.few, plan.variant.count, plan.photo, self.seed)
        return search(problems, self.networks, plan.search, self.batch_size, options, skip, self.examples)


@dataclass(frozen=True)
class PublishedMethod:
    """The published inversion and search, with the interface of `FastMethod` (OCTET, Zemni et al., CVPR 2023)."""

    networks: Networks

    def check(self, plan: Plan) -> None:
        if plan.variant.count > 1:
            raise BlobexError("the published search finds one counterfactual at a time: use search.mode fast")
        if plan.gate.action == "skip":
            raise BlobexError("the published search skips nothing: let the gate report, or use search.mode fast")

    def compose(self, plan: Plan) -> Literal["photo", "full"]:
        return "full"

    def invert(self, queries: Tensor, start: BlobLayout | None = None, steps: int | None = None) -> Inversion:
        return invert_published(queries, self.networks)

    def lambda_key(self, plan: Plan) -> Mapping[Any, float]:
        return LAMBDA_KEY

    def search(self, problems: Problems, plan: Plan, skip: Tensor | None = None) -> Counterfactuals:
        return search_published(problems, self.networks)


SearchMethod = FastMethod | PublishedMethod
