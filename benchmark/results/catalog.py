"""What a board says about itself: titles, sources, parameters, and what each number means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from benchmark.config.registry import DATASETS
from benchmark.results.columns import BOARD, PUBLISHED, SCHEMA

if TYPE_CHECKING:
    from benchmark.attacks.base import Attack
    from benchmark.config.schema import Attack as Overrides
    from benchmark.config.schema import Params

METRICS: dict[str, dict[str, Any]] = {
    "success_rate": {
        "title": "Success rate", "unit": "share", "higher_is_better": False, "low": 0, "high": 1,
        "summary": "Share of private examples recovered: the PSNR of an image, or the share of "
        "right words of a sentence, is above tau.",
    },
    "recovered": {
        "title": "Recovered", "unit": "share", "higher_is_better": False, "low": 0, "high": 1,
        "summary": "Share of private examples that any attack on any evidence of the board's "
        "threat recovered: the worst case for each example. Empty where nothing that knows the "
        "defense was attacked.",
    },
    "recovered_or_inconclusive": {
        "title": "Recovered or inconclusive", "unit": "share", "higher_is_better": False,
        "low": 0, "high": 1,
        "summary": "The recovered, and those that were not although the audit does not credit the "
        "defense with it. A defense is placed before another where even this share of its own is "
        "significantly below what is recovered of the other.",
    },
    "share_exhausted": {
        "title": "Evidence exhausted", "unit": "share", "higher_is_better": None,
        "low": 0, "high": 1,
        "summary": "Share not recovered where the audit credits the defense: a guess explains what "
        "was sent at least as well as the truth does.",
    },
    "share_inconclusive": {
        "title": "Inconclusive", "unit": "share", "higher_is_better": None, "low": 0, "high": 1,
        "summary": "Share neither recovered nor credited to the defense: the search failed, or no "
        "evidence describes the message.",
    },
    "rank2": {
        "title": "Rank within 2 points", "unit": "", "higher_is_better": False, "low": 1,
        "high": None,
        "summary": "Possible ranks among defenses that lose at most 2 points of accuracy against "
        "the control of their kind, each at its strongest such point, chosen by accuracy alone. "
        "They hold for these trained models; another training may move them.",
    },
    "rank5": {
        "title": "Rank within 5 points", "unit": "", "higher_is_better": False, "low": 1,
        "high": None,
        "summary": "The same among defenses that lose at most 5 points of accuracy.",
    },
    "oblivious": {
        "title": "Oblivious", "unit": "share", "higher_is_better": False, "low": 0, "high": 1,
        "summary": "Share of private examples recovered by any attack that treats messages as if "
        "there were no defense; equal to the recovered where there is none.",
    },
    "selected_success": {
        "title": "The attacker's own pick", "unit": "share", "higher_is_better": False, "low": 0,
        "high": 1,
        "summary": "Share of private examples recovered where an attacker believes one guess each, "
        "picked by a rule that needs no truth.",
    },
    "floor_success": {
        "title": "No-attack baseline", "unit": "share", "higher_is_better": None,
        "low": 0, "high": 1,
        "summary": "Share that the best guess made without the message recovers: the same maximum "
        "per example over as many guesses.",
    },
    "learned_success": {
        "title": "Uses extra data", "unit": "share", "higher_is_better": False, "low": 0,
        "high": 1,
        "summary": "Share of private examples recovered by attacks that learned from auxiliary "
        "data, the best guess per example: another threat, part of no other figure.",
    },
    "budget": {
        "title": "Budget", "unit": "", "higher_is_better": None, "low": 1, "high": None,
        "summary": "Gradient evaluations that an attack may spend, as a multiple of the standard.",
    },
    "psnr_median": {
        "title": "Median PSNR", "unit": "dB", "higher_is_better": False, "low": 0, "high": 60,
        "summary": "Median over private images of the peak signal-to-noise ratio; capped at 60.",
    },
    "psnr_mean": {
        "title": "Mean PSNR", "unit": "dB", "higher_is_better": False, "low": 0, "high": 60,
        "summary": "Mean over private images of the peak signal-to-noise ratio; capped at 60.",
    },
    "ssim_mean": {
        "title": "SSIM", "unit": "", "higher_is_better": False, "low": -1, "high": 1,
        "summary": "Mean structural similarity; a window of 7 pixels on images below 11.",
    },
    "mse_mean": {
        "title": "MSE", "unit": "", "higher_is_better": True, "low": 0, "high": 1,
        "summary": "Mean squared error of pixels in [0, 1].",
    },
    "exact_tokens": {
        "title": "Right words", "unit": "share", "higher_is_better": False, "low": 0, "high": 1,
        "summary": "Mean share of a sentence's places that hold the right word.",
    },
    "rouge1": {
        "title": "ROUGE-1", "unit": "", "higher_is_better": False, "low": 0, "high": 1,
        "summary": "Mean F-measure of words that guess and sentence have in common.",
    },
    "rouge2": {
        "title": "ROUGE-2", "unit": "", "higher_is_better": False, "low": 0, "high": 1,
        "summary": "Mean F-measure of common pairs of neighbouring words.",
    },
    "rougeL": {
        "title": "ROUGE-L", "unit": "", "higher_is_better": False, "low": 0, "high": 1,
        "summary": "Mean F-measure of the longest common subsequence of words.",
    },
    "floor_tokens": {
        "title": "No-attack baseline", "unit": "share", "higher_is_better": None,
        "low": 0, "high": 1,
        "summary": "Median share of right words of the best of usual words, nearest auxiliary "
        "sentence, and the attack's guess for another victim of the same label.",
    },
    "label_accuracy": {
        "title": "Label accuracy", "unit": "share", "higher_is_better": False, "low": 0, "high": 1,
        "summary": "Share of a batch's labels recovered; empty where they were given.",
    },
    "identification_rate": {
        "title": "Identified", "unit": "share", "higher_is_better": False, "low": 0, "high": 1,
        "summary": "Share of guesses nearer to their truth than to other images of its class.",
    },
    "floor_psnr": {
        "title": "No-attack baseline", "unit": "dB", "higher_is_better": None,
        "low": 0, "high": 60,
        "summary": "Median PSNR of the best of class mean, nearest auxiliary image, and the "
        "attack's guess for another victim of the same label.",
    },
    "accuracy_global": {
        "title": "Accuracy", "unit": "share", "higher_is_better": True, "low": 0, "high": 1,
        "summary": "Test accuracy of the server's model after the last round.",
    },
    "accuracy_personal": {
        "title": "Personal accuracy", "unit": "share", "higher_is_better": True,
        "low": 0, "high": 1,
        "summary": "Mean over clients of their own model's accuracy on their own mix of labels: "
        "each class counts by the client's share of it, however often the test set shows it. Of "
        "no defense, the shared model on the same mixes: the control of personalised defenses.",
    },
    "accuracy_lost": {
        "title": "Accuracy lost", "unit": "share", "higher_is_better": False,
        "low": -1, "high": 1,
        "summary": "Accuracy without a defense less the defense's own: personalised defenses are "
        "compared with the undefended model on each client's own labels.",
    },
    "epsilon": {
        "title": "Epsilon", "unit": "", "higher_is_better": False, "low": 0, "high": None,
        "summary": "Differential privacy over all rounds, at the unit and against the adversary "
        "named beside it. Zero: delta alone covers the difference that a unit makes; infinite: "
        "there is no bound.",
    },
    "uplink_bytes": {
        "title": "Up", "unit": "bytes", "higher_is_better": False, "low": 0, "high": None,
        "summary": "Encoded bytes that a client sends per round, mean over clients and rounds.",
    },
    "downlink_bytes": {
        "title": "Down", "unit": "bytes", "higher_is_better": False, "low": 0, "high": None,
        "summary": "Encoded bytes that a client receives per round.",
    },
    "bytes_to_target": {
        "title": "To target", "unit": "bytes", "higher_is_better": False, "low": 0, "high": None,
        "summary": "Bytes of all clients, up and down, until the target accuracy was measured; "
        "empty where a seed never reached it.",
    },
    "client_seconds": {
        "title": "Client time", "unit": "s", "higher_is_better": False, "low": 0, "high": None,
        "summary": "Clock time of a client's round: training, defense and encoding.",
    },
}  # fmt: skip


def catalog(
    name: str,
    params: Params,
    tau: float,
    test_labels: Sequence[int],
    client_labels: Sequence[Sequence[int]],
) -> dict[str, Any]:
    """catalog.json of one scenario, with the labels of its test set and of each client."""
    from benchmark.attacks.base import get as attack
    from benchmark.defenses.base import get as defense
    from benchmark.evidence.base import registered_evidence

    scenario = params.board(name)
    federation, observation = scenario.federation, scenario.observation
    described, known = {}, {}
    for entrant, points in scenario.entrants.items():
        cls = defense(entrant)
        described[entrant] = {
            "title": cls.title,
            "cite": cls.cite,
            "url": cls.url,
            "summary": cls.summary,
            "note": cls.note,
            "personalised": cls.personalised(),
            "randomised": cls.randomised,
            "points": points,
        }
        for entry in registered_evidence(entrant):
            known[f"{entrant}/{entry.name}"] = {
                "knowledge": entry.knowledge,
                "summary": entry.summary,
                "own": entry.defense == entrant,
            }
    return {
        "schema": SCHEMA,
        "scenario": {
            "name": name,
            "title": scenario.title,
            "kind": scenario.kind,
            "description": scenario.description,
            "data": scenario.data,
            "measure": "exact_tokens" if DATASETS[scenario.data].kind == "text" else "psnr",
            "server": federation.server,
            "model": federation.model,
            "clients": federation.clients,
            "partition": federation.partition,
            "alpha": federation.alpha,
            "algorithm": federation.algorithm,
            "rounds": federation.rounds,
            "local_steps": federation.local_steps,
            "batch_size": federation.batch_size,
            "learning_rate": federation.learning_rate,
            "momentum": federation.momentum,
            "local_learning_rate": federation.local_learning_rate,
            "private_learning_rate": federation.private_learning_rate,
            "target_accuracy": federation.target_accuracy,
            "checkpoints": dict(federation.checkpoints),
            "victims": observation.victims,
            "split": observation.split,
            "batch_sizes": list(observation.batch_sizes),
            "side": observation.side.model_dump(),
            "seeds": list(scenario.seeds),
            "tau": tau,
            "headline": scenario.headline.model_dump(),
            "chance": _largest(test_labels),
            "chance_personal": sum(map(_largest, client_labels)) / len(client_labels),
            "test_examples": len(test_labels),
        },
        "scoring": params.scoring.model_dump(),
        "defenses": described,
        "attacks": {
            each: _card(attack(each), chosen, federation.checkpoints)
            for each, chosen in scenario.attacks.items()
        },
        "evidence": known,
        "metrics": METRICS,
    }


def _card(attack: Attack, chosen: Overrides, checkpoints: Iterable[str]) -> dict[str, Any]:
    """What a board says about an attack; its parameters as the board has them, and as published."""
    board = attack.configured(**chosen.fields).parameters()
    return {
        "title": attack.title,
        "cite": attack.cite,
        "url": attack.url,
        "summary": attack.summary,
        "threat": attack.threat,
        "parameters": board,
        "settings": {BOARD: board, PUBLISHED: attack.parameters()},
        "checkpoints": list(chosen.checkpoints or checkpoints),
    }


def _largest(labels: Sequence[int]) -> float:
    """The largest class's share."""
    return max(Counter(labels).values()) / len(labels)
