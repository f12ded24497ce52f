"""Learning gains and read-outs on a frozen network, for all tasks at once (all weights: `nets.fine_tuning`).

Objective of one task: binary cross-entropy of the detector's logit with the two classes weighted to equal mass, plus
penalty times the mean square of what is trained, measured from its start (log gains from 0, the read-out from the
frozen one). Tasks share the batches and the frozen weights and nothing else: the sum of their losses has independent
gradients, and Adam is elementwise, so T tasks together are T fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from featattn_neuro.errors import ConfigError, DataError, choose
from featattn_neuro.nets.checkpoints import Checkpoints, Keeper
from featattn_neuro.nets.cutting import CutNetwork, SiteFactor
from featattn_neuro.nets.detectors import Detector, as_tensors
from featattn_neuro.nets.expansion import TASKS_TOGETHER, Expanded
from featattn_neuro.nets.modulation import Modulation
from featattn_neuro.nets.parameterisations import LOG, PENALTY_NORMS, Parameterisation, mean_penalty
from featattn_neuro.nets.prefix_cache import begin_update

ROWS_PER_PASS = 240
"""Images times tasks that learn in one pass: fewer pay more per update, more spill the maps out of the cache."""

BYTES_PER_PASS = 40_000_000
"""Size of the first gained maps of one pass above which fewer tasks learn together: the cache is full."""


@dataclass(frozen=True)
class Schedule:
    """How to learn: rate and penalty, batch size, and either epochs or a number of updates; the seed orders batches.

    The penalty multiplies the mean square (`norm` "l2") or absolute value ("l1") of what is trained, from its start.
    """

    rate: float
    penalty: float = 0.0
    batch_size: int = 60
    epochs: int | None = 30
    updates: int | None = None
    seed: int = 0
    norm: str = "l2"

    def __post_init__(self) -> None:
        choose(self.norm, PENALTY_NORMS, "norm of the penalty")
        if not (self.rate > 0 and self.penalty >= 0 and self.batch_size >= 1):
            raise ConfigError(
                f"wanted a rate above 0, a penalty of 0 or more and a batch of 1 or more; came rate {self.rate}, "
                f"penalty {self.penalty}, batch_size {self.batch_size}"
            )
        if (self.epochs is None) == (self.updates is None):
            raise ConfigError(f"wanted epochs or updates, one of them; came {self.epochs} and {self.updates}")
        if (self.epochs or self.updates or 0) < 1:
            given = f"epochs {self.epochs}" if self.updates is None else f"updates {self.updates}"
            raise ConfigError(f"wanted one pass over the images, or one update, or more; came {given}; learn longer")

    def batches(self, n: int) -> Iterator[torch.Tensor]:
        """Positions of each update's images: a fresh permutation per epoch, its incomplete last batch kept."""
        generator = torch.Generator().manual_seed(self.seed)
        size = min(self.batch_size, n)
        left = self.updates if self.updates is not None else -(-n // size) * int(self.epochs or 0)
        while left > 0:
            order = torch.randperm(n, generator=generator)
            for start in range(0, n, size):
                if left == 0:
                    return
                yield order[start : start + size]
                left -= 1


@dataclass
class Trained:
    """Numbers of T tasks while they are learned: of each layer and of the read-out.

    theta : layer to the numbers (T, C), (T, 1) or, shared by all tasks, (1, C) that gains are made of, g = exp(theta)
        unless `parameterisation` says otherwise. weight (T, F), bias (T,), scale (F,) : of the read-out.
    filters : layer to number of filters. shift : layer to what is added, (T, C). spatial : layer to the numbers
        (T, H, W) of the factor per position. combination : of the two factors, see `modulation`.
    origin : layer to the theta (1, C) and shift (1, C) that penalties pull to; gain 1 and shift 0 for other layers.
    """

    theta: dict[str, torch.Tensor]
    weight: torch.Tensor
    bias: torch.Tensor
    scale: torch.Tensor
    filters: Mapping[str, int] = field(default_factory=dict)
    shift: dict[str, torch.Tensor] = field(default_factory=dict)
    spatial: dict[str, torch.Tensor] = field(default_factory=dict)
    parameterisation: Parameterisation = LOG
    combination: str = "multiplicative"
    origin: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def gains(self) -> dict[str, torch.Tensor]:
        """Layer to gains (T, C), without the shift and the factor per position."""
        make = self.parameterisation.gain
        return {k: make(v).expand(len(self.weight), self.filters[k]) for k, v in self.theta.items()}

    def modulations(self) -> Mapping[str, SiteFactor]:
        """Layer to what acts on its maps: gains (T, C), or a `Modulation` where there is more."""
        gains, tasks = self.gains(), len(self.weight)
        if not self.shift and not self.spatial:
            return gains or {k: self.weight.new_ones(tasks, n) for k, n in self.filters.items()}
        shifts = {k: v.expand(tasks, -1) for k, v in self.shift.items()}
        places = {k: v.expand(tasks, -1, -1) for k, v in self.spatial_gains().items()}
        return {
            layer: Modulation(gains.get(layer), shifts.get(layer), places.get(layer), self.combination)
            for layer in self.filters
        }

    def spatial_gains(self) -> dict[str, torch.Tensor]:
        """Layer to factors per position (T, H, W), or (1, H, W) where tasks share them."""
        return {k: self.parameterisation.gain(v) for k, v in self.spatial.items()}

    def modulation_numbers(self) -> list[torch.Tensor]:
        """All learned numbers but the read-out's."""
        return [*self.theta.values(), *self.shift.values(), *self.spatial.values()]

    def trained_numbers(self, *, head: bool) -> int:
        """Numbers learned per task: gains, shifts, factors per position and, with `head`, the read-out's."""
        own = sum(int(np.prod(v.shape[1:])) for v in self.modulation_numbers())
        return own + (self.weight.shape[1] + 1 if head else 0)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """(T, B) from features (T * B, F)."""
        grouped = features.unflatten(0, (self.weight.shape[0], -1)) / self.scale
        return torch.einsum("tbf,tf->tb", grouped, self.weight) + self.bias[:, None]

    def tasks(self, which: slice) -> Trained:
        """A copy that holds some of the tasks; numbers that all tasks share stay whole."""
        tasks = len(self.weight)

        def some(values: torch.Tensor) -> torch.Tensor:
            return (values[which] if len(values) == tasks else values).detach().clone()

        theta, shift, spatial = (
            {layer: some(values) for layer, values in part.items()} for part in (self.theta, self.shift, self.spatial)
        )
        return replace(self, theta=theta, shift=shift, spatial=spatial, weight=some(self.weight), bias=some(self.bias))

    def detector(self) -> Detector:
        weight, bias, scale = (v.detach().cpu().double().numpy() for v in (self.weight, self.bias, self.scale))
        return Detector(weight, bias, scale)


Watch = Callable[[int, Trained], None]


def class_weights(target: torch.Tensor, names: Sequence[str] = ()) -> torch.Tensor:
    """Per-image weights (T, N) that give targets and distractors equal mass, mean 1 over the images of a task.

    `names` of the tasks are for the message of the `DataError` that a task without both classes gives.

    >>> class_weights(torch.tensor([[True, False, False, False]]))
    tensor([[2.0000, 0.6667, 0.6667, 0.6667]])
    """
    n_target = target.sum(dim=1, keepdim=True)
    n_other = target.shape[1] - n_target
    if ((n_target == 0) | (n_other == 0)).any():
        task = int(((n_target == 0) | (n_other == 0)).flatten().nonzero()[0])
        raise DataError(
            f"task {names[task] if names else task} needs targets and distractors; came {int(n_target[task])} targets "
            f"of {target.shape[1]} images; check the labels"
        )
    return torch.where(target, target.shape[1] / (2.0 * n_target), target.shape[1] / (2.0 * n_other))


def start(
    cut: CutNetwork,
    detector: Detector,
    *,
    per_filter: bool = True,
    gain: bool = True,
    shift: bool = False,
    shapes: Mapping[str, tuple[int, int]] | None = None,
    parameterisation: Parameterisation = LOG,
    combination: str = "multiplicative",
    shared: bool = False,
) -> Trained:
    """All gains 1, shifts 0, the read-out at `detector`: the un-gained network.

    Parameters
    ----------
    per_filter : False is one gain per layer (uniform). gain : False leaves the gains per filter and layer out.
    shift : whether a shift per filter is learned. shapes : layer to (H, W) of its maps: a factor per position is
        learned. combination : of the two factors. shared : one set of gains for all tasks.

    Raises
    ------
    ConfigError : a parameterisation that fixes the layer mean, where a layer has one gain only; gains that may be
        negative, factors per position, or shifts without `shifts`, on a network whose sites may lie behind pooling.
    """
    if parameterisation.layer_mean and gain and not per_filter:
        raise ConfigError(
            f"{parameterisation} fixes the mean gain of a layer to 1, so a uniform gain cannot be learned"
        )
    if cut.past_pools and ((shift and not cut.shifts) or shapes or not parameterisation.positive):
        raise ConfigError(
            "gains per position and gains that may be negative do not commute with pooling, nor do shifts with all: "
            "make the network with CutNetwork(..., past_pools=False), or shifts=True for shifts of positive gains"
        )
    weight, bias, scale = as_tensors(detector, cut.device)
    tasks = 1 if shared else len(weight)
    first = parameterisation.start

    def full(*shape: int) -> torch.Tensor:
        return torch.full((tasks, *shape), first, device=cut.device)

    layers = cut.layers
    return Trained(
        {layer: full(cut.n_filters[layer] if per_filter else 1) for layer in layers} if gain else {},
        weight.clone(),
        bias.clone(),
        scale,
        dict(cut.n_filters),
        {layer: torch.zeros(tasks, cut.n_filters[layer], device=cut.device) for layer in layers} if shift else {},
        {layer: full(*shapes[layer]) for layer in layers} if shapes else {},
        parameterisation,
        combination,
    )


def learn(
    cut: CutNetwork,
    rows: Sequence[torch.Tensor],
    target: np.ndarray,
    state: Trained,
    schedule: Schedule,
    *,
    train_gains: bool,
    train_head: bool,
    chosen: np.ndarray | None = None,
    watch: Watch | None = None,
    names: Sequence[str] = (),
    image_weights: torch.Tensor | None = None,
    keeper: Keeper | None = None,
    expanded: Expanded | None = None,
) -> Trained:
    """Learn gains, the read-out, or both, for all tasks at once; `state` is updated and returned.

    Parameters
    ----------
    train_gains : whether what the state holds per layer is learned: gains, shifts, factors per position.
    rows : `cut.prefix(images)`, N rows each. target : (T, N) bool.
    chosen : (T, M) positions of each task's own images; all images for every task if None.
    watch : called with (updates done, state) before the first and after every update.
    names : of the tasks, for messages; their positions if empty.
    image_weights : (T, N) weights of the images in each task's loss; None = both classes have the same mass.
    keeper : writes checkpoints, and takes learning up again from the last one, bit for bit.
    expanded : of `rows`, where all tasks learn gains from all images: see `nets.expansion`.

    Raises
    ------
    DataError : a task without both classes, or a loss that is not finite (task and update are named).
    """
    labels = torch.as_tensor(np.asarray(target, dtype=bool), device=cut.device)
    tasks = labels.shape[0]
    mine = None if chosen is None else torch.as_tensor(np.asarray(chosen), device=cut.device)
    weights = class_weights(labels if mine is None else labels.gather(1, mine), names)
    if image_weights is not None:
        weights = image_weights.to(weights) if mine is None else image_weights.to(weights).gather(1, mine)
    gain_parameters = state.modulation_numbers() if train_gains else []
    head_parameters = [state.weight, state.bias] if train_head else []
    origin = (state.weight.clone(), state.bias.clone())
    for parameter in gain_parameters + head_parameters:
        parameter.requires_grad_(True)
    optimiser = fused_adam(gain_parameters + head_parameters, schedule.rate)
    fixed = None if train_gains else _all_features(cut, rows, state)
    done = update = 0
    if keeper is not None:
        done = keeper.restore(gain_parameters + head_parameters, optimiser)
    if watch is not None:
        watch(0, state)
    for update, batch in enumerate(schedule.batches(labels.shape[1] if mine is None else mine.shape[1]), start=1):
        if update <= done:
            continue
        begin_update(rows, update)
        optimiser.zero_grad(set_to_none=True)
        loss = torch.zeros(tasks, device=cut.device)
        # maps of all tasks at once would not fit the cache; without terms to share, tasks come in blocks instead
        passes = 1 if expanded is None else -(-len(batch) * tasks // ROWS_PER_PASS)
        for number, part in enumerate(batch.chunk(passes)):
            images = part.to(cut.device).expand(tasks, -1) if mine is None else mine[:, part.to(cut.device)]
            if expanded is not None:
                features = expanded.features(part, state.modulations())
            elif fixed is None:
                flat = images.flatten()
                features = cut.features([row[flat] for row in rows], state.modulations())
            else:
                features = fixed[torch.arange(tasks, device=cut.device)[:, None], images].flatten(0, 1)
            share = binary_cross_entropy_with_logits(
                state.logits(features), labels.gather(1, images).float(), weights[:, part], reduction="none"
            ).sum(dim=1) / len(batch)  # fmt: skip
            if number == 0:
                share = share + schedule.penalty * _distance(state, origin, train_gains, train_head, schedule.norm)
            share.sum().backward()
            loss += share.detach()
        if not torch.isfinite(loss).all():
            task = int((~torch.isfinite(loss)).nonzero()[0])
            raise DataError(
                f"the loss of task {names[task] if names else task} is not finite at update {update}; "
                f"lower the rate ({schedule.rate})"
            )
        optimiser.step()
        if train_gains:
            for numbers in (*state.theta.values(), *state.spatial.values()):
                state.parameterisation.project_(numbers)
        if watch is not None:
            watch(update, state)
        if keeper is not None:
            keeper.note(update, gain_parameters + head_parameters, optimiser)
    if keeper is not None and update > done:
        keeper.note(update, gain_parameters + head_parameters, optimiser, last=True)
    begin_update(rows, 0)
    for parameter in gain_parameters + head_parameters:
        parameter.requires_grad_(False)
    return state


def fused_adam(parameters: list[torch.Tensor], rate: float) -> torch.optim.Adam:
    """Adam in one pass over the numbers where torch has it: small networks spend a tenth of an update in the other."""
    return torch.optim.Adam(parameters, lr=rate, fused=parameters[0].device.type in ("cpu", "cuda"))


def _distance(
    state: Trained, origin: tuple[torch.Tensor, torch.Tensor], gains: bool, head: bool, norm: str
) -> torch.Tensor | float:
    """Mean square (or absolute value) of what is learned, from gain 1, shift 0 (or `origin`) and the old read-out."""
    total: torch.Tensor | float = 0.0
    if gains:
        deviation, home = state.parameterisation.deviation, state.origin
        made = [v - home[k][0] if k in home else deviation(v) for k, v in state.theta.items()]
        made += [deviation(v) for v in state.spatial.values()]
        made += [v - home[k][1] if k in home else v for k, v in state.shift.items()]
        total = total + mean_penalty(made, norm)
    if head:
        total = total + mean_penalty([state.weight - origin[0]], norm)
    return total


def features_of(cut: CutNetwork, rows: Sequence[torch.Tensor], state: Trained) -> np.ndarray:
    """Inputs of the head (T, N, F) of all rows under what the state holds, float64."""
    return _all_features(cut, rows, state).double().cpu().numpy()


def _all_features(cut: CutNetwork, rows: Sequence[torch.Tensor], state: Trained, chunk: int = 60) -> torch.Tensor:
    """Features (T, N, F) of all rows under the current gains, without gradients."""
    tasks, n = state.weight.shape[0], len(rows[0])
    parts = []
    with torch.no_grad():
        gains = state.modulations()
        for begin in range(0, n, chunk):
            block = [row[begin : begin + chunk] for row in rows]
            repeated = [row.repeat(tasks, *[1] * (row.ndim - 1)) for row in block]
            parts.append(cut.features(repeated, gains).unflatten(0, (tasks, -1)))
    return torch.cat(parts, dim=1)


def logits(cut: CutNetwork, rows: Sequence[torch.Tensor], state: Trained) -> np.ndarray:
    """(T, N) logits of all rows under the current gains and read-out, float64."""
    with torch.no_grad():
        features = _all_features(cut, rows, state)
        return state.logits(features.flatten(0, 1)).double().cpu().numpy()


@dataclass(frozen=True)
class Fit:
    """What `fit_tasks` gives: the learned numbers, and (len(at), T, P) logits of the evaluation rows."""

    state: Trained
    logits: np.ndarray


def fit_tasks(
    cut: CutNetwork,
    rows: Sequence[torch.Tensor],
    target: np.ndarray,
    initial: Trained,
    schedule: Schedule,
    *,
    train_gains: bool,
    train_head: bool,
    evaluate: Sequence[torch.Tensor] = (),
    at: Sequence[int] = (),
    chosen: np.ndarray | None = None,
    block: int | None = None,
    names: Sequence[str] = (),
    image_weights: torch.Tensor | None = None,
    checkpoints: Checkpoints | None = None,
) -> Fit:
    """`learn` for blocks of tasks whose maps fit the cache together, with logits of `evaluate` after updates `at`.

    Parameters
    ----------
    initial : where learning starts; it is copied. at : update counts (0 = before learning); the end if empty.
    block : tasks that share one pass (None: as many as fill `ROWS_PER_PASS` and not
        `BYTES_PER_PASS`; `TASKS_TOGETHER` where the first convolution is expanded; all tasks where no gains are
        learned, since features are then computed once); results agree between block sizes to float32 rounding.
    names : of the tasks, for messages; their positions if empty.
    image_weights : as in `learn`. checkpoints : where each block writes how far it is; not together with `at`.
    """
    if checkpoints is not None and at:
        raise ConfigError("a checkpoint does not keep logits on the way: leave out at=, or checkpoints=")
    states, found = [], []
    names = list(names) or [str(task) for task in range(len(target))]
    if _shares_numbers(initial):
        block = len(target)  # what tasks share is learned from all of them
    expanded = None
    if train_gains and chosen is None:
        expanded = _expanded(cut, rows, initial, min(len(target), block or TASKS_TOGETHER))
    if block is None and expanded is not None:
        block = TASKS_TOGETHER
    if block is None:
        images = min(schedule.batch_size, np.shape(target if chosen is None else chosen)[1])
        largest = max(4, *(4 * int(np.prod(row.shape[1:])) for row in rows))
        most = min(ROWS_PER_PASS, BYTES_PER_PASS // largest)
        block = max(1, most // images) if train_gains else len(target)
    for begin in range(0, len(target), block):
        state = initial.tasks(slice(begin, begin + block))
        seen: dict[int, np.ndarray] = {}

        def watch(update: int, now: Trained, seen: dict[int, np.ndarray] = seen) -> None:
            if update in at:
                seen[update] = logits(cut, evaluate, now)

        learn(
            cut,
            rows,
            np.asarray(target)[begin : begin + block],
            state,
            schedule,
            train_gains=train_gains,
            train_head=train_head,
            chosen=None if chosen is None else chosen[begin : begin + block],
            watch=watch if at else None,
            names=names[begin : begin + block],
            image_weights=None if image_weights is None else image_weights[begin : begin + block],
            keeper=None if checkpoints is None else checkpoints.keeper(f"tasks_{begin:04d}"),
            expanded=expanded,
        )
        missing = [step for step in at if step not in seen]
        if missing:
            raise ConfigError(f"wanted logits after {missing[0]} updates, but the schedule ends before; learn longer")
        states.append(state)
        if evaluate:
            found.append(np.stack([seen[step] for step in at]) if at else logits(cut, evaluate, state)[None])
    joined = replace(
        initial,
        theta={layer: torch.cat([s.theta[layer] for s in states]) for layer in initial.theta},
        shift={layer: torch.cat([s.shift[layer] for s in states]) for layer in initial.shift},
        spatial={layer: torch.cat([s.spatial[layer] for s in states]) for layer in initial.spatial},
        weight=torch.cat([s.weight for s in states]),
        bias=torch.cat([s.bias for s in states]),
    )
    return Fit(joined, np.concatenate(found, axis=1) if found else np.empty((0, len(target), 0)))


def _expanded(cut: CutNetwork, rows: Sequence[torch.Tensor], initial: Trained, tasks: int) -> Expanded | None:
    """Terms of the first convolution, where no gain per position acts, and where it pays."""
    if cut.first is None or initial.spatial or not (initial.theta or initial.shift):
        return None
    groups = initial.theta[cut.first.layer].shape[1] if initial.theta else 1
    return cut.first.expand(rows, cut.layers, tasks, groups, shifts=bool(initial.shift))


def permute_gains(state: Trained, rng: np.random.Generator) -> Trained:
    """A copy with each task's gains shuffled among the filters of their layer; all else is kept."""
    shuffled = {}
    for layer, theta in state.theta.items():
        order = np.stack([rng.permutation(theta.shape[1]) for _ in range(len(theta))])
        shuffled[layer] = theta.detach().gather(1, torch.as_tensor(order, device=theta.device))
    return replace(state, theta=shuffled, weight=state.weight.detach().clone(), bias=state.bias.detach().clone())


def _shares_numbers(state: Trained) -> bool:
    return any(len(values) != len(state.weight) for values in state.modulation_numbers())
