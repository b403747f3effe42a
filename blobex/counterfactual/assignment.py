"""Several counterfactuals of one question at once, each with blobs of its own (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.layout.vector import VectorForm

SPREAD = 0.05  # of the assignment's first values around 1
TEMPERATURE = 0.1  # of the softmax over counterfactuals
ENTROPY = 0.4  # weight of the assignment's entropy in the loss
SURE = 0.9  # share of a blob from which it counts as given to one counterfactual


@dataclass(frozen=True)
class BlobAssignment:
    """How the blobs' changes are shared out among `count` counterfactuals of the same start.

    The free numbers of a problem are `count` vectors v and an assignment B (count,K+1), whose column 0 is the
    background's. With A = softmax(B / temperature) over the counterfactuals, number j has the layout
    v0 + A_j (v_j - v0). With a count of one there is no assignment and the layout is v.
    """

    count: int
    form: VectorForm
    seed: int

    @property
    def assigned(self) -> bool:
        return self.count > 1

    def begin(self, vector: Tensor) -> Tensor:
        """The free numbers (R,F) of problems that begin at vectors (R,D); the same assignment for all."""
        if not self.assigned:
            return vector
        random = torch.Generator().manual_seed(self.seed)
        owners = int(self.form.owners().max()) + 1
        first = 1 + SPREAD * (2 * torch.rand(self.count, owners, generator=random) - 1)
        return torch.cat([vector.repeat(1, self.count), first.flatten().to(vector).expand(len(vector), -1)], dim=1)

    def spread(self, each: Tensor, assignment: float) -> Tensor:
        """(F,): a number per entry of a vector, `each` (D,), for every counterfactual, and one for the assignment."""
        if not self.assigned:
            return each
        owners = int(self.form.owners().max()) + 1
        return torch.cat([each.repeat(self.count), each.new_full((self.count * owners,), assignment)])

    def layouts(self, free: Tensor, start: Tensor) -> Tensor:
        """(R*count,D): the vectors that the free numbers (R,F) stand for."""
        if not self.assigned:
            return free
        vectors, share = self._parts(free)
        start = start[:, None]
        return (start + share[:, :, self._owners(free)] * (vectors - start)).flatten(0, 1)

    def vectors(self, free: Tensor) -> Tensor:
        """(R*count,D): the vectors v themselves."""
        return self._parts(free)[0].flatten(0, 1)

    def owned(self, free: Tensor) -> Tensor:
        """(R*count,D) bool: the entries of the blobs of which a counterfactual has the largest share."""
        share = self._parts(free)[1]
        mine = F.one_hot(share.argmax(1), self.count).transpose(1, 2) > 0
        return mine[:, :, self._owners(free)].flatten(0, 1)

    def entropy(self, free: Tensor) -> Tensor:
        """(R,): the mean over background and blobs of the entropy of their shares, in nats."""
        if not self.assigned:
            return torch.zeros_like(free[:, 0])
        share = self._parts(free)[1]
        return -(share * share.clamp(min=torch.finfo(share.dtype).tiny).log()).sum(1).mean(1)

    def sure(self, free: Tensor, allowed: Tensor) -> Tensor:
        """(R,) bool: whether every one of `allowed` (R,K+1) belongs to one counterfactual."""
        if not self.assigned:
            return torch.ones_like(free[:, 0], dtype=torch.bool)
        return ((self._parts(free)[1].amax(1) >= SURE) | ~allowed).all(1)

    def _parts(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (R,count,D) and shares (R,count,K+1)."""
        length = self.count * sum(self.form.lengths)
        vectors, assignment = free[:, :length], free[:, length:]
        share = (assignment.unflatten(1, (self.count, -1)) / TEMPERATURE).softmax(1)
        return vectors.unflatten(1, (self.count, -1)), share

    def _owners(self, free: Tensor) -> Tensor:
        return self.form.owners().to(free.device)
