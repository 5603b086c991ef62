"""Refuse wrong parameters before anything runs, also those that no stage would come to read."""

from __future__ import annotations

from benchmark.config.schema import load_params
from benchmark.runtime.files import write_text
from benchmark.runtime.session import main
from stages.places import CHECKED


def check() -> None:
    """Read params.yaml, build every defense and attack that it describes, and all evidence."""
    from benchmark.attacks.base import get
    from benchmark.defenses.base import build
    from benchmark.evidence import load_all
    from benchmark.pipeline.check import refuse_impossible

    params = load_params()
    for name, defense in params.defenses.items():
        for fields in defense.points.values():
            build(name, fields)
    for attacks in (params.attacks, *(board.attacks for board in params.scenarios.values())):
        for name, attack in attacks.items():
            get(name).configured(**attack.fields)
    refuse_impossible(params)
    load_all()
    write_text(CHECKED, "params.yaml was read and makes sense\n")


if __name__ == "__main__":
    main(check)
