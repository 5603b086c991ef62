"""What MLflow shows of the small board, and that a re-run supersedes what it showed."""

from __future__ import annotations

from typing import Any

from benchmark.runtime import tracking
from tests.end_to_end.toy import ENTRANTS


def _runs(board, experiment: str) -> dict[str, Any]:
    """Runs by name, children by `parent > name`."""
    client = tracking._client(f"sqlite:///{board / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], max_results=1000)
    runs = [run for run in runs if "superseded" not in run.data.tags]
    by_id = {run.info.run_id: run for run in runs}

    def name(run: Any) -> str:
        parent = by_id.get(run.data.tags.get("mlflow.parentRunId"))
        return f"{name(parent)} > {run.info.run_name}" if parent else run.info.run_name

    named = {name(run): run for run in runs}
    assert len(named) == len(runs)
    return named


def _pictures(board, run: Any) -> list[str]:
    client = tracking._client(f"sqlite:///{board / 'mlflow.db'}")
    paths, found = [""], []
    while paths:
        for each in client.list_artifacts(run.info.run_id, paths.pop() or None):
            (paths if each.is_dir else found).append(each.path)
    return found


def test_runs_children_curves_metrics_and_pictures(first, monkeypatch):
    board = first.board
    monkeypatch.chdir(board.folder)
    for scenario, defenses in ENTRANTS.items():
        runs = _runs(board, scenario)
        stages = {"prepare", "train", "defend", "attack", "score"}
        assert {name for name in runs if " > " not in name} == stages
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        assert len(runs["train"].data.tags["git_commit"]) == 40
        for name in defenses:
            children = [run for key, run in runs.items() if key.startswith(f"train > {name}/")]
            assert len(children) == 2  # a point, two seeds
            for run in children:
                assert run.data.tags["scenario"] == scenario and run.data.tags["defense"] == name
            assert all("accuracy" in c.data.metrics for c in children)
            shown = [run for key, run in runs.items() if key.startswith(f"score > {name}/")]
            assert len(shown) == 2  # a point, two checkpoints
            for child in shown:
                assert 0 <= child.data.metrics["recovered"] <= 1
                assert any(path.endswith(".png") for path in _pictures(board, child))
        client = tracking._client(f"sqlite:///{board / 'mlflow.db'}")
        child = next(run for key, run in runs.items() if key.startswith("train > none/"))
        assert len(client.get_metric_history(child.info.run_id, "accuracy")) > 1


def test_a_rerun_supersedes(first, computed, monkeypatch):
    monkeypatch.chdir(computed.folder)
    before = _runs(computed, "digits")
    done = computed.together("attack digits", "score digits", "publish", LEAKBOARD_TRACKING="on")
    assert [code for code, _ in done] == [0, 0, 0], done
    after = _runs(computed, "digits")
    assert after.keys() == before.keys()
    new = {name for name in after if after[name].info.run_id != before[name].info.run_id}
    assert {name for name in new if " > " not in name} == {"attack", "score"}
