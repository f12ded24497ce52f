"""Worker processes: forked from one that has everything loaded, one thread each, gone when their parent is."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

from featattn_neuro.errors import ConfigError, DataError
from featattn_neuro.jobs.graph import Stage
from featattn_neuro.jobs.ledger import Ledger

Result = TypeVar("Result")

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 1 << 30
"""Freed memory up to this stays with the worker: maps of some MB are made and freed in every update."""
_shares: Any = None


def _begin(shares: Any, parent: int) -> None:
    """One thread a worker, so that results depend on no thread count; end with the parent, also when it is killed."""
    global _shares
    import dask
    import torch
    from threadpoolctl import threadpool_limits

    _shares = shares
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):  # not Linux: workers then end after their stage
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent was killed before it could be watched
        os._exit(1)
    with contextlib.suppress(OSError, AttributeError):  # not glibc: then memory goes back and forth, which costs time
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, _KEPT_BYTES)
    torch.set_num_threads(1)
    threadpool_limits(1)
    dask.config.set(scheduler="synchronous")  # threads of the parent's pool, if it had one, are not in this process


def _execute(index: int, stage: Stage, config_text: str, out: str) -> tuple[list[str], float]:
    """Run one stage in a worker; returns its files and the seconds it took."""
    from featattn_neuro.jobs import stages
    from featattn_neuro.jobs.context import network_job

    begun = time.perf_counter()

    def progress(share: float) -> None:
        _shares[index] = share

    job = network_job(config_text, out, stage.network)
    function = getattr(stages, stage.function)
    try:
        files = function(job, stage.arm, progress) if stage.arm is not None else function(job, progress)
    except (DataError, ConfigError) as error:
        # what learns knows its task, and neither whose network it is nor which arm
        where = f"network {stage.network!r}" + ("" if stage.arm is None else f", arm {stage.arm!r}")
        raise type(error)(f"{where}: {error}") from error
    _shares[index] = 1.0
    return files, time.perf_counter() - begun


@dataclass
class Schedule:
    """Progress of a run: which stages are done, going on, waiting."""

    stages: list[Stage]
    seconds: dict[str, float]
    done: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    running: dict[str, int] = field(default_factory=dict)
    shares: Any = None

    def fraction(self) -> float:
        """Share of the expected work that is done."""
        total = sum(self.seconds[s.id] for s in self.stages if s.id not in self.skipped)
        part = sum(self.seconds[name] for name in self.done - self.skipped)
        part += sum(self.seconds[name] * self.shares[index] for name, index in self.running.items())
        return part / total if total else 1.0


def _pool(workers: int, shares: Any) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(shares, os.getpid()))


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(wait=True, cancel_futures=True)


def apart(work: Callable[..., Result], *arguments: Any) -> Result:
    """The result of `work(*arguments)`, computed in a worker process of its own.

    Backward passes start threads of torch where there is a GPU, and a process that has them cannot be forked safely.
    """
    pool = _pool(1, None)
    try:
        found = pool.submit(work, *arguments).result()
    except BaseException:
        _kill(pool)
        raise
    pool.shutdown()
    return found


def run_stages(
    stages: list[Stage],
    ledger: Ledger,
    config_text: str,
    *,
    workers: int,
    seconds: dict[str, float],
    settled: set[str],
    report: Callable[[Schedule, str], None],
) -> Schedule:
    """Do all stages that are not done, as many at once as there are workers; the longest of the ready ones first.

    `settled` are those known to be done; others turn out to be when what they need came out as before.
    `report(schedule, message)` is called on every change (message) and twice a second (empty message).
    """
    shares = multiprocessing.get_context("fork").Array("d", len(stages), lock=False)
    schedule = Schedule(stages, seconds, done=set(settled), skipped=set(settled), shares=shares)
    keys: dict[str, str] = {}
    waiting = {stage.id: stage for stage in stages if stage.id not in settled}
    index_of = {stage.id: index for index, stage in enumerate(stages)}
    pool: ProcessPoolExecutor | None = None
    futures: dict[Future[tuple[list[str], float]], Stage] = {}
    try:
        while waiting or futures:
            ready = [s for s in waiting.values() if set(s.needs) <= schedule.done]
            for stage in sorted(ready, key=lambda s: -seconds[s.id]):
                keys[stage.id] = ledger.key_of(stage)
                del waiting[stage.id]
                if ledger.is_done(stage.id, keys[stage.id]):
                    schedule.done.add(stage.id)
                    schedule.skipped.add(stage.id)
                    report(schedule, f"unchanged: {stage.id}")
                    continue
                if pool is None:
                    pool = _pool(workers, schedule.shares)
                future = pool.submit(_execute, index_of[stage.id], stage, config_text, str(ledger.folder))
                futures[future] = stage
            if not futures:
                continue
            finished, _ = wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
            schedule.running = {s.id: index_of[s.id] for s in futures.values()}
            # those that succeeded first: what is computed is kept, also when another stage failed beside it
            for future in sorted(finished, key=lambda f: f.exception() is not None):
                stage = futures.pop(future)
                schedule.running.pop(stage.id, None)
                files, took = future.result()
                noted = {"content": str(stage.settings["content"])} if "content" in stage.settings else {}
                ledger.finish(stage.id, keys[stage.id], files, took, **noted)
                schedule.done.add(stage.id)
                report(schedule, f"done in {took:.1f} s: {stage.id}")
            report(schedule, "")
    except BaseException:
        if pool is not None:
            _kill(pool)
        raise
    if pool is not None:
        pool.shutdown()
    return schedule
