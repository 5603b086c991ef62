"""Client privacy leakage: DLG from patterned starts, with the label inferred and held on to.

Source: Wei et al., "A Framework for Evaluating Gradient Leakage Attacks in Federated Learning",
ESORICS 2020, arXiv:2004.10397. Its attack adds three things to the squared distance of gradients:
the label by the sign of the last layer's gradient, starts that repeat one small random tile, and
the squared distance between the model's prediction for the guess and that label. The last is a
prior, that the victim is classified correctly, which is wrong on an untrained model. Our readings:
the weight of that prior, the number of tiles, and as many evaluations as DLG's code takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch.func import functional_call

from benchmark.attacks.base import Guess, register
from benchmark.attacks.engine.lbfgs import LBFGS
from benchmark.attacks.parts.labels import Given, Inferred
from benchmark.attacks.parts.objectives import SquaredError
from benchmark.attacks.parts.optimisation import OptimisationAttack
from benchmark.attacks.parts.starts import Patterned
from benchmark.config.errors import ParamsError
from benchmark.evidence.base import Predict, Tensors, Term
from benchmark.federated.setting import Setting, stateless_model

if TYPE_CHECKING:
    from benchmark.evidence.base import Evidence


@dataclass(frozen=True)
class WithPrediction:
    """The evidence's prediction, and the model's class probabilities for the guess."""

    predict: Predict

    def __call__(
        self, setting: Setting, guess: Tensors, hidden: Tensors, data: Mapping[str, Any]
    ) -> dict[str, Tensors]:
        weights = {**data["private"], **data["shared"]}
        logits = functional_call(
            stateless_model(setting), weights, (guess["images"], data["noise"])
        )
        found = self.predict(setting, guess, hidden, data)
        return {**found, "prediction": {"probabilities": logits.softmax(-1)}}


@dataclass(frozen=True, kw_only=True)
class ClientPrivacyLeakage(OptimisationAttack):
    """The search, with the prediction's distance to the label as a prior.

    fit   weight of the mean squared distance of probabilities and label; without effect on
          evidence whose prediction does not use the model
    """

    fit: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fit < 0:
            raise ParamsError(f"attacks.{self.name}.fit must not be negative, not {self.fit}")

    def reconstruct(
        self,
        evidences: Sequence[Evidence],
        public: Any,
        seeds: Sequence[int],
        deadline: float | None,
    ) -> list[Guess]:
        """Minimise both distances together; the loss reported is the gradients' alone."""
        guesses = super().reconstruct([self._fitted(e) for e in evidences], public, seeds, deadline)
        return self.valued(evidences, guesses)

    def _fitted(self, evidence: Evidence) -> Evidence:
        label = None if evidence.labels == "eliminated" else self.labels.soft(evidence)
        if (
            not self.fit
            or label is None
            or not {"shared", "private", "noise"} <= set(evidence.data)
        ):
            return evidence
        term = Term(value={"probabilities": label}, weight=self.fit, kind="value")
        return replace(
            evidence,
            predict=WithPrediction(evidence.predict),
            terms={**evidence.terms, "prediction": term},
        )


CLIENT_PRIVACY_LEAKAGE = register(
    ClientPrivacyLeakage(
        name="cpl",
        title="Client Privacy Leakage",
        cite="wei2020framework",
        url="https://arxiv.org/abs/2004.10397",
        summary="Squared distance of gradients from patterned starts, minimised by L-BFGS, with "
        "the label inferred and the prediction held to it.",
        objective=SquaredError(),
        optimiser=LBFGS(history=100, patience=100, tolerance=1e-9),
        labels=Given() | Inferred(),
        init=Patterned(tiles=2),
        iterations=6000,
    )
)
