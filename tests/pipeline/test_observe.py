"""What a victim's round leaves behind: the server's transcript, and the truth apart from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from benchmark.data.datasets.base import DataError
from benchmark.data.preparation import read_private
from benchmark.federated.transcript import read, read_header
from benchmark.federated.update import Update
from benchmark.federated.wire import decode, encode
from benchmark.pipeline.attack import readable
from benchmark.pipeline.observe import read_truth
from benchmark.pipeline.train import Run, load_state, load_window, save_state
from benchmark.runtime.randomness import generator
from tests import board, tiny

DEFENSES: dict[str, dict[str, Any]] = {
    "none": {},
    "pruning": {"keep": 0.05},
    "ppp": {"width": 8, "noise": 0.01},
    "fedrep": {},
    "hyperfl": {"embedding": 4, "hidden": 4},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[board.Board]:
    torch.set_num_threads(1)
    made = board.make(tmp_path_factory.mktemp("small"), board.scenario(batch_sizes=(1, 2)))
    for name, fields in DEFENSES.items():
        made.defend(name, fields)
    yield made


every = pytest.mark.parametrize("name", DEFENSES)


@every
@pytest.mark.parametrize("checkpoint", ["init", "late"])
@pytest.mark.parametrize("size", [1, 2])
def test_messages_are_replayed_from_the_clients_own_state(
    small: board.Board, name: str, checkpoint: str, size: int
) -> None:
    """Residual, head and embedding are those of the checkpoint, and the draws the sealed ones."""
    setting = small.setting(name, DEFENSES[name]).with_batch_size(size)
    states = small.states(name, DEFENSES[name])
    weights, clients = load_state(states / f"{checkpoint}.safetensors", setting, 3)
    truths = read_truth(small.file("truth", name, checkpoint, size))
    transcripts = read(small.file("transcripts", name, checkpoint, size))
    secret = read_private(small.artifacts / "private").secret
    run = Run(board.NAME, name, "default", board.SEED)
    assert len(transcripts) == len(truths) == board.VICTIMS
    for index, (seen, truth) in enumerate(zip(transcripts, truths, strict=True)):
        assert (seen.victim, seen.client) == (index, index % 3)
        assert seen.setting == setting
        assert all(torch.equal(seen.broadcast[n], t) for n, t in weights.items())
        client = clients[seen.client].copy()
        batches = tiny.batches_of(setting, truth["pixels"], truth["labels"])
        rng = generator(secret, run, checkpoint, size, index)
        sent = client.round(weights, batches, rng)
        assert tiny.relative_error(sent, seen.message) < 1e-5
        for key, value in client.revealed.items():
            assert torch.allclose(truth[key], value, atol=1e-6)
        forgetful = clients[seen.client].copy()
        forgetful.memory = forgetful.memory * 0.0
        blank = forgetful.round(weights, batches, generator(secret, run, checkpoint, size, index))
        differs = tiny.relative_error(blank, seen.message) > 1e-2
        assert differs == (name == "pruning" and checkpoint == "late")


@every
def test_a_transcript_holds_nothing_of_the_truth(small: board.Board, name: str) -> None:
    """No private image, pixel or input, no draw, no private parameter, no secret, in any byte."""
    secret = read_private(small.artifacts / "private").secret
    for checkpoint in ("init", "late"):
        path = small.file("transcripts", name, checkpoint, 2)
        content = path.read_bytes()
        assert secret.encode() not in content and secret[:16].encode() not in content
        with safe_open(path, "pt") as file:
            names = [n for n in file.keys() if not n.startswith("window.")]  # noqa: SIM118
            assert sorted(names) == [
                "broadcast", "labels", *(f"message.{v:04d}" for v in range(board.VICTIMS))
            ]  # fmt: skip
        setting = small.setting(name, DEFENSES[name])
        for truth in read_truth(small.file("truth", name, checkpoint, 2)):
            hidden = {"inputs": setting.normalise(truth["pixels"]), **truth}
            assert {"pixels", "labels"} <= set(hidden)
            for key, tensor in hidden.items():
                if key == "labels":
                    continue
                rows = tensor.flatten(1) if tensor.ndim > 1 else tensor[None]
                for row in rows:
                    assert row.contiguous().numpy().tobytes() not in content, key


@every
def test_the_header_states_public_facts_alone(small: board.Board, name: str) -> None:
    header = read_header(small.file("transcripts", name))
    assert set(header) == {"setting", "clients", "defense", "point", "seed", "checkpoint"}
    assert json.loads(json.dumps(header)) == header


def test_labels_are_there_only_where_granted(tmp_path: Path) -> None:
    side = board.scenario().observation.side.model_copy(update={"labels": False})
    made = board.make(tmp_path, board.scenario(side=side))
    made.defend("none")
    path = made.file("transcripts", "none")
    with safe_open(path, "pt") as file:
        assert "labels" not in file.keys()  # noqa: SIM118
    assert all(seen.labels is None for seen in read(path))
    evidence = readable(read(path))["oblivious"][0]
    assert evidence.labels == "unknown" and evidence.given is None


def test_every_defense_meets_the_same_victims(small: board.Board) -> None:
    for size in (1, 2):
        truths = [read_truth(small.file("truth", name, "init", size)) for name in DEFENSES]
        for first, second in pairwise(truths):
            for one, two in zip(first, second, strict=True):
                assert torch.equal(one["pixels"], two["pixels"])
                assert torch.equal(one["labels"], two["labels"])


def test_neighbours_have_the_same_labels(small: board.Board) -> None:
    """Each stands in for the other where a floor is measured; they share no image."""
    private = read_private(small.artifacts / "private")
    pixels, labels = private.victims(0, 4, 3)
    for first, second in ((0, 1), (2, 3)):
        assert torch.equal(labels[first], labels[second])
    assert len(torch.unique(pixels.flatten(0, 1).flatten(1), dim=0)) == 12


def test_granted_labels_do_not_tell_the_order(small: board.Board) -> None:
    seen = read(small.file("transcripts", "none", "init", 2))
    truths = read_truth(small.file("truth", "none", "init", 2))
    for transcript, truth in zip(seen, truths, strict=True):
        assert transcript.labels is not None
        assert transcript.labels.tolist() == sorted(truth["labels"].tolist())


def test_every_point_and_checkpoint_draws_its_own_noise(small: board.Board) -> None:
    draws = [
        truth["noise.bottleneck"]
        for checkpoint in ("init", "late")
        for size in (1, 2)
        for truth in read_truth(small.file("truth", "ppp", checkpoint, size))
    ]
    rows = torch.cat(draws)
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_victims_of_two_seeds_share_no_image(small: board.Board) -> None:
    private = read_private(small.artifacts / "private")
    seen = [private.victims(seed, 3, 2)[0].flatten(0, 1) for seed in range(3)]
    images = torch.cat(seen).flatten(1)
    assert len(torch.unique(images, dim=0)) == len(images) == 18
    with pytest.raises(DataError, match="need"):
        private.victims(len(private.labels) // 6, 3, 2)
    pixels, labels = private.victims(0, 3, 2)
    assert pixels.shape == (3, 2, 1, 8, 8) and labels.shape == (3, 2)
    assert float(pixels.min()) >= 0 and float(pixels.max()) <= 1


@every
def test_a_checkpoint_gives_back_what_it_was_given(
    small: board.Board, name: str, tmp_path: Path
) -> None:
    setting = small.setting(name, DEFENSES[name])
    late = small.states(name, DEFENSES[name]) / "late.safetensors"
    weights, clients = load_state(late, setting, 3)

    class Seen:
        pass

    seen: Any = Seen()
    seen.weights, seen.clients = weights, clients
    save_state(tmp_path / "again.safetensors", seen)
    again, states = load_state(tmp_path / "again.safetensors", setting, 3)
    assert all(torch.equal(again[n], t) for n, t in weights.items())
    for one, two in zip(clients, states, strict=True):
        assert list(one.private) == list(two.private) and list(one.memory) == list(two.memory)
        for ours, theirs in ((one.private, two.private), (one.memory, two.memory)):
            assert all(torch.equal(theirs[n], t) for n, t in ours.items())
    assert bool(clients[0].private) == (name in ("fedrep", "hyperfl"))
    assert (float(clients[0].memory.norm()) > 0) == (name == "pruning")


def test_broadcast_and_messages_cross_the_wire(small: board.Board) -> None:
    for seen in read(small.file("transcripts", "pruning", "late")):
        shapes = {name: tuple(tensor.shape) for name, tensor in seen.message.items()}
        again = Update(decode(encode(seen.message), shapes))
        assert all(torch.equal(again[n], t) for n, t in seen.message.items())


def test_the_window_holds_what_the_client_sent_before(tmp_path: Path) -> None:
    """Bytes of the last rounds as they were sent, of clients that remember, and of no others."""
    made = board.make(tmp_path, board.scenario(window=2))
    for name in ("none", "pruning"):
        made.defend(name, DEFENSES[name])
    for seen in read(made.file("transcripts", "none", "late")):
        assert seen.window == ()
    for seen in read(made.file("transcripts", "pruning", "init")):
        assert seen.window == ()
    late = made.states("pruning", DEFENSES["pruning"]) / "late.safetensors"
    setting = made.setting("pruning", DEFENSES["pruning"])
    weights, clients = load_state(late, setting, 3)
    for seen in read(made.file("transcripts", "pruning", "late")):
        assert len(seen.window) == 2
        for name, held in clients[seen.client].memory.items():
            just_sent = seen.window[-1][name] != 0
            assert bool(just_sent.any()) and not bool(held[just_sent].any())
            assert bool(held.any())
        again = load_window(late, seen.client)
        names = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        for message, decoded in zip(again, seen.window, strict=True):
            assert message == encode(decoded)
            assert all(torch.equal(decode(message, names)[n], t) for n, t in decoded.items())
    with safe_open(made.file("transcripts", "pruning", "late"), "pt") as file:
        kept = {name for name in file.keys() if name.startswith("window.")}  # noqa: SIM118
    assert kept == {f"window.{c:04d}.{k:04d}" for c in range(3) for k in range(2)}
