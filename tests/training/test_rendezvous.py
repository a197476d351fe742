"""Launchers that meet, differ, stay away or leave, and the endings that they tell each other."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from launching import free_port

from mlmtune.errors import ConfigError, MlmtuneError, NetworkError
from mlmtune.training import rendezvous
from mlmtune.training.launched import Ending
from mlmtune.training.rendezvous import Address, Nodes, meet, parse_address

TERMS = {"their command": ["train"], "the version of torch": "2"}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "as it was")  # restored afterwards
    monkeypatch.setattr(rendezvous, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(rendezvous, "ENDING_SECONDS", 0.2)


@pytest.fixture
def address() -> Address:
    return Address("127.0.0.1", free_port())


@pytest.fixture
def together() -> Iterator[Callable[..., list[Any]]]:
    """Calls functions at the same time; gives what they return or raise."""
    with ThreadPoolExecutor(4) as threads:

        def call(*functions: Callable[[], Any]) -> list[Any]:
            futures = [threads.submit(function) for function in functions]
            return [future.exception() or future.result() for future in futures]

        yield call


@pytest.mark.parametrize("text", ["node0", ":29500", "node0:", "node0:0", "node0:65536", "a:2x"])
def test_what_is_no_place_to_meet(text: str) -> None:
    with pytest.raises(ConfigError, match="give HOST:PORT"):
        parse_address(text)


def test_a_place_to_meet() -> None:
    assert parse_address("node0:29500") == Address("node0", 29500)


def test_nodes_meet_and_learn_how_each_ended(
    address: Address, together: Callable[..., list[Any]]
) -> None:
    met: list[Nodes] = together(*[lambda: meet(address, 3, TERMS, 20)] * 3)
    assert sorted(nodes.index for nodes in met) == [0, 1, 2]
    assert {tuple(nodes.names) for nodes in met} == {(socket.gethostname(),) * 3}
    endings = [Ending(1, "peer", 2), Ending(3, "no text", 5), Ending(0)]
    told = together(*(lambda n=n: n.exchange(endings[n.index]) for n in met))  # type: ignore[misc]
    by_index = {nodes.index: one for nodes, one in zip(met, told, strict=True)}
    assert by_index[0] == by_index[1] == endings
    assert by_index[2][2] == Ending(0)  # one that ends well does not wait for the others


def test_a_node_that_tells_nothing_is_not_waited_for(
    address: Address, together: Callable[..., list[Any]]
) -> None:
    met: list[Nodes] = together(*[lambda: meet(address, 2, TERMS, 20)] * 2)
    [first] = [nodes for nodes in met if nodes.index == 0]
    assert first.exchange(Ending(1, "peer")) == [Ending(1, "peer"), None]


@pytest.mark.parametrize(
    ("ending", "is_lost"), [(Ending(3, "no text"), True), (Ending(0), False), (None, True)]
)
def test_the_processes_of_a_node_are_ended_if_another_fails_or_is_silent(
    address: Address,
    together: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    ending: Ending | None,
    is_lost: bool,
) -> None:
    met: list[Nodes] = together(*[lambda: meet(address, 2, TERMS, 20)] * 2)
    mine, other = sorted(met, key=lambda nodes: nodes.index)
    monkeypatch.setattr(rendezvous, "SILENT_SECONDS", 0.5 if ending is None else 60)
    killed = threading.Event()

    class Child:
        def kill(self) -> None:
            killed.set()

    class Launcher:
        def children(self) -> list[Child]:
            return [Child()]

    monkeypatch.setattr(rendezvous.psutil, "Process", Launcher)
    with mine.watched() as lost:
        if ending is not None:
            together(lambda: other.exchange(ending))
        assert lost.wait(10 if is_lost else 1.5) == is_lost
        assert killed.wait(10 if is_lost else 0) == is_lost


def test_nodes_that_differ_are_refused(
    address: Address, together: Callable[..., list[Any]]
) -> None:
    other = {**TERMS, "the version of torch": "3"}
    errors: list[MlmtuneError] = together(
        lambda: meet(address, 2, TERMS, 20), lambda: meet(address, 2, other, 20)
    )
    by_kind = {type(error): str(error) for error in errors}
    assert "the nodes differ in the version of torch" in by_kind[ConfigError]
    assert "a node has left (127.0.0.1" in by_kind[NetworkError]


def test_one_node_too_many_is_refused(address: Address, together: Callable[..., list[Any]]) -> None:
    met = together(*[lambda: meet(address, 2, TERMS, 20)] * 2)
    assert len(met) == 2
    with pytest.raises(ConfigError, match="2 nodes have met there already"):
        meet(address, 2, TERMS, 20)


def test_too_few_nodes_come(address: Address) -> None:
    with pytest.raises(NetworkError, match="1 of 2 nodes came within"):
        meet(address, 2, TERMS, 0.1)


def test_nobody_answers_on_another_machine(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "_can_listen", lambda _: False)  # it is not this one
    with pytest.raises(NetworkError, match="no launcher answers there within"):
        meet(address, 2, TERMS, 0.1)


def test_a_machine_that_nobody_knows() -> None:
    with pytest.raises(NetworkError, match="is no machine that is known here"):
        meet(Address("no machine", 29500), 2, TERMS, 1)


def test_another_program_has_the_port(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "STORE_SECONDS", 0.2)
    with socket.socket() as other:  # it accepts and says nothing
        other.bind((address.host, address.port))
        other.listen()
        with pytest.raises(NetworkError, match="not a launcher of mlmtune"):
            meet(address, 2, TERMS, 5)


def test_gloo_uses_the_network_of_the_address(
    address: Address, together: Callable[..., list[Any]]
) -> None:
    del os.environ["GLOO_SOCKET_IFNAME"]
    together(*[lambda: meet(address, 2, TERMS, 20)] * 2)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
