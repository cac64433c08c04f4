"""Engine: owns the workers, builds networks, hands them over, reports.

    with Engine() as engine:
        engine.commit(config)
        engine.main(duration=10)

`commit` builds everything new beside what runs (that may fail and then has changed
nothing), publishes one plan to each worker and waits until it has been taken; only
then is anything freed that the old network referred to. Imports everything on its
floor.
"""

import contextlib
import os
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

from snabb_py._native import ffi, lib
from snabb_py.engine import counter
from snabb_py.engine.app import App, check_range
from snabb_py.engine.capture import Capture
from snabb_py.engine.config import AppSpec, Config, LinkSpec
from snabb_py.engine.control import VERBS, Control, Verb
from snabb_py.engine.memory import Pool, new_aligned
from snabb_py.engine.plan import Actions, Network, difference, expand
from snabb_py.engine.python_app import PythonApp, Runner, ops_of
from snabb_py.engine.resources import Registry
from snabb_py.engine.shm import Counters, InstanceDirectory
from snabb_py.engine.timer import Timers
from snabb_py.engine.worker import RunningApp, RunningLink, Worker, check_cpu
from snabb_py.errors import AppError, ConfigError, SnabbError

SUPERVISE_INTERVAL = 0.1  # seconds
MOST_CAPTURES = 8
CAPTURE_TIMEOUT = 5.0  # seconds that a worker has to begin or end one
MUCH_MEMORY = 1 << 30  #: bytes that take seconds to be had
STILL_LOOKS = 4  #: of half a millisecond, in which nothing moves: the network is empty


@dataclass
class Change:
    """A network built but not yet running."""

    network: Network
    actions: Actions
    apps: dict[str, RunningApp]
    links: dict[LinkSpec, RunningLink]
    new_apps: list[RunningApp] = field(default_factory=list)
    new_links: list[RunningLink] = field(default_factory=list)


@dataclass(frozen=True)
class Census:
    """Where all packets are, while the workers stand still."""

    total: int
    free: int
    on_links: int
    held: int

    @property
    def is_complete(self) -> bool:
        """No packet is missing and none is there twice."""
        return self.free + self.on_links + self.held == self.total


class Engine:
    """An engine.

    Args:
        workers: C workers; a further one comes when there are Python apps.
        cpus: CPU of each worker, in order; None or missing: not pinned.
        packets: small packets (up to 10 KiB) in the pool.
        large_packets: large ones (up to 66 KiB).
        burst: most packets that one pull brings in.
        busy: workers never sleep.
        breath_ns: modelled time: each breath takes so many ns, however long it really
            took, for results that no machine's load can change; 0: the clock's time.
        huge: try huge pages.
        need_huge: no others will do.
        physical: packets bear physical addresses, for a card without an IOMMU; huge
            pages are a must.
        program: publish counters and a control socket under this name; None: not.
        stop_on_error: a Python app's exception ends `main` (AppError).
        log: takes a line for the user.

    Raises:
        ConfigError: an argument makes no sense here.
        DeviceError: memory or the runtime directory cannot be had.
    """

    def __init__(  # noqa: PLR0913 - all have defaults, all are settings of one thing
        self,
        *,
        workers: int = 1,
        cpus: Sequence[int | None] = (),
        packets: int = 16384,
        large_packets: int = 1024,
        burst: int = lib.WORKER_BURST,
        busy: bool = False,
        breath_ns: int = 0,
        huge: bool = True,
        need_huge: bool = False,
        physical: bool = False,
        program: str | None = None,
        stop_on_error: bool = False,
        log: Callable[[str], None] | None = None,
    ) -> None:
        for cpu in cpus:
            if cpu is not None:
                check_cpu(cpu)
        for name, value, low, high in (
            ("workers", workers, 1, 1024),
            ("packets", packets, 0, 2**24),
            ("large_packets", large_packets, 0, 2**20),
            ("burst", burst, 1, lib.LINK_CAPACITY),
            ("breath_ns", breath_ns, 0, 10**9),
        ):
            if not isinstance(value, int):
                raise ConfigError(f"{name}: {value!r} is not a whole number")
            check_range(name, value, low, high)
        self.nworkers = workers
        self.network: Network = Network()
        self.config: Config = Config()
        self.timers = Timers()
        #: Of the control socket.
        self.verbs: dict[str, tuple[str, Verb]] = dict(VERBS)
        #: Lines for the user, of no interest unless a network runs: said when it does.
        self.notes: list[str] = []
        self.log = log or (lambda line: print(line, file=sys.stderr, flush=True))
        self.stop_on_error = stop_on_error
        self.started_at: float = time.monotonic()
        #: When workers last began to take a network up.
        self.handed_over_at = self.started_at
        self._cpus = cpus
        self._settings = {"burst": burst, "busy": busy, "breath_ns": breath_ns}
        self._apps: dict[str, RunningApp] = {}
        self._links: dict[LinkSpec, RunningLink] = {}
        self._workers: list[Worker] = []
        self._lock = threading.RLock()
        # Not a threading.Event: its lock is not for signal handlers.
        self._has_ended = False
        self._end_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._end_fd)
        self._pid = os.getpid()
        self._is_closed = False
        with contextlib.ExitStack() as undo:
            self.directory = InstanceDirectory() if program else None
            if self.directory:
                undo.callback(self.directory.close)
            size = lib.pool_memory_needed(packets, large_packets)
            if size >= MUCH_MEMORY:
                self.log(
                    f"reserving {size / 2**30:.1f} GiB for the packets of {workers} "
                    "workers; the kernel clears them first"
                )
            # One freelist more than C workers: that of the Python apps' worker.
            self.pool = Pool(
                packets,
                large_packets,
                workers + 1,
                huge=huge,
                need_huge=need_huge,
                physical=physical,
                note=self.directory.huge_pages if self.directory else None,
            )
            undo.callback(self.pool.close)
            if self.pool.memory.problem:
                self.notes.append(self.pool.memory.problem)
            path = self.directory.path / "counters" if self.directory else None
            self.counters = Counters(path, program or "")
            undo.callback(self.counters.close)
            self.registry = Registry(self.pool)
            undo.callback(self._stop_workers)
            for number in range(workers):
                self._add_worker(number)
            self.control = None
            if self.directory:
                self.control = Control(self, self.directory.path / "control")
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_modelled(self) -> bool:
        """Whether the workers' time is modelled."""
        return bool(self._settings["breath_ns"])

    def _add_worker(self, number: int) -> None:
        cpu = self._cpus[number] if number < len(self._cpus) else None
        worker = Worker(
            number,
            self.pool.pool,
            self.counters,
            cpu=cpu,
            **self._settings,  # type: ignore[arg-type]
        )
        self._workers.append(worker)
        worker.start()

    # -- changing the network --------------------------------------------------

    def commit(
        self,
        config: Config,
        *,
        timeout: float = 5.0,
        between: Callable[[], None] | None = None,
    ) -> Actions:
        """Make the running network the one that `config` says.

        Args:
            config: copied; may be changed afterwards without effect.
            timeout: seconds that a worker has to take its plan.
            between: called at the last moment of the old network. Modelled time stands
                still from there to the new one.

        Returns:
            What was done.

        Raises:
            ConfigError: the config is wrong, or an app refused its arguments.
            DeviceError: an app could not get what it needs.
            AppError: an app did not return in time.

        After any of them the network runs on as it was.
        """
        with self._lock:
            if self._is_closed:
                raise ConfigError("the engine is closed")
            network = expand(config, self.nworkers)
            actions = difference(self.network, network)
            if any(spec.worker == self.nworkers for spec in network.apps.values()):
                while len(self._workers) <= self.nworkers:
                    self._add_worker(len(self._workers))
            change = self._build(network, actions)
            self.handed_over_at = time.monotonic()
            try:
                self._hand_over(change, timeout, between)
            except SnabbError:
                self._undo(change)
                raise
            self._settle(change)
            self.config = config.copy()
            while self.notes and network.apps:
                self.log(self.notes.pop(0))
            return actions

    def _build(self, network: Network, actions: Actions) -> Change:
        change = Change(network, actions, dict(self._apps), dict(self._links))
        self.registry.leaving = {*actions.stop, *actions.restart}
        try:
            for name in actions.stop:
                del change.apps[name]
            for name in (*actions.start, *actions.restart, *actions.reconfigure):
                running = self._build_app(name, network, actions)
                change.apps[name] = running
                change.new_apps.append(running)
            for spec in actions.unlink:
                del change.links[spec]
            for spec in actions.link:
                link = self._build_link(spec, network.worker_of(spec.from_app))
                change.links[spec] = link
                change.new_links.append(link)
        except BaseException:
            self._undo(change)
            raise
        finally:
            self.registry.leaving = frozenset()
        return change

    def _make(self, name: str, spec: AppSpec) -> App:
        """Make an instance, or say which app of the config is wrong.

        Raises:
            ConfigError: the class refused its arguments.
        """
        try:
            return spec.cls(**spec.args)
        except ConfigError as error:
            raise ConfigError(f'app "{name}": {error}') from error
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f'app "{name}": {spec.cls.__name__}: {error}') from error

    def _build_app(self, name: str, network: Network, actions: Actions) -> RunningApp:
        spec = network.apps[name]
        instance = self._make(name, spec)
        if not instance.ops and not isinstance(instance, PythonApp):
            raise ConfigError(f'app "{name}": {spec.cls.__name__} has no operations')
        old = self._apps.get(name)
        sides = [network.links_at(name, side) for side in ("inputs", "outputs")]
        lease = self.registry.lease(name, is_two_way=all(sides))
        try:
            instance.open(lease)
        except BaseException:
            lease.release()
            raise
        is_same = (
            old is not None
            and old.spec.cls is spec.cls
            and old.spec.worker == spec.worker
        )
        if old is not None and is_same:
            app, row = old.app, old.row
        else:
            app, row = ffi.new("struct app *"), None
            names = spec.cls.counters
            if isinstance(instance, PythonApp):
                names += counter.PYTHON_APP
            if names:
                row = self.counters.make(f"apps/{name}", names)
                app.counters = row.pointer
            app.worker = self._workers[spec.worker or 0].worker
        if old is not None and name in actions.reconfigure:
            try:
                instance.adopt(old.instance)
            except BaseException:
                instance.close()
                lease.release()
                raise
        running = RunningApp(
            name, spec, instance, instance.ops, instance.state, app, row, lease
        )
        if isinstance(instance, PythonApp):
            self._add_runner(running, instance)
        return running

    def _add_runner(self, running: RunningApp, instance: PythonApp) -> None:
        name, spec, lease = running.name, running.spec, running.lease

        def remake() -> PythonApp:
            with self._lock:
                other = self._make(name, spec)
                other.open(lease)
            return cast("PythonApp", other)

        freelist = self._workers[spec.worker or 0].freelist
        running.runner = Runner(name, instance, running.app, freelist, remake)
        running.ops = ops_of(type(instance))
        running.state = running.runner.handle

    def _build_link(self, spec: LinkSpec, worker: int) -> RunningLink:
        link = new_aligned("struct link *")
        row = self.counters.make(f"links/{spec}", counter.LINK, count=8)
        link.counters = ffi.cast("struct link_counters *", row.pointer)
        link.freelist = self._workers[worker].freelist
        return RunningLink(spec, link, row)

    def _undo(self, change: Change) -> None:
        """Free what was built for a change that did not happen."""
        for running in change.new_apps:
            running.instance.close()
            running.lease.release()
            if running.row and not self._is_row_in_use(running):
                self.counters.remove(running.row)
        for link in change.new_links:
            self.counters.remove(link.row)

    def _is_row_in_use(self, running: RunningApp) -> bool:
        old = self._apps.get(running.name)
        return old is not None and old.row is running.row

    def _hand_over(
        self,
        change: Change,
        timeout: float,
        between: Callable[[], None] | None = None,
    ) -> None:
        """Publish to each worker and wait.

        Workers that run Python come first: only they can fail to answer, and then
        nobody has changed anything yet.
        """
        actions = change.actions
        moving = {
            name
            for name in actions.restart
            if self.network.worker_of(name) != change.network.worker_of(name)
        }
        if moving:
            self._take_out(moving, timeout)
        retired = [self._apps[n] for n in (*actions.stop, *actions.restart)]
        unlinked = [self._links[spec] for spec in actions.unlink]
        for worker in reversed(self._workers):
            plan = worker.assemble(
                change.network,
                change.apps,
                change.links,
                [
                    a
                    for a in retired
                    if a.spec.worker == worker.number and a.name not in moving
                ],
                [k for k in unlinked if self._worker_of(k) == worker.number],
            )
            with contextlib.ExitStack() as stack:
                if between:
                    if self.is_modelled:
                        worker.pause()
                        stack.callback(worker.resume)
                    between()
                    between = None
                worker.publish(plan)
            worker.wait(timeout)

    def _worker_of(self, link: RunningLink) -> int:
        return self.network.worker_of(link.spec.from_app)

    def _take_out(self, names: set[str], timeout: float) -> None:
        """Stop apps that will go on elsewhere: two workers must not share one."""
        network = Network(
            {n: s for n, s in self.network.apps.items() if n not in names},
            frozenset(
                k
                for k in self.network.links
                if k.from_app not in names and k.to_app not in names
            ),
        )
        for worker in self._workers:
            leaving = [
                self._apps[n]
                for n in sorted(names)
                if self.network.worker_of(n) == worker.number
            ]
            links = [
                self._links[k]
                for k in sorted(self.network.links - network.links)
                if self.network.worker_of(k.from_app) == worker.number
            ]
            if leaving or links:
                worker.publish(
                    worker.assemble(network, self._apps, self._links, leaving, links)
                )
                worker.wait(timeout)

    def _settle(self, change: Change) -> None:
        """Free what no worker refers to any more, make the change official."""
        actions = change.actions
        old_apps, old_links = self._apps, self._links
        self._apps, self._links = change.apps, change.links
        self.network = change.network
        for name in (*actions.stop, *actions.restart, *actions.reconfigure):
            old = old_apps[name]
            old.instance.close()
            old.lease.release()
            new = self._apps.get(name)
            if old.row and (new is None or new.row is not old.row):
                self.counters.remove(old.row)
        for spec in actions.unlink:
            self.counters.remove(old_links[spec].row)
        self._end_captures(change.new_links)
        rows = [a.row for a in change.new_apps] + [k.row for k in change.new_links]
        for row in rows:
            if row and row.entry is None:
                self.counters.publish(row)

    # -- captures --------------------------------------------------------------

    def add_capture(self, spec: LinkSpec, capture: Capture) -> None:
        """Copy what passes a link from now on; nothing else changes.

        Raises:
            ConfigError: there is no such link, or too many captures.
            AppError: an app did not return in time.
        """
        with self._lock:
            if self._is_closed or spec not in self._links:
                raise ConfigError(f'there is no link "{spec}"')
            if sum(len(w.captures) for w in self._workers) >= MOST_CAPTURES:
                raise ConfigError(
                    f"there are {MOST_CAPTURES} captures: end one of them"
                )
            worker = self._workers[self.network.worker_of(spec.to_app)]
            worker.captures.append((spec, capture))
            try:
                self._hand_over_captures(worker)
            except AppError:
                worker.captures.remove((spec, capture))
                raise

    def remove_capture(self, capture: Capture) -> None:
        """End a capture, if it has not ended with its link."""
        with self._lock:
            for worker in self._workers:
                if found := [c for c in worker.captures if c[1] is capture]:
                    worker.captures.remove(found[0])
                    if not self._is_closed:
                        with contextlib.suppress(AppError):  # the next plan is without
                            self._hand_over_captures(worker)
        capture.close()

    def _hand_over_captures(self, worker: Worker) -> None:
        plan = worker.assemble(self.network, self._apps, self._links, [], [])
        worker.publish(plan)
        worker.wait(CAPTURE_TIMEOUT)

    def _end_captures(self, new_links: list[RunningLink]) -> None:
        """End those whose link the change that was just made has taken away."""
        anew = {link.spec for link in new_links}
        for worker in self._workers:
            for spec, capture in list(worker.captures):
                if spec not in self._links or spec in anew:
                    worker.captures.remove((spec, capture))
                    capture.lose_link()

    # -- running ---------------------------------------------------------------

    def main(
        self,
        *,
        duration: float | None = None,
        done: Callable[[], bool] | None = None,
    ) -> None:
        """Look after the network until it ends: timers, apps, failures.

        Args:
            duration: seconds; None: until `end` is called.
            done: asked every 10 ms whether to end.

        Raises:
            AppError: a Python app failed and `stop_on_error` is set.
        """
        start = time.monotonic()
        end = None if duration is None else start + duration
        supervision = self.timers.at(start, self.supervise, SUPERVISE_INTERVAL)
        try:
            while not self._has_ended:
                now = time.monotonic()
                self.timers.run(now)
                if (end is not None and now >= end) or (done and done()):
                    break
                due = [t for t in (end, self.timers.next_due()) if t is not None]
                pause = max(0.0, min(due) - time.monotonic())
                self._wait(min(pause, 0.01) if done else pause)
        finally:
            supervision.cancel()

    def _wait(self, seconds: float) -> None:
        """Wait, or until `end` is called."""
        poll = select.poll()
        poll.register(self._end_fd, select.POLLIN)
        poll.poll(max(1, round(seconds * 1000)))

    def end(self) -> None:
        """Make `main` return; may be called from a signal handler or any thread."""
        self._has_ended = True
        os.eventfd_write(self._end_fd, 1)

    @property
    def has_ended(self) -> bool:
        """Whether `end` has been called: `main` returns at once from then on."""
        return self._has_ended

    def supervise(self) -> None:
        """Look after what apps have outside, and after Python apps that failed.

        Raises:
            AppError: one failed and `stop_on_error` is set.
        """
        now = time.monotonic()
        for running in list(self._apps.values()):
            try:
                line = running.instance.supervise()
            except Exception as error:  # noqa: BLE001 - an app's own code
                line = f"app {running.name}: supervise: {type(error).__name__}: {error}"
            if line:
                self.log(line)
            if running.runner:
                line = running.runner.supervise(now)
                if line and self.stop_on_error:
                    raise AppError(running.name, running.runner.failure)
                if line:
                    self.log(line)

    def drain(self, timeout: float = 0.5) -> bool:
        """Let nothing new in until what is in the network has left it.

        Returns:
            Whether all of it left in time; what did not is stuck.
        """
        for worker in self._workers:
            lib.worker_drain(worker.worker, 1)
        deadline = time.monotonic() + timeout
        still, moved = 0, -1
        while still < STILL_LOOKS and time.monotonic() < deadline:
            time.sleep(0.5e-3)
            # A wire at its own speed lets rounds pass in which nothing moves: what has
            # moved since the last look counts too.
            before, moved = moved, sum(k.row["rxpackets"] for k in self._links.values())
            is_still = moved == before and all(
                lib.worker_drained(w.worker) > 1 for w in self._workers
            )
            still = still + 1 if is_still else 0
        return still >= STILL_LOOKS and not self._on_links()

    def close(self, *, timeout: float = 5.0) -> None:
        """Stop everything and give everything back.

        Args:
            timeout: seconds to wait for an app that does not return, twice.

        When an app in Python does not return, memory that its worker may touch is left
        alone, and a line says so.
        """
        if os.getpid() != self._pid:
            return  # a child of a fork has neither workers nor anything to give back
        with self._lock:
            if self._is_closed:
                return
            with contextlib.suppress(SnabbError):
                self.commit(Config(), timeout=timeout)
            self._is_closed = True
        self.end()
        # Without the lock: a control client may be waiting for it.
        if self.control:
            self.control.close()
        if self._stop_workers(timeout):
            self.counters.close()
            self.pool.close()
        if self.directory:
            self.directory.close()

    def _stop_workers(self, timeout: float = 5.0) -> bool:
        have_ended = True
        for worker in self._workers:
            if worker.stop(timeout):
                worker.close()
            else:
                have_ended = False
                self.log(f"app {worker.current_app} does not return: left behind")
        return have_ended

    # -- looking ---------------------------------------------------------------

    @property
    def apps(self) -> dict[str, RunningApp]:
        """The apps of the running network by name."""
        return self._apps

    @property
    def workers(self) -> list[Worker]:
        """The workers; the last one runs Python apps if there are more than asked."""
        return self._workers

    def link(self, text: str) -> RunningLink:
        """Return a link of the running network.

        Raises:
            KeyError: there is none of this name.
        """
        return self._links[LinkSpec.parse(text)]

    @property
    def links(self) -> dict[LinkSpec, RunningLink]:
        """The links of the running network."""
        return self._links

    def drops(self) -> dict[str, int]:
        """Return all packets lost so far by reason, "app.reason" or "link txdrop"."""
        drops = {}
        for name, running in sorted(self._apps.items()):
            for reason, n in running.counters.items():
                if n and counter.is_drop(reason):
                    drops[f"{name} {reason}"] = n
        for spec, link in sorted(self._links.items()):
            if n := link.counters["txdrop"]:
                drops[f"{spec} txdrop"] = n
        for worker in self._workers:
            if n := worker.row["drop-reconfigure"]:
                drops[f"worker-{worker.number} drop-reconfigure"] = n
        return drops

    def outsides(self) -> dict[str, str]:
        """Return what the network is joined to, by app: `raw:eth0`."""
        outsides = {name: a.instance.outside for name, a in sorted(self._apps.items())}
        return {name: outside for name, outside in outsides.items() if outside}

    def _on_links(self) -> int:
        links = [k.link for k in self._links.values()]
        rings = [a.state for n, a in self._apps.items() if n.endswith(">")]
        n = sum(int(k.write - k.read) % 2**32 for k in links)
        return n + sum(int(ring.write - ring.read) for ring in rings)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let all workers stand still meanwhile."""
        with self._lock, contextlib.ExitStack() as stack:
            if self._is_closed:
                raise ConfigError("the engine is closed")
            for worker in self._workers:
                worker.pause()
                stack.callback(worker.resume)
            yield

    def census(self) -> Census:
        """Count all packets, wherever they are; the workers stand still meanwhile."""
        with self.paused():
            free = self.pool.free + sum(
                worker.freelist.classes[c].npackets
                for worker in self._workers
                for c in range(lib.PACKET_NCLASSES)
            )
            held = sum(lib.engine_app_held(a.app) for a in self._apps.values())
            return Census(self.pool.total, free, self._on_links(), held)

    def describe(self) -> dict[str, Any]:
        """Return the network as plain data: apps, links, workers."""
        return {
            "apps": {
                name: {
                    "class": spec.cls.__name__,
                    "args": {k: repr(v) for k, v in spec.args.items()},
                    "worker": spec.worker,
                }
                for name, spec in sorted(self.network.apps.items())
            },
            "links": [str(spec) for spec in sorted(self.network.links)],
            "workers": [{"cpu": worker.cpu} for worker in self._workers],
        }
