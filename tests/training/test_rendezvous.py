"""Launchers that meet, differ, stay away or leave, and the endings that they tell each other."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from launching import free_port

from mlmtune.errors import ConfigError, NetworkError
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
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def meet_all(address: Address, threads: ThreadPoolExecutor) -> Callable[..., list[Any]]:
    """Lets a launcher with each of these terms come; gives what they return or raise."""

    def meet_in_threads(*terms: dict[str, Any]) -> list[Any]:
        futures = []
        for its in terms:
            futures.append(threads.submit(meet, address, len(terms), its, 20))
            # The first keeps the store. Two of one process would share it, unlike two processes.
            while rendezvous._can_listen(address):
                time.sleep(0.01)
        return [future.exception() or future.result() for future in futures]

    return meet_in_threads


@pytest.mark.parametrize("text", ["node0", ":29500", "node0:", "node0:0", "node0:65536", "a:2x"])
def test_what_is_no_place_to_meet(text: str) -> None:
    with pytest.raises(ConfigError, match="give HOST:PORT"):
        parse_address(text)


def test_a_place_to_meet() -> None:
    assert parse_address("node0:29500") == Address("node0", 29500)


def test_nodes_meet_and_learn_how_each_ended(
    meet_all: Callable[..., list[Any]], threads: ThreadPoolExecutor
) -> None:
    met: list[Nodes] = meet_all(TERMS, TERMS, TERMS)
    assert met[0].index == 0
    assert sorted(nodes.index for nodes in met) == [0, 1, 2]
    assert {tuple(nodes.names) for nodes in met} == {(socket.gethostname(),) * 3}
    met.sort(key=lambda nodes: nodes.index)
    endings = [Ending(1, "peer", 2), Ending(3, "no text", 5), Ending(0)]
    first, second, third = threads.map(Nodes.exchange, met, endings)
    assert first == second == endings
    assert third[2] == Ending(0)  # one that ends well does not wait for the others


def test_a_node_that_tells_nothing_is_not_waited_for(meet_all: Callable[..., list[Any]]) -> None:
    first, _ = meet_all(TERMS, TERMS)
    assert first.exchange(Ending(1, "peer")) == [Ending(1, "peer"), None]


@pytest.mark.parametrize(
    ("ending", "is_lost"), [(Ending(3, "no text"), True), (Ending(0), False), (None, True)]
)
def test_the_processes_of_a_node_are_ended_if_another_fails_or_is_silent(
    meet_all: Callable[..., list[Any]],
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    ending: Ending | None,
    is_lost: bool,
) -> None:
    mine, other = meet_all(TERMS, TERMS)
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
            threads.submit(other.exchange, ending)
        assert lost.wait(10 if is_lost else 1.5) == is_lost
        assert killed.wait(10 if is_lost else 0) == is_lost


def test_nodes_that_differ_are_refused(meet_all: Callable[..., list[Any]]) -> None:
    first, second = meet_all(TERMS, {**TERMS, "the version of torch": "3"})
    assert isinstance(second, ConfigError)
    assert "the nodes differ in the version of torch: 2 there, and 3 on" in str(second)
    assert isinstance(first, NetworkError)
    assert f"a node has left ({second})" in str(first)


def test_one_node_too_many_is_refused(address: Address, meet_all: Callable[..., list[Any]]) -> None:
    met = meet_all(TERMS, TERMS)
    assert [nodes.index for nodes in met] == [0, 1]
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


def test_gloo_uses_the_network_of_the_address(meet_all: Callable[..., list[Any]]) -> None:
    del os.environ["GLOO_SOCKET_IFNAME"]
    meet_all(TERMS, TERMS)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
