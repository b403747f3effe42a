"""Assignment of blobs to several counterfactuals of one problem (diverse search, OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.layout.vector import VectorForm

SPREAD = 0.05  # initial values of the assignment lie within 1 +- SPREAD
TEMPERATURE = 0.1  # of the softmax over counterfactuals
ENTROPY_WEIGHT = 0.4  # weight of the assignment's entropy in the loss
SETTLED = 0.9  # share from which a blob counts as assigned to one counterfactual


@dataclass(frozen=True)
class BlobAssignment:
    """Variables of a problem with `count` counterfactuals, and the layouts that they stand for.

    The variables are `count` proposals v (D numbers each) and an assignment B (count,K+1), whose column 0 is the
    background's. With A = softmax(B / temperature) over the counterfactuals, the layout of counterfactual j is
    v0 + A_j (v_j - v0), v0 being the start. With a count of one there is no assignment, and the layout is v.
    """

    count: int
    form: VectorForm
    seed: int = 0  # of the initial assignment

    @property
    def assigned(self) -> bool:
        return self.count > 1

    def initial(self, vector: Tensor) -> Tensor:
        """Return the initial variables (R,F) for layout vectors (R,D); the assignment is the same for all rows."""
        if not self.assigned:
            return vector
        random = torch.Generator().manual_seed(self.seed)
        assignment = 1 + SPREAD * (2 * torch.rand(self.count, self._owner_count(), generator=random) - 1)
        rows = assignment.flatten().to(vector).expand(len(vector), -1)
        return torch.cat([vector.repeat(1, self.count), rows], dim=1)

    def per_variable(self, per_entry: Tensor, assignment: float) -> Tensor:
        """Return a number per variable (F,): `per_entry` (D,) for each proposal, `assignment` for each entry of B."""
        if not self.assigned:
            return per_entry
        rest = per_entry.new_full((self.count * self._owner_count(),), assignment)
        return torch.cat([per_entry.repeat(self.count), rest])

    def layouts(self, variables: Tensor, start: Tensor) -> Tensor:
        """Return the layout vectors (R*count,D) of variables (R,F)."""
        if not self.assigned:
            return variables
        proposals, shares = self._split(variables)
        start = start[:, None]
        return (start + shares[:, :, self._owners(variables)] * (proposals - start)).flatten(0, 1)

    def proposals(self, variables: Tensor) -> Tensor:
        """Return the proposals v (R*count,D)."""
        return self._split(variables)[0].flatten(0, 1)

    def owned(self, variables: Tensor) -> Tensor:
        """Return a mask (R*count,D) of the entries of the blobs of which a counterfactual has the largest share."""
        shares = self._split(variables)[1]
        largest = F.one_hot(shares.argmax(1), self.count).transpose(1, 2) > 0
        return largest[:, :, self._owners(variables)].flatten(0, 1)

    def entropy(self, variables: Tensor) -> Tensor:
        """Compute the entropy (R,) of the shares in nats, averaged over background and blobs."""
        if not self.assigned:
            return torch.zeros_like(variables[:, 0])
        shares = self._split(variables)[1]
        return -(shares * shares.clamp(min=torch.finfo(shares.dtype).tiny).log()).sum(1).mean(1)

    def settled(self, variables: Tensor, changeable: Tensor) -> Tensor:
        """Return bool (R,): true where each of the blobs `changeable` (R,K+1) is assigned to one counterfactual."""
        if not self.assigned:
            return torch.ones_like(variables[:, 0], dtype=torch.bool)
        return ((self._split(variables)[1].amax(1) >= SETTLED) | ~changeable).all(1)

    def _split(self, variables: Tensor) -> tuple[Tensor, Tensor]:
        """Return proposals (R,count,D) and shares A (R,count,K+1)."""
        length = self.count * sum(self.form.lengths)
        proposals, assignment = variables[:, :length], variables[:, length:]
        shares = (assignment.unflatten(1, (self.count, -1)) / TEMPERATURE).softmax(1)
        return proposals.unflatten(1, (self.count, -1)), shares

    def _owners(self, variables: Tensor) -> Tensor:
        return self.form.owners().to(variables.device)

    def _owner_count(self) -> int:
        return int(self.form.owners().max()) + 1
