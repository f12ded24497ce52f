"""Run a configuration: stages in worker processes, progress, a log, verdicts at the end."""

from __future__ import annotations

import errno
import hashlib
import shlex
import shutil
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import yaml

from featattn_neuro.errors import ConfigError, FeatattnError, StoreError, choose
from featattn_neuro.io.store import file_sha256, load_kind, write_text_atomic
from featattn_neuro.jobs.config import RunConfig, load_config, parse_config
from featattn_neuro.jobs.graph import STEPS, Stage, stages_of
from featattn_neuro.jobs.ledger import (
    Ledger,
    check_folder,
    check_writable,
    locked,
    nearest_folder,
    open_folder,
    stage_key,
)
from featattn_neuro.jobs.talk import Talk, duration

if TYPE_CHECKING:
    from featattn_neuro.nets.adapters import Network

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
BYTES_PER_NETWORK = 10_000_000
"""Disk that one network takes besides what grows with its filters: weights, splits, pictures."""
BYTES_PER_CELL = 2000
"""Disk per filter and task: rows of the tables, gains of the arms, d' on all of S and on its halves; with a margin."""


def resolve(config: Path, *, full: bool = False, workers: int | None = None) -> tuple[RunConfig, str]:
    """The configuration with command-line changes, and its text; what the worker processes and the folder get."""
    loaded = load_config(config)
    if full:
        every = loaded.statistics.model_copy(update={"refit_layers": ["*"]})
        loaded = loaded.model_copy(update={"statistics": every})
    if workers is not None:
        loaded = loaded.model_copy(update={"workers": workers})
    text = yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False)
    return parse_config(text, str(config)), text


def _content(config: RunConfig, text: str, out: Path) -> tuple[dict[str, str], int]:
    """Network to a hash of what the configuration does not show, and the number of tasks; what is wrong is refused.

    The hash is of the images' ids and labels, of given weights, and of all code that a user's network reaches.
    """
    from featattn_neuro.jobs.context import forget, labels_of, network_job

    forget()
    found = {}
    n_tasks = 0
    for name in config.network_names():
        job = network_job(text, str(out), name)
        images = "\n".join([*job.stimuli.id.tolist(), *labels_of(job.stimuli).tolist()])
        parts = [hashlib.sha256(images.encode()).hexdigest()]
        job.check()
        own = ":" in job.model and not job.model.startswith(("torchvision:", "timm:"))
        built = job.build() if own or job.pretrained is not None else None
        if built is not None and job.pretrained is not None:
            parts.append(built.weights_sha256)
        parts.append(_own_code(job.model, built) if own and built is not None else "")
        found[name] = " ".join(parts)
        n_tasks = len(job.classes)
    return found, n_tasks


def _own_code(model: str, network: Network) -> str:
    """sha256 of a `module:function` network: the file of the function, and what network and preprocessing are made of.

    Where these hold something that cannot be hashed, the files of all modules that are imported from there, but for
    installed ones, stand for them.
    """
    from featattn_neuro.nets.fingerprint import digest, network_digest

    made_by = sys.modules[model.partition(":")[0]]
    source = getattr(made_by, "__file__", None)
    parts = [] if source is None else [file_sha256(source)]
    try:
        parts += [network_digest(network.module), digest(network.preprocess)]
    except ConfigError:
        parts += [file_sha256(path) for path in _imported_files(made_by)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _imported_files(module: ModuleType) -> list[str]:
    """Source files of a module and of what it imports, directly or not, in order of name; none that are installed."""
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found: dict[str, str] = {}
    todo = [module]
    while todo:
        one = todo.pop()
        source = getattr(one, "__file__", None)
        if source is None or one.__name__ in found or any(Path(source).is_relative_to(place) for place in installed):
            continue
        found[one.__name__] = source
        named = [value for value in vars(one).values() if isinstance(value, ModuleType)]
        origins = {str(getattr(value, "__module__", "")) for value in vars(one).values()}
        todo += [*named, *(sys.modules[name] for name in origins if name in sys.modules)]
    return [found[name] for name in sorted(found) if name.partition(".")[0] != "featattn_neuro"]


def expected_costs(
    config: RunConfig, text: str, out: Path, stages: list[Stage], settled: set[str]
) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds of every stage that is to be done (else 0), and filters of the networks that have something to be done.

    From a few timed updates of each network on this machine.
    """
    from featattn_neuro.jobs.probe import Costs, costs_of
    from featattn_neuro.jobs.workers import apart

    costs: dict[str, Costs] = {}
    found = {}
    for stage in stages:
        if stage.id in settled:
            found[stage.id] = 0.0
            continue
        if stage.network not in costs:
            replicas = config.networks.train is not None and costs
            costs[stage.network] = (
                next(iter(costs.values())) if replicas else apart(costs_of, text, str(out), stage.network)
            )
        images = {
            "gain": stage.gain_images,
            "shared": stage.shared_images,
            "full": stage.full_images,
            "any": stage.any_images,
            "norm": stage.norm_images,
        }
        per_image = costs[stage.network].per_image
        found[stage.id] = stage.fixed_seconds + sum(count * per_image[kind] for kind, count in images.items())
    return found, {name: cost.units for name, cost in costs.items()}


@dataclass(frozen=True)
class _Work:
    """The stages of a run, those that are done already, the seconds that each of the others will take, and the disk."""

    stages: list[Stage]
    settled: set[str]
    seconds: dict[str, float]
    disk_bytes: int

    @property
    def pending(self) -> list[Stage]:
        return [stage for stage in self.stages if stage.id not in self.settled]

    def minutes(self, workers: int) -> float:
        """Expected minutes with so many workers, what starts and ends a run included."""
        return (sum(self.seconds.values()) / workers + 20) / 60


def _work(config: RunConfig, text: str, out: Path, until: str | None = None) -> _Work:
    _one_thread()
    content, n_tasks = _content(config, text, out)
    stages = stages_of(config, content, n_tasks)
    if until is not None:
        wanted = [s for s in stages if STEPS.index(s.step) <= STEPS.index(until)]
        stages = _with_needs(wanted, stages)
    settled = Ledger(out).settled(stages)
    seconds, units = expected_costs(config, text, out, stages, settled)
    return _Work(stages, settled, seconds, sum(_bytes(config, count, n_tasks) for count in units.values()))


def plan(
    config: Path,
    out: Path,
    *,
    full: bool = False,
    workers: int | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> str:
    """What a run would do: fits, minutes, disk; in words, before anything is started.

    Raises
    ------
    FeatattnError : what the run itself would refuse; too small a disk only after the plan was given to `say`.
    """
    resolved, text = resolve(Path(config), full=full, workers=workers)
    check_folder(Path(out))
    check_writable(Path(out))
    work = _work(resolved, text, Path(out))
    need, free = work.disk_bytes, _free(Path(out))
    # one stage more: the verdicts and the page
    lines = [f"{resolved.name}: {len(work.stages) + 1} stages, {resolved.workers} workers of one thread"]
    if work.settled:
        lines.append(f"  {len(work.settled)} stages are done already in {out} and not counted below")
    for step in STEPS:
        mine = [s for s in work.pending if s.step == step]
        if mine:
            minutes = sum(work.seconds[s.id] for s in mine) / 60 / resolved.workers
            lines.append(f"  {step:<12} {len(mine):>4} stages {sum(s.fits for s in mine):>7} fits {minutes:>7.1f} min")
    fits, minutes = sum(s.fits for s in work.pending), work.minutes(resolved.workers)
    lines.append(f"  in all       {fits:>19} fits {minutes:>7.1f} min")
    lines.append(f"  disk         {need / 1e6:.0f} MB at most; {free / 1e9:.1f} GB free")
    said = "\n".join(lines)
    say(said)
    _check_disk(need, Path(out))
    return said


def _bytes(config: RunConfig, units: int, n_tasks: int) -> int:
    """Upper bound of what one network writes; its recording holds a mean, and a leverage for every task."""
    recording = units * config.composites["S"] * 4 * (1 + n_tasks)
    return BYTES_PER_NETWORK + recording + units * n_tasks * BYTES_PER_CELL


def _free(out: Path) -> int:
    return shutil.disk_usage(nearest_folder(out)).free


def _check_disk(need: int, out: Path) -> None:
    free = _free(out)
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
    command = shown_command(Path(config), out, full=full)
    with locked(out):
        ledger = open_folder(out, resolved.network_names())
        _check_disk(BYTES_PER_NETWORK * len(resolved.network_names()), out)
        talk = Talk(out / "log.txt", quiet=quiet)
        try:
            return _run(resolved, text, out, ledger, talk, until, begun, command)
        except KeyboardInterrupt:
            talk.say("interrupted; what is done is kept, and the same command goes on from here")
            return 130
        except BrokenProcessPool:
            message = (
                "wanted every worker process to finish; one was killed from outside (often for lack of memory); what "
                "is done is kept: run the same command again, perhaps with --workers 1"
            )
            talk.log(f"stopped: {message}")
            raise StoreError(message) from None
        except FeatattnError as error:
            talk.log(f"stopped: {error}")
            raise
        except Exception as error:
            talk.log(f"stopped: {''.join(traceback.format_exception(error))}")
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise StoreError(
                    f"cannot write to {out}: {error.strerror or error}; make room or mend the folder's permissions, "
                    "then run the same command again"
                ) from error
            raise
        finally:
            talk.close()


def shown_command(config: Path, out: Path, *, full: bool = False) -> str:
    """The command that makes these results, for the page; nothing of this machine's folders is in it.

    >>> shown_command(Path("/home/me/mine.yaml"), Path("results/mine"), full=True)
    'featattn run mine.yaml --out results/mine --full'
    """
    shown = [p.name if p.is_absolute() or ".." in p.parts else str(p) for p in (config, out)]
    return f"featattn run {shlex.quote(shown[0])} --out {shlex.quote(shown[1])}{' --full' if full else ''}"


def _run(
    config: RunConfig, text: str, out: Path, ledger: Ledger, talk: Talk, until: str | None, begun: float, command: str
) -> int:
    from featattn_neuro.jobs.workers import run_stages

    talk.say(f"{config.name}: loading images and timing a few updates")
    work = _work(config, text, out, until)
    _check_disk(work.disk_bytes, out)
    write_text_atomic(out / "config.yaml", text)  # only now: what is wrong was refused before
    talk.say(_outlook(config, work, out))
    talk.start()
    done = run_stages(
        work.stages, ledger, text, workers=config.workers, seconds=work.seconds, settled=work.settled,
        report=talk.progress,
    )  # fmt: skip
    talk.finish()
    if until is not None and until != "report":
        talk.say(f"done up to step {until}: {len(done.done)} stages, {len(done.skipped)} of them unchanged")
        return 0
    _finish(config, out, ledger, talk, work.stages, command)
    talk.say(f"done in {duration(time.monotonic() - begun)}; open {out / 'report.html'}")
    return 0


def _outlook(config: RunConfig, work: _Work, out: Path) -> str:
    """What is ahead, in a sentence."""
    unchanged = f", {len(work.settled)} of them unchanged" if work.settled else ""
    if not work.pending:
        return f"{len(work.stages)} stages{unchanged}; results in {out}"
    minutes = max(1, round(work.minutes(config.workers)))
    return (
        f"{len(work.stages)} stages{unchanged}; {sum(s.fits for s in work.pending)} fits, about {minutes} "
        f"minute{'s' if minutes > 1 else ''} with {config.workers} worker{'s' if config.workers > 1 else ''}; "
        f"results in {out}"
    )


def _finish(config: RunConfig, out: Path, ledger: Ledger, talk: Talk, stages: list[Stage], command: str) -> None:
    from featattn_neuro.jobs.summary import summarise
    from featattn_neuro.report.page import verdict_lines

    key = _report_key(config, ledger, stages, command)
    if ledger.is_done("report", key):
        talk.say("unchanged: report")
        lines = verdict_lines(load_kind(out / "claims.nc", "CLAIMS"))
    else:
        begun = time.perf_counter()
        talk.say("verdicts over networks")
        files, lines = summarise(config, out, ledger, [s.id for s in stages], command=command, say=talk.say)
        noted = {"command": command, "made_from": _made_from(config, ledger, stages)}
        ledger.finish("report", key, files, time.perf_counter() - begun, **noted)
    for line in lines:
        talk.say(line)


def _report_key(config: RunConfig, ledger: Ledger, stages: list[Stage], command: str) -> str:
    """Key of the verdicts and the page, whose needs are all the stages; these are all done."""
    inputs = [line for stage in stages for line in ledger.output_hashes(stage.id)]
    settings: dict[str, Any] = {**config.model_dump(mode="json", exclude={"workers"}), "command": command}
    return stage_key("report", ("learn", "measure", "report"), settings, inputs)


def _made_from(config: RunConfig, ledger: Ledger, stages: list[Stage]) -> str:
    """sha256 of the configuration and of what all stages wrote, empty where one has written nothing; without code."""
    if any(ledger.record(stage.id) is None for stage in stages):
        return ""
    inputs = [line for stage in stages for line in ledger.output_hashes(stage.id)]
    made_from = [config.model_dump_json(exclude={"workers"}), *inputs]
    return hashlib.sha256("\n".join(made_from).encode()).hexdigest()


@dataclass(frozen=True)
class _State:
    """What a results folder holds of the configuration in it: all stages, ids of those that are done, and the page.

    outdated : whether its verdicts were made from other results, or for other settings, than are there now.
    """

    config: RunConfig
    stages: list[Stage]
    settled: set[str]
    page: Literal["current", "earlier", "none"]
    outdated: bool


def _state(folder: Path) -> _State:
    """From the folder's records alone; no image is loaded."""
    config, ledger = load_config(folder / "config.yaml"), Ledger(folder)
    content = {name: ledger.noted(f"network.{name}", "content") for name in config.network_names()}
    stages = stages_of(config, content, n_tasks=0)  # costs are not shown here
    settled = ledger.settled(stages)
    page: Literal["current", "earlier", "none"] = "none"
    if ledger.record("report") is not None and (folder / "report.html").is_file():
        page = "earlier"
        if len(settled) == len(stages):
            key = _report_key(config, ledger, stages, ledger.noted("report", "command"))
            page = "current" if ledger.is_done("report", key) else "earlier"
    known = ledger.noted("report", "made_from")
    return _State(config, stages, settled, page, bool(known) and known != _made_from(config, ledger, stages))


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
    torch.optim.SGD(
        [torch.zeros(1)], lr=1.0
    )  # the first optimiser of a process imports for seconds: once, not per worker


def status(out: Path) -> str:
    """Which stages of a results folder are done for the configuration in it, from its records alone."""
    folder = Path(out)
    if not (folder / "config.yaml").is_file() or not (folder / "run.json").is_file():
        raise StoreError(
            f"wanted a results folder; {folder} has no config.yaml or no run.json; start one with "
            f"featattn run CONFIG --out {folder}"
        )
    check_folder(folder)
    state = _state(folder)
    lines = [f"{state.config.name} in {folder}"]
    for step in STEPS:
        mine = [s for s in state.stages if s.step == step]
        have = [s for s in mine if s.id in state.settled]
        if mine:
            missing = [s.id for s in mine if s not in have]
            rest = f"; to do: {', '.join(missing[:6])}{' …' if len(missing) > 6 else ''}" if missing else ""
            lines.append(f"  {step:<12} {len(have)} of {len(mine)} stages done{rest}")
    page = {
        "current": f"written: {folder / 'report.html'}",
        "earlier": "of an earlier state of this folder; run again",
        "none": "not yet",
    }
    lines.append(f"  page         {page[state.page]}")
    return "\n".join(lines)


def report(out: Path) -> tuple[Path, list[str]]:
    """Write page, figures and tables of a results folder again, and return the page and the verdict lines.

    Verdicts that were made from an earlier state of the folder are left out, and the page says so.

    Raises
    ------
    StoreError : no results folder, one of another version, or one that a run is writing.
    """
    from featattn_neuro.report.page import verdict_lines, write_page_files

    folder = Path(out)
    if not folder.is_dir():
        raise StoreError(f"wanted a folder with results; {str(folder)!r} is none; start one with featattn run CONFIG")
    with locked(folder):
        known = (folder / "config.yaml").is_file() and (folder / "run.json").is_file()
        outdated = known and _state(folder).outdated
        page, *written = write_page_files(folder, outdated=outdated)
        claims = folder / "claims.nc"
        if outdated:
            _remove_earlier(folder, {path.relative_to(folder).as_posix() for path in written})
            return page, [
                "no verdicts: those in this folder are of an earlier state of it; run the command that made it again"
            ]
        return page, verdict_lines(load_kind(claims, "CLAIMS")) if claims.is_file() else []


def _remove_earlier(folder: Path, written: set[str]) -> None:
    """Remove tables and figures that the last report made and this one did not: they are of an earlier state."""
    outputs = (Ledger(folder).record("report") or {"outputs": {}})["outputs"]
    for name in outputs:
        if name.partition("/")[0] in ("tables", "figures") and name not in written:
            (folder / name).unlink(missing_ok=True)
