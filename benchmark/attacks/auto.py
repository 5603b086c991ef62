"""The board's own attack: a fixed ensemble without parameters to tune, run on every evidence.

In the spirit of AutoAttack (Croce and Hein, ICML 2020, arXiv:2003.01690): the cheap first, the
expensive for the victims that are still unexplained, and the attack's own loss decides when a
victim is done and which candidate is kept. First of all comes a closed form that certifies what it
finds, peeling: a batch that it takes apart to the last image needs no search; where some are left,
the search begins at those found, and these are kept. One round of searches is L-BFGS on the cosine
(the optimiser of Zhu et al., NeurIPS 2019), which finds exact explanations soonest, then signed
Adam on the cosine with total variation (Geiping et al., NeurIPS 2020) for what is still open, from
where L-BFGS ended if that explains the evidence (of several explanations the prior prefers the
smoothest), afresh if not; where noise or too few observations leave the choice to the prior, Adam
alone. Three and ten times the budget add rounds of two and of seven times the length, each from a
fresh start, so that a larger budget contains the smaller ones: what they still gain says whether
the budget was the limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmark.attacks.base import Attack, Guess, register
from benchmark.attacks.engine.adam import SignedAdam
from benchmark.attacks.engine.base import Variables
from benchmark.attacks.engine.lbfgs import LBFGS
from benchmark.attacks.parts.labels import Given, Inferred, Joint
from benchmark.attacks.parts.objectives import Cosine
from benchmark.attacks.parts.optimisation import Found, OptimisationAttack, data_losses
from benchmark.attacks.parts.priors import TotalVariation
from benchmark.attacks.peeling import PEELING
from benchmark.metrics.selection import EXPLAINED
from benchmark.runtime.randomness import generator, seed_of

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence

BUDGETS = {1: (1,), 3: (1, 2), 10: (1, 2, 7)}
"""Lengths of the rounds that make up so many times the standard budget."""
DONE = 1e-9
"""A victim with a smaller loss is finished; the audit calls smaller losses equal."""

UNLIKELY = 1e-3
"""What a search's first labels leave to the others where one is certified."""


@dataclass(frozen=True, kw_only=True)
class Ensemble(Attack):
    """A closed form, then rounds of two searches for the victims that are not yet explained.

    lbfgs_evaluations   in the first round
    adam_evaluations    after them
    budget              how many times the standard budget may be spent: 1, 3 or 10

    An evaluation is what one plain update of the client takes; predictions that cost more of the
    victim model's gradients are paid for with fewer of them. What the closed form takes is counted
    beside what the searches may spend.
    """

    pools = True

    lbfgs_evaluations: int = 140
    adam_evaluations: int = 100
    budget: Literal[1, 3, 10] = 1

    def supports(self, evidence: Evidence) -> str | None:
        """As its searches."""
        return self._adam().supports(evidence)

    def planned(self, evidence: Evidence) -> int:
        """The whole budget."""
        plain = self.budget * (self.lbfgs_evaluations + self.adam_evaluations)
        return plain * evidence.setting.local_steps

    def labels_from(self, evidence: Evidence) -> str:
        """As its searches."""
        return self._adam().labels_from(evidence)

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """The closed form where it applies, and the searches for what it leaves open."""
        peeled = self._peeled(evidences, public, seeds, deadline)
        whole = {k for k, guess in peeled.items() if _is_whole(guess)}
        left = [k for k in range(len(evidences)) if k not in whole]
        here = [evidences[k] for k in left]
        begin = [_start(evidences[k], peeled.get(k), seeds[k]) for k in left]
        found = self._searched(here, [seeds[k] for k in left], deadline, begin)
        merged = [_with_certified(g, peeled.get(k)) for k, g in zip(left, found, strict=True)]
        if any(g is not f for g, f in zip(merged, found, strict=True)):
            merged = self.valued(here, merged)
        guesses = {k: replace(g, stopped="converged", applicable=None) for k, g in peeled.items()}
        guesses |= zip(left, merged, strict=True)
        return [guesses[k] for k in range(len(evidences))]

    def _peeled(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> dict[int, Guess]:
        """What the closed form says, by victim, with the ensemble's own loss."""
        rows = [k for k, evidence in enumerate(evidences) if PEELING.supports(evidence) is None]
        if not rows:
            return {}
        here = [evidences[k] for k in rows]
        found = PEELING.reconstruct(here, public, [seeds[k] for k in rows], deadline)
        return dict(zip(rows, self.valued(here, found), strict=True))

    def _searched(
        self,
        evidences: Sequence[Evidence],
        seeds: Sequence[int],
        deadline: float | None,
        begin: Sequence[Variables | None],
    ) -> list[Guess]:
        """Round after round, as long as victims are open and the budget lasts."""
        if not evidences:
            return []
        best = self._round(evidences, seeds, BUDGETS[self.budget][0], deadline, begin)
        for number, length in enumerate(BUDGETS[self.budget][1:], start=1):
            left = [k for k, found in enumerate(best) if is_unsolved(found)]
            if not left:
                break
            here = [evidences[k] for k in left]
            starts = [seed_of(seeds[k], number) for k in left]
            for k, other in zip(left, self._round(here, starts, length, deadline), strict=True):
                best[k] = better(best[k], other)
        attack = self._adam()
        return [attack.guess(e, found) for e, found in zip(evidences, best, strict=True)]

    def measure(
        self,
        evidences: Sequence[Evidence],
        images: Sequence[Tensor],
        soft: Sequence[Tensor | None],
        hidden: Sequence[Mapping[str, Tensor]],
    ) -> list[float]:
        """The cosine that both searches minimise."""
        return data_losses(Cosine(), evidences, images, soft, hidden)

    def _round(
        self,
        evidences: Sequence[Evidence],
        seeds: Sequence[int],
        length: int,
        deadline: float | None,
        begin: Sequence[Variables | None] | None = None,
    ) -> list[Found]:
        """L-BFGS, from ``begin`` where that says so, then Adam for the rest."""
        first = [None] * len(evidences) if begin is None else begin

        def search(
            attack: OptimisationAttack, rows: list[int], starts: Sequence[Variables | None]
        ) -> dict[int, Found]:
            here, keys = [evidences[k] for k in rows], [seeds[k] for k in rows]
            return dict(zip(rows, attack.search(here, keys, deadline, starts), strict=True))

        lbfgs, adam = (
            self._evaluations(n * length, evidences)
            for n in (self.lbfgs_evaluations, self.adam_evaluations)
        )
        noisy = [k for k, e in enumerate(evidences) if is_noisy_or_underdetermined(e)]
        clear = [k for k in range(len(evidences)) if k not in noisy]
        # explaining what is noisy is not the end of it
        found = search(self._adam(lbfgs + adam, tolerance=0.0), noisy, [first[k] for k in noisy])
        for k, exact in search(self._lbfgs(lbfgs), clear, [first[k] for k in clear]).items():
            found[k] = replace(exact, total=exact.data + _prior(exact))
        left = [k for k in clear if is_unsolved(found[k])]
        explained = {k for k in left if found[k].data <= EXPLAINED}
        starts = [found[k].variables if k in explained else first[k] for k in left]
        for k, other in search(self._adam(adam), left, starts).items():
            choose = better if k in explained else with_summed_cost
            found[k] = choose(other, found[k])
        return [found[k] for k in range(len(evidences))]

    def _evaluations(self, count: int, evidences: Sequence[Evidence]) -> int:
        """How many predictions so many plain updates pay for."""
        return max(1, count * evidences[0].setting.local_steps // evidences[0].cost)

    def _adam(self, evaluations: int = 1, tolerance: float = DONE) -> OptimisationAttack:
        return OptimisationAttack(
            name=self.name,
            objective=Cosine(),
            priors=(PRIOR,),
            optimiser=SignedAdam(lr=0.2, tolerance=tolerance),
            labels=LABELS,
            box=True,
            iterations=evaluations,
        )

    def _lbfgs(self, evaluations: int) -> OptimisationAttack:
        return OptimisationAttack(
            name=self.name,
            objective=Cosine(),
            optimiser=LBFGS(tolerance=DONE),
            labels=LABELS,
            iterations=evaluations,
        )


PRIOR = TotalVariation(1e-4)
LABELS = Given() | Inferred() | Joint()


def is_noisy_or_underdetermined(evidence: Evidence) -> bool:
    """Whether noise, or too few observations, leave it to the prior what explains the evidence."""
    return evidence.noisy or evidence.observations < evidence.unknowns


def is_unsolved(found: Found) -> bool:
    """Whether more evaluations may help, and time is left for them."""
    return found.data > DONE and found.stopped != "timeout"


def _prior(found: Found) -> float:
    """What the prior says of a candidate that was found without it."""
    return float(PRIOR(found.variables["images"]))


def _is_whole(peeled: Guess) -> bool:
    """Whether the closed form certifies every image, and together they explain the evidence."""
    assert peeled.applicable is not None
    return bool(peeled.applicable.all()) and peeled.loss <= EXPLAINED


def _start(evidence: Evidence, peeled: Guess | None, seed: int) -> Variables | None:
    """The certified images among random ones, if there are any."""
    if peeled is None or peeled.applicable is None or not bool(peeled.applicable.any()):
        return None
    images = evidence.setting.normalise(peeled.images)
    drawn = torch.randn(images.shape, generator=generator("beside certified", seed))
    start = {"images": torch.where(peeled.applicable[:, None, None, None], images, drawn)}
    if peeled.soft is not None and LABELS.soft(evidence) is None:
        start["logits"] = peeled.soft.clamp_min(UNLIKELY).log()
    return start


def _with_certified(searched: Guess, peeled: Guess | None) -> Guess:
    """The certified images and labels, each in place of the one that is nearest to it."""
    if peeled is None:
        return searched
    searched = replace(searched, evaluations=searched.evaluations + peeled.evaluations)
    assert peeled.applicable is not None
    sure = peeled.applicable.nonzero().flatten()
    if not len(sure):
        return searched
    distance = torch.cdist(peeled.images[sure].flatten(1), searched.images.flatten(1))
    if peeled.labels is not None and searched.labels is not None:  # granted labels stay a batch's
        other = peeled.labels[sure, None] != searched.labels
        distance = distance + other * (1 + distance.max())
    row, place = (torch.as_tensor(x) for x in linear_sum_assignment(distance.numpy()))
    images, labels, soft = searched.images.clone(), searched.labels, searched.soft
    images[place] = peeled.images[sure[row]]
    if labels is not None and peeled.labels is not None:
        labels = labels.index_copy(0, place, peeled.labels[sure[row]])
    if soft is not None and peeled.soft is not None:
        soft = soft.index_copy(0, place, peeled.soft[sure[row]])
    return replace(searched, images=images, labels=labels, soft=soft)


def better(known: Found, other: Found) -> Found:
    """The candidate to keep: one that explains the evidence, and the smoothest of such."""
    return with_summed_cost(*sorted((known, other), key=lambda f: (f.data > EXPLAINED, f.total)))


def with_summed_cost(chosen: Found, other: Found) -> Found:
    """One candidate, with the evaluations that both took."""
    return replace(
        chosen,
        evaluations=chosen.evaluations + other.evaluations,
        stopped="timeout" if "timeout" in (chosen.stopped, other.stopped) else chosen.stopped,
    )


AUTO = register(
    Ensemble(
        name="auto",
        title="Ensemble",
        cite="croce2020reliable",
        url="https://arxiv.org/abs/2003.01690",
        summary="Peeling where it applies; L-BFGS, then signed Adam for the victims not yet "
        "explained, in rounds.",
        members=("peeling",),
    )
)
