"""Gradient search: Adam on the flip loss and the proximity (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.counterfactual.problems import Problems, SearchContext
from blobex.layout.vector import VectorForm
from blobex.optim import adam
from blobex.optim.batching import State, finite_rows, solve_in_batches, where_rows

SPREAD = 0.05  # initial values of the assignment lie within 1 +- SPREAD
TEMPERATURE = 0.1  # of the softmax over counterfactuals
ENTROPY_WEIGHT = 0.4  # weight of the assignment's entropy in the loss
SETTLED = 0.9  # share from which a blob counts as assigned to one counterfactual
BETAS = (0.8, 0.9)  # of Adam: a search ends after a few steps
PROGRESS = 0.99  # a flip at less than this share of the best cost so far is progress


@dataclass(frozen=True)
class BlobAssignment:
    """Variables of a problem with `count` counterfactuals: `count` proposals v (D,) and an assignment B (count,K+1).

    Column 0 of B is the background's. With A = softmax(B / temperature) over the counterfactuals, the layout of
    counterfactual j is v0 + A_j (v_j - v0), v0 being the start. With a count of one it is v, without an assignment.
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


@dataclass(frozen=True)
class _Iterate:
    """Evaluation of the variables of R problems."""

    margin: Tensor  # R: least margin of a problem's counterfactuals
    proximity: Tensor  # R: mean distance from the start
    cost: Tensor  # R: proximity and entropy of the assignment
    target_gradient: Tensor  # R*count,D: of the target's loss, by the layouts
    gradient: Tensor  # R,F: of the whole loss, by the variables
    finite: Tensor  # R, bool


@dataclass(frozen=True)
class GradientSearch:
    """Minimisation of the search loss by Adam for P problems, `assignment.count` layouts each.

    The loss of a layout b from start b0 is target loss + lambda_prox * sum over keys of lambda_key * mean |b - b0|;
    with several counterfactuals that flip, ENTROPY_WEIGHT * entropy of the assignment is added.
    """

    problems: Problems
    context: SearchContext
    assignment: BlobAssignment
    initial: Tensor  # P,D: layout vectors of the first iterate

    def run(self, title: str) -> State:
        """Search until a flip by `margin` is found and no nearer one for `patience` steps, or for `steps` steps.

        Returns:
            Of each problem the cheapest iterate that flips by `margin`, or else the one with the highest margin: its
            variables `best` (P,F), `margin` (P,), `cost` (P,), `target_gradient` (P,count*D) and `step` (P,).
        """
        count, size, steps = len(self.problems), self.context.batch_size, self.context.params.steps
        return solve_in_batches(count, size, self._load, self._advance, title, steps)

    def _load(self, numbers: Tensor) -> State:
        numbers = numbers.to(self.initial.device)
        variables, start = self.assignment.initial(self.initial[numbers]), self.problems[numbers].start
        zeros = torch.zeros_like(start[:, 0])
        state = {"best": variables, "target_gradient": torch.zeros_like(start).repeat(1, self.assignment.count)}
        state |= {"margin": zeros - torch.inf, "cost": zeros, "step": zeros.long(), "stalled": zeros.long()}
        return adam.init(variables) | state

    def _advance(self, state: State) -> tuple[State, Tensor]:
        problems, variables, params = self.problems[state["number"]], state["vector"], self.context.params
        iterate = self._evaluate(problems, variables)
        state = self._keep_best(state, iterate)
        flipped = state["margin"] > params.margin
        settled = self.assignment.settled(variables, problems.changeable)
        finished = flipped & (state["stalled"] >= params.patience) & settled
        finished = finished | (flipped & (iterate.proximity == 0))  # flipped at the start
        finished = finished | ~iterate.finite | (state["iteration"] >= params.steps)
        mask = problems.mask.repeat(1, self.assignment.count)
        mask = torch.cat([mask, torch.ones_like(variables[:, mask.shape[1] :]).bool()], 1)
        stepped = adam.step(state, torch.where(mask, iterate.gradient, 0), self._learning_rates(), BETAS)
        stepped["vector"] = torch.where(mask, stepped["vector"], self.assignment.initial(problems.start))
        return state | stepped, finished

    def _evaluate(self, problems: Problems, variables: Tensor) -> _Iterate:
        count, assignment, composer = self.assignment.count, self.assignment, self.context.composer
        repeated = problems.repeated(count)
        with torch.enable_grad():
            leaf = variables.detach().requires_grad_()
            vectors, entropy = assignment.layouts(leaf, problems.start), assignment.entropy(leaf)
            images = composer.compose(vectors, repeated.image_index, repeated.changeable)
            outputs = composer.networks.decide(images)
            if not outputs.requires_grad:
                raise BlobexError("the decision's scores carry no gradient: give a differentiable decision model")
            loss = repeated.target.loss(outputs).sum()
            (target_gradient,) = torch.autograd.grad(loss, vectors, retain_graph=assignment.assigned)
            change = vectors.detach() - repeated.start
            gradient = target_gradient + self.context.params.lambda_prox * problems.price * change.sign()
            gradient = gradient + self._density_gradient(vectors.detach())
            outputs = outputs.detach()
            margin = repeated.target.margin(outputs).unflatten(0, (-1, count)).amin(1)
            if assignment.assigned:  # assigning blobs before all flip would leave some counterfactuals without means
                entropy_loss = (torch.where(margin > 0, ENTROPY_WEIGHT, 0) * entropy).sum()
                (gradient,) = torch.autograd.grad((vectors, entropy_loss), leaf, (gradient, None))
        proximity = (change.abs() * problems.price).sum(1).unflatten(0, (-1, count)).mean(1)
        cost = proximity + ENTROPY_WEIGHT * entropy.detach()
        finite = finite_rows(outputs, vectors.detach()).unflatten(0, (-1, count)).all(1)
        return _Iterate(margin, proximity, cost, target_gradient, gradient, finite)

    def _density_gradient(self, vectors: Tensor) -> Tensor | float:
        """Return the gradient (R*count,D) of the unusualness of the appearances, times its weight."""
        excess, weight = self.context.composer.networks.excess, self.context.params.density
        if excess is None or not weight:
            return 0.0
        with torch.enable_grad():
            leaf = vectors.requires_grad_()
            (gradient,) = torch.autograd.grad(excess(self.problems.form.unflatten(leaf)).sum(), leaf)
        return weight * gradient

    def _keep_best(self, state: State, iterate: _Iterate) -> State:
        least = self.context.params.margin
        flipped, was_flipped = iterate.margin > least, state["margin"] > least
        cheaper = flipped & (~was_flipped | (iterate.cost < state["cost"]))
        closer_to_flip = ~was_flipped & (iterate.margin > state["margin"])
        better = iterate.finite & (cheaper | closer_to_flip)
        progress = better & (~was_flipped | (iterate.cost < PROGRESS * state["cost"]))
        target_gradient = iterate.target_gradient.reshape(len(better), -1)
        candidate = {"best": state["vector"], "target_gradient": target_gradient, "step": state["iteration"]}
        candidate |= {"margin": iterate.margin, "cost": iterate.cost}
        best = where_rows(better, candidate, state)
        return state | best | {"stalled": torch.where(progress, 0, state["stalled"] + 1)}

    def _learning_rates(self) -> Tensor:
        params = self.context.params
        learning_rate = params.learning_rate * self.context.rate_factor
        rates = self.problems.form.rates(learning_rate, params.size_lr_multiplier)
        return self.assignment.per_variable(rates.to(self.initial.device), learning_rate)
