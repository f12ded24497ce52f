"""Run a configuration: stages in worker processes, progress, a log, verdicts at the end."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import yaml

from featattn_neuro.errors import FeatattnError, StoreError, choose
from featattn_neuro.jobs.config import RunConfig, load_config, parse_config
from featattn_neuro.jobs.graph import STEPS, Stage, stages_of
from featattn_neuro.jobs.ledger import Ledger, locked, open_folder, stage_key

BYTES_PER_NETWORK = 40_000_000
"""Disk that the files of one network take at most in the runs that come with the package, with a margin."""


def resolve(config: Path, *, full: bool = False, workers: int | None = None) -> tuple[RunConfig, str]:
    """The configuration with command-line changes, and its text; what the worker processes and the folder get."""
    loaded = load_config(config)
    if full:
        layers = loaded.networks.layers
        loaded = loaded.model_copy(update={"statistics": loaded.statistics.model_copy(update={"refit_layers": layers})})
    if workers is not None:
        loaded = loaded.model_copy(update={"workers": workers})
    text = yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False)
    return parse_config(text, str(config)), text


def _content(config: RunConfig, text: str, out: Path) -> dict[str, str]:
    """Network to a hash of what the configuration does not show: the images' ids, and given weights."""
    from featattn_neuro.jobs.context import load_run_stimuli, network_job

    ids = hashlib.sha256(
        "\n".join(load_run_stimuli(config.stimuli, config.duplicates).id.tolist()).encode()
    ).hexdigest()
    found = {}
    for name in config.network_names():
        job = network_job(text, str(out), name)
        found[name] = ids if job.pretrained is None else f"{ids} {job.build().weights_sha256}"
    return found


def expected_seconds(config: RunConfig, text: str, out: Path, stages: list[Stage]) -> dict[str, float]:
    """Seconds of every stage, from a few timed updates of each network on this machine."""
    from featattn_neuro.jobs.probe import seconds_per_image

    costs: dict[str, tuple[float, float]] = {}
    found = {}
    for stage in stages:
        if stage.network not in costs:
            replicas = config.networks.train is not None and costs
            costs[stage.network] = (
                next(iter(costs.values())) if replicas else seconds_per_image(text, str(out), stage.network)
            )
        per_gain, per_full = costs[stage.network]
        found[stage.id] = stage.fixed_seconds + stage.gain_images * per_gain + stage.full_images * per_full
    return found


def _stages(config: RunConfig, text: str, out: Path) -> tuple[list[Stage], dict[str, float]]:
    stages = stages_of(config, _content(config, text, out))
    return stages, expected_seconds(config, text, out, stages)


def plan(config: Path, out: Path, *, full: bool = False, workers: int | None = None) -> str:
    """What a run would do: fits, minutes, disk; in words, before anything is started."""
    resolved, text = resolve(Path(config), full=full, workers=workers)
    stages, seconds = _stages(resolved, text, Path(out))
    need, free = _disk(resolved, Path(out))
    lines = [f"{resolved.name}: {len(stages) + 1} stages, {resolved.workers} workers of one thread"]
    for step in STEPS:
        mine = [s for s in stages if s.step == step]
        if mine:
            minutes = sum(seconds[s.id] for s in mine) / 60 / resolved.workers
            lines.append(f"  {step:<12} {len(mine):>4} stages {sum(s.fits for s in mine):>7} fits {minutes:>7.1f} min")
    lines.append(f"  in all       {sum(s.fits for s in stages):>19} fits {_total_minutes(resolved, seconds):>7.1f} min")
    lines.append(f"  disk         {need / 1e6:.0f} MB at most; {free / 1e9:.1f} GB free")
    return "\n".join(lines)


def _total_minutes(config: RunConfig, seconds: dict[str, float]) -> float:
    return (sum(seconds.values()) / config.workers + 20) / 60


def _disk(config: RunConfig, out: Path) -> tuple[int, int]:
    place = out
    while not place.exists():
        place = place.parent
    return BYTES_PER_NETWORK * len(config.network_names()), shutil.disk_usage(place).free


def _check_disk(config: RunConfig, out: Path) -> None:
    need, free = _disk(config, out)
    if free < need:
        raise StoreError(
            f"the run needs up to {need / 1e6:.0f} MB at {out}; {free / 1e6:.0f} MB are free; make room, or choose "
            "another --out"
        )


def run(
    config: Path,
    out: Path,
    *,
    quiet: bool = False,
    until: str | None = None,
    full: bool = False,
    workers: int | None = None,
) -> int:
    """Run a configuration to the end (or to the step `until`), going on where an earlier run of it stopped.

    Returns
    -------
    0 when done, 130 when interrupted (the same command goes on).

    Raises
    ------
    FeatattnError : everything that is the input's fault; nothing that was computed is lost.
    """
    begun = time.monotonic()
    if until is not None:
        choose(until, STEPS, "step")
    resolved, text = resolve(Path(config), full=full, workers=workers)
    out = Path(out)
    with locked(out):
        ledger = open_folder(out, text, resolved.network_names())
        _check_disk(resolved, out)
        with (out / "log.txt").open("a", encoding="utf-8") as log:
            talk = Talk(log, quiet=quiet)
            try:
                return _run(resolved, text, out, ledger, talk, until, begun)
            except KeyboardInterrupt:
                talk.say("interrupted; what is done is kept, and the same command goes on from here")
                return 130
            except BrokenProcessPool:
                raise StoreError(
                    "a worker process was killed from outside (often for lack of memory); what is done is kept: "
                    "run the same command again, perhaps with --workers 1"
                ) from None
            except OSError as error:
                raise StoreError(
                    f"cannot write to {out}: {error.strerror or error}; make room or mend the folder's permissions, "
                    "then run the same command again"
                ) from error
            except FeatattnError as error:
                talk.log(f"stopped: {error}")
                raise
            finally:
                talk.close()


def _run(config: RunConfig, text: str, out: Path, ledger: Ledger, talk: Talk, until: str | None, begun: float) -> int:
    from featattn_neuro.jobs.workers import run_stages

    talk.say(f"{config.name}: loading images and timing a few updates")
    _one_thread()
    stages, seconds = _stages(config, text, out)
    wanted = stages if until is None else [s for s in stages if STEPS.index(s.step) <= STEPS.index(until)]
    wanted = _with_needs(wanted, stages)
    total = sum(seconds[s.id] for s in wanted) / config.workers
    talk.say(
        f"{len(wanted)} stages, {sum(s.fits for s in wanted)} fits, about {max(1, round((total + 20) / 60))} minutes "
        f"with {config.workers} workers; results in {out}"
    )
    done = run_stages(wanted, ledger, text, workers=config.workers, seconds=seconds, report=talk.progress)
    talk.finish()
    if until is not None and until != "report":
        talk.say(f"done up to step {until}: {len(done.done)} stages, {len(done.skipped)} of them unchanged")
        return 0
    _finish(config, out, ledger, talk, wanted)
    talk.say(f"done in {_duration(time.monotonic() - begun)}; open {out / 'report.html'}")
    return 0


def _finish(config: RunConfig, out: Path, ledger: Ledger, talk: Talk, stages: list[Stage]) -> None:
    from featattn_neuro.jobs.summary import summarise
    from featattn_neuro.report.page import verdict_lines
    from featattn_neuro.report.results import read_results

    inputs = [line for stage in stages for line in ledger.output_hashes(stage.id)]
    settings: dict[str, Any] = config.model_dump(mode="json", exclude={"workers"})
    key = stage_key("report", ("learn", "measure", "report"), settings, inputs)
    if ledger.is_done("report", key):
        talk.say("unchanged: report")
        found = read_results(out).claims
        lines = [] if found is None else verdict_lines(found)
    else:
        begun = time.perf_counter()
        talk.say("verdicts over networks")
        files, lines = summarise(config, out, ledger, talk.say)
        ledger.finish("report", key, files, time.perf_counter() - begun)
    for line in lines:
        talk.say(line)


def _with_needs(wanted: list[Stage], stages: list[Stage]) -> list[Stage]:
    names = {s.id for s in wanted}
    by_id = {s.id: s for s in stages}
    todo = list(wanted)
    while todo:
        for need in todo.pop().needs:
            if need not in names:
                names.add(need)
                todo.append(by_id[need])
    return [s for s in stages if s.id in names]


def _one_thread() -> None:
    """Before forking: a process with one thread forks safely, and workers inherit what is loaded."""
    import torch
    from threadpoolctl import threadpool_limits

    import featattn_neuro.jobs.stages  # noqa: F401 - loaded once here, shared by the workers

    torch.set_num_threads(1)
    threadpool_limits(1)


def status(out: Path) -> str:
    """Which stages of a results folder are done, from its records alone."""
    folder = Path(out)
    if not (folder / "config.yaml").is_file():
        raise StoreError(
            f"{folder} is not a results folder (no config.yaml); start one with featattn run CONFIG --out {folder}"
        )
    config = load_config(folder / "config.yaml")
    stages = stages_of(config, dict.fromkeys(config.network_names(), ""))
    ledger = Ledger(folder)
    lines = [f"{config.name} in {folder}"]
    for step in STEPS:
        mine = [s for s in stages if s.step == step]
        have = [s for s in mine if ledger.record(s.id) is not None]
        if mine:
            missing = [s.id for s in mine if s not in have]
            rest = f"; to do: {', '.join(missing[:6])}{' …' if len(missing) > 6 else ''}" if missing else ""
            lines.append(f"  {step:<12} {len(have)} of {len(mine)} stages done{rest}")
    lines.append(
        f"  page         {'written: ' + str(folder / 'report.html') if ledger.record('report') else 'not yet'}"
    )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _write_line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Talk:
    """What a run says: lines in the log; a bar with the time left on a terminal, plain lines where there is none."""

    def __init__(self, log: TextIO, *, quiet: bool) -> None:
        self._log, self._quiet = log, quiet
        self._terminal = sys.stderr.isatty() and not quiet
        self._bar: Any = None
        self._task: Any = None
        self._last_line = 0.0
        self._begun = time.monotonic()

    def log(self, message: str) -> None:
        self._log.write(f"{time.strftime('%H:%M:%S')} {message}\n")
        self._log.flush()

    def say(self, message: str) -> None:
        self.log(message)
        if not self._quiet:
            if self._bar is not None:
                self._bar.console.print(message, highlight=False, markup=False)
            else:
                _write_line(message)

    def progress(self, schedule: Any, message: str) -> None:
        if message:
            self.log(message)
        share = schedule.fraction()
        elapsed = time.monotonic() - self._begun
        left = elapsed * (1 - share) / share if share > 0.01 else None
        going = ", ".join(sorted(name for name in schedule.running if schedule.shares[schedule.running[name]] > 0))
        if self._terminal:
            self._draw(share, left, going)
        elif not self._quiet and time.monotonic() - self._last_line > 20:
            self._last_line = time.monotonic()
            rest = "" if left is None else f", about {_duration(left)} left"
            _write_line(
                f"{share:4.0%} of the work, {len(schedule.done)}/{len(schedule.stages)} stages{rest}; now: {going}"
            )

    def _draw(self, share: float, left: float | None, going: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                BarColumn(30), TextColumn("{task.percentage:>3.0f} %  {task.fields[left]:<16} {task.description}"),
                console=Console(stderr=True), transient=True, auto_refresh=False,
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("", total=1.0, left="")
        text = "" if left is None else f"{_duration(left)} left"
        self._bar.update(self._task, completed=share, description=going[:70], left=text, refresh=True)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def close(self) -> None:
        self.finish()
