"""`--rendezvous`: the launchers of a run, one per node, meet and tell each other how they ended."""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import psutil
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not declared

from mlmtune.errors import ConfigError, NetworkError
from mlmtune.training.launched import STOPPED, Ending

MEETING_SECONDS = 600
"""The time within which all launchers must have come."""
ENDING_SECONDS = 10
"""The time that a launcher which ends with an error waits for the endings of the others."""
SILENT_SECONDS = 60
"""The time after which a node that gives no sign of life is taken for lost."""
STORE_SECONDS = 30
"""The time within which a launcher that has been reached must answer."""
POLL_SECONDS = 0.2

_ARRIVED, _TERMS, _LEFT, _DONE = "arrived", "terms", "left", "done"
"""Keys of the store; names, signs of life and endings have a key for each node."""


@dataclass(frozen=True)
class Address:
    """The machine of process 0 and a free port on it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read the value of `--rendezvous`.

    Raises:
        ConfigError: It is not HOST:PORT.
    """
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise ConfigError(
            f"--rendezvous {text}: give HOST:PORT, a machine of the run and a free port on it, "
            "such as node0:29500"
        )
    return Address(host, int(port))


class Nodes:
    """The launchers that have met.

    Attributes:
        address: Where they met; the launcher there is node 0, which has process 0.
        index: The number of this node.
        names: The names of all nodes.
    """

    def __init__(self, store: TCPStore, address: Address, index: int, names: list[str]) -> None:
        self._store = store
        self.address = address
        self.index = index
        self.names = names

    @contextmanager
    def watched(self) -> Iterator[threading.Event]:
        """Within this block, end the processes of this node if another node fails or is lost.

        They could wait for the others for many minutes: NCCL does not notice a lost machine.

        Yields:
            An event that is set if that happens.
        """
        is_lost, is_over = threading.Event(), threading.Event()
        thread = threading.Thread(target=self._watch, args=(is_lost, is_over), daemon=True)
        thread.start()
        try:
            yield is_lost
        finally:
            is_over.set()
            thread.join()

    def _watch(self, is_lost: threading.Event, is_over: threading.Event) -> None:
        num_signs, changed_at = [0] * len(self.names), [time.monotonic()] * len(self.names)
        while not is_over.wait(1):
            try:
                self._store.add(_sign_of(self.index), 1)
                told = [self._ending(index) for index in range(len(self.names))]
                signs = [self._store.add(_sign_of(index), 0) for index in range(len(self.names))]
            except RuntimeError:  # node 0, which keeps the store, is gone
                break
            for index, ending in enumerate(told):
                if signs[index] != num_signs[index] or ending == Ending(0):
                    num_signs[index], changed_at[index] = signs[index], time.monotonic()
            # A node that a signal has stopped leaves the others time to save.
            has_failed = any(e is not None and e.exit_code not in (0, *STOPPED) for e in told)
            if has_failed or time.monotonic() - min(changed_at) > SILENT_SECONDS:
                break
        else:
            return
        is_lost.set()
        # Most processes end by themselves, and process 0 writes what it saw.
        if not is_over.wait(ENDING_SECONDS):
            for process in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def _ending(self, index: int) -> Ending | None:
        key = _ending_of(index)
        return Ending(**json.loads(self._store.get(key))) if self._store.check([key]) else None

    def exchange(self, ending: Ending) -> list[Ending | None]:
        """Tell the others how this node ended and, after an error, learn how they ended.

        Returns:
            An ending for each node; None for one that told nothing in time.
        """
        endings: list[Ending | None] = [None] * len(self.names)
        endings[self.index] = ending
        with suppress(RuntimeError):  # node 0, which keeps the store, is gone
            self._store.set(_ending_of(self.index), json.dumps(asdict(ending)))
            if ending.exit_code == 0:
                self._store.add(_DONE, 1)
                return endings
            keys = [_ending_of(index) for index in range(len(self.names))]
            _wait(lambda: self._store.check(keys), ENDING_SECONDS)
            endings = [self._ending(index) for index in range(len(keys))]
            self._store.add(_DONE, 1)
            if self.index == 0:  # the store ends with this process
                num_told = len(keys) - endings.count(None)
                _wait(lambda: self._store.add(_DONE, 0) >= num_told, ENDING_SECONDS)
        return endings


def meet(
    address: Address, num_nodes: int, terms: dict[str, Any], seconds: float = MEETING_SECONDS
) -> Nodes:
    """Wait until the launchers of all nodes have come.

    Args:
        address: A machine of the run, whose launcher becomes node 0, and a port.
        num_nodes: The number of nodes.
        terms: What must be the same on all nodes, by the name that a message gives it.
        seconds: The time to wait.

    Raises:
        NetworkError: The address does not answer, too few nodes came, or one has left.
        ConfigError: The nodes differ in their terms, or more than `num_nodes` came.
    """
    until = time.monotonic() + seconds
    store, is_host = _open_store(address, until, seconds)
    try:
        index = _arrive(store, address, num_nodes, terms, is_host)
        store.set(_name_of(index), os.environ.get("SLURMD_NODENAME") or socket.gethostname())
        names = [_name_of(index) for index in range(num_nodes)]
        while not store.check(names):
            if store.check([_LEFT]):
                raise NetworkError(f"{address}: a node has left ({store.get(_LEFT).decode()})")
            if time.monotonic() > until:
                num_arrived = store.add(_ARRIVED, 0)
                raise NetworkError(
                    f"{address}: {num_arrived} of {num_nodes} nodes came within {seconds:g} "
                    "seconds; start the same command on each of them"
                )
            time.sleep(POLL_SECONDS)
        nodes = Nodes(store, address, index, [store.get(name).decode() for name in names])
    except RuntimeError as error:
        raise NetworkError(f"{address}: the launcher there has ended; start all again") from error
    except BaseException as error:
        with suppress(RuntimeError):  # else the others would wait for this one
            store.set(_LEFT, str(error))
        raise
    _choose_interface(address)
    return nodes


def _open_store(address: Address, until: float, seconds: float) -> tuple[TCPStore, bool]:
    """Open the store of all launchers; also return whether this one keeps it."""
    if _can_listen(address) and (store := _store(address, is_host=True)) is not None:
        return store, True
    while True:
        try:
            socket.create_connection((address.host, address.port), timeout=3).close()
            break
        except OSError as error:  # it may start later
            if time.monotonic() > until:
                raise NetworkError(
                    f"{address}: no launcher answers there within {seconds:g} seconds "
                    f"({error.strerror or error}); start the same command on {address.host}, too"
                ) from error
            time.sleep(POLL_SECONDS)
    store = _store(address, is_host=False)
    if store is None:
        raise NetworkError(
            f"{address}: what answers there is not a launcher of mlmtune; choose another port for "
            "--rendezvous"
        )
    return store, False


def _store(address: Address, *, is_host: bool) -> TCPStore | None:
    """Return a store; None if something else has the port."""
    opened: list[TCPStore] = []

    def open_it() -> None:
        with suppress(RuntimeError):
            # torch's own rendezvous finds the same store in this process: it is multi-tenant.
            store = TCPStore(
                address.host, address.port, is_master=is_host, multi_tenant=True,
                wait_for_workers=False, timeout=timedelta(seconds=60),
            )  # fmt: skip
            opened.append(store)

    # torch waits forever for the answer of a program that speaks when it is spoken to.
    thread = threading.Thread(target=open_it, daemon=True)
    thread.start()
    thread.join(STORE_SECONDS)
    return opened[0] if opened else None


def _can_listen(address: Address) -> bool:
    """Whether the address is of this machine, and its port is free."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )[0]
    except socket.gaierror as error:
        raise NetworkError(f"{address}: {address.host} is no machine that is known here") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
            return True
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise NetworkError(f"{address}: {error.strerror}; choose another port") from error
            return False


def _arrive(
    store: TCPStore, address: Address, num_nodes: int, terms: dict[str, Any], is_host: bool
) -> int:
    """Return the number of this node, which is 0 where the store is."""
    if is_host:
        index = store.add(_ARRIVED, 1) - 1
        store.set(_TERMS, json.dumps(terms))
        return index
    expected = json.loads(store.get(_TERMS))  # set after node 0 has its number
    for name, value in terms.items():
        if value != expected.get(name):
            raise ConfigError(
                f"{address}: the nodes differ in {name}: {expected.get(name)} there, and {value} "
                f"on {socket.gethostname()}; make them the same, and start all again"
            )
    index = store.add(_ARRIVED, 1) - 1
    if index >= num_nodes:
        raise ConfigError(
            f"{address}: {num_nodes} nodes have met there already; wait until they have ended, or "
            "choose another port for --rendezvous"
        )
    return index


def _choose_interface(address: Address) -> None:
    """Let gloo use the network on which the address is reached.

    By default gloo takes the address of this machine's name, which Debian makes one of loopback.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address.host, address.port))  # sends nothing
        except OSError:  # an address of IPv6
            return
        mine = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == mine for one in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _wait(happens: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not happens() and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


def _name_of(index: int) -> str:
    return f"name-{index}"


def _sign_of(index: int) -> str:
    return f"sign-{index}"


def _ending_of(index: int) -> str:
    return f"ending-{index}"
