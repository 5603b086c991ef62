"""What a board says about itself: titles, sources, parameters, and what each number means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark.config import TEXTS
from benchmark.records import SCHEMA

if TYPE_CHECKING:
    from benchmark.config import Params

METRICS: dict[str, dict[str, Any]] = {
    "success_rate": {
        "title": "Success rate", "unit": "share", "higher_is_better": False, "low": 0, "high": 1,
        "summary": "Share of private examples recovered: the PSNR of an image, or the share of "
        "right words of a sentence, is above tau.",
    },
    "adaptive_success": {
        "title": "Adaptive success", "unit": "share", "higher_is_better": False, "low": 0,
        "high": 1,
        "summary": "Share of private examples recovered by the strongest attack and reading, "
        "chosen on other victims than it is scored on: the headline.",
    },
    "oblivious_success": {
        "title": "Oblivious success", "unit": "share", "higher_is_better": False, "low": 0,
        "high": 1,
        "summary": "Share of private examples recovered by the published attacks, run as if there "
        "were no defense.",
    },
    "selected_success": {
        "title": "Selected success", "unit": "share", "higher_is_better": False, "low": 0,
        "high": 1,
        "summary": "Share of private examples recovered where an attacker believes one guess each, "
        "picked by a rule that needs no truth.",
    },
    "highest_success": {
        "title": "Highest success", "unit": "share", "higher_is_better": False, "low": 0,
        "high": 1,
        "summary": "Share of private examples that any guess recovered; picking that guess takes "
        "the truth, so this is an upper bound.",
    },
    "highest_floor_success": {
        "title": "Floor of the highest success", "unit": "share", "higher_is_better": None,
        "low": 0, "high": 1,
        "summary": "The same maximum over the floors of all guesses, which need no message.",
    },
    "learned_success": {
        "title": "Learned success", "unit": "share", "higher_is_better": False, "low": 0,
        "high": 1,
        "summary": "Share of private examples recovered by the strongest attack that learned from "
        "auxiliary data: another threat, part of no other figure.",
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
        "title": "Floor", "unit": "share", "higher_is_better": False, "low": 0, "high": 1,
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
        "title": "Floor", "unit": "dB", "higher_is_better": False, "low": 0, "high": 60,
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
        "summary": "Mean over clients of their own model's accuracy, test images weighted by the "
        "client's label shares; comparable only among personalised defenses.",
    },
    "epsilon": {
        "title": "Epsilon", "unit": "", "higher_is_better": False, "low": 0, "high": None,
        "summary": "Differential privacy over all rounds, at the unit and against the adversary "
        "named beside it; infinite where there is none.",
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


def catalog(name: str, params: Params, tau: float) -> dict[str, Any]:
    """catalog.json of one scenario."""
    from benchmark.attacks.base import get as attack
    from benchmark.defenses.base import get as defense
    from benchmark.evidence.base import readings

    scenario = params.scenarios[name]
    federation, observation = scenario.federation, scenario.observation
    entrants = params.entrants[name]
    described, known = {}, {}
    for entrant in entrants:
        cls = defense(entrant)
        described[entrant] = {
            "title": cls.title,
            "cite": cls.cite,
            "url": cls.url,
            "summary": cls.summary,
            "note": cls.note,
            "personalised": cls.personalised(),
            "points": dict(params.defenses[entrant].points),
        }
        for entry in readings(entrant):
            known[f"{entrant}/{entry.name}"] = {
                "knowledge": entry.knowledge,
                "summary": entry.summary,
            }
    return {
        "schema": SCHEMA,
        "scenario": {
            "name": name,
            "title": scenario.title,
            "kind": scenario.kind,
            "description": scenario.description,
            "data": scenario.data,
            "measure": "exact_tokens" if scenario.data in TEXTS else "psnr",
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
            "seeds": list(params.seeds),
            "tau": tau,
        },
        "scoring": params.scoring.model_dump(),
        "defenses": described,
        "attacks": {
            each: {
                "title": attack(each).title,
                "cite": attack(each).cite,
                "url": attack(each).url,
                "summary": attack(each).summary,
                "threat": attack(each).threat,
                "parameters": attack(each).configured(**params.attacks[each].fields).parameters(),
                "settings": {
                    "board": attack(each).configured(**params.attacks[each].fields).parameters(),
                    "published": attack(each).parameters(),
                },
                "checkpoints": list(params.attacks[each].checkpoints or federation.checkpoints),
            }
            for each in scenario.attacks
        },
        "evidence": known,
        "metrics": METRICS,
    }
