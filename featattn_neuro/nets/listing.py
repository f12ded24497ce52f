"""The layers of a network, as they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from featattn_neuro.errors import DataError
from featattn_neuro.nets.channels import ChannelRule, without_filters
from featattn_neuro.nets.layers import run_blank, stage_of


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a network as it ran.

    Parameters
    ----------
    name : dotted module name.
    type : class of the module.
    stage : "conv", "norm", "activation", "pool", "linear", "block" (has layers inside) or "other".
    output_shape : of the first call's output, without the batch dimension; () if it is no tensor.
    filters : number of channels of the output, by the rule of recording (`ChannelRule`); 0 if it has none (no tensor,
        or of other dimensions than maps, sequences and vectors); None where recording would ask for `channel_axis`.
    calls : how often the module ran in one pass.
    """

    name: str
    type: str
    stage: str
    output_shape: tuple[int, ...]
    filters: int | None
    calls: int


def run_layers(module: nn.Module, input_shape: Sequence[int] | None = None) -> list[LayerInfo]:
    """Return the layers of `module` in the order of their first output in one pass on a blank image.

    A layer comes before the block it is in. Layers that do not run are left out. Hooks are removed and modes restored
    afterwards, also when the network raises.

    Parameters
    ----------
    input_shape : (C, H, W); None: the usual ones are tried (224, 32, 28, 96 pixels; 3 channels, 1).

    Raises
    ------
    ConfigError : the network does not take the shape, or none of the usual ones.
    """
    names = {id(part): name for name, part in module.named_modules() if name}
    rule = ChannelRule(module)
    watched = rule.watched()
    outputs: dict[str, Any] = {}
    calls: Counter[str] = Counter()

    def note(part: nn.Module, _inputs: Any, output: Any) -> None:
        name = names[id(part)]
        if name in watched:
            rule.watch(name, output)
        calls[name] += 1
        if name not in outputs:  # without its numbers: every map of a network at once is much
            outputs[name] = output.to("meta", copy=True) if isinstance(output, Tensor) else None

    def begin() -> None:
        outputs.clear()
        calls.clear()

    handles = []
    try:
        handles += [part.register_forward_hook(note) for name, part in module.named_modules() if name]
        run_blank(module, input_shape, before=begin)
    finally:
        for handle in handles:
            handle.remove()
    parts = dict(module.named_modules())
    return [
        LayerInfo(
            name, type(parts[name]).__name__, stage_of(parts[name]), () if output is None else tuple(output.shape[1:]),
            _filters(rule, name, output), calls[name],
        )
        for name, output in outputs.items()
    ]  # fmt: skip


def _filters(rule: ChannelRule, name: str, output: Tensor | None) -> int | None:
    if without_filters(output) is not None:
        return 0
    assert output is not None
    try:
        return int(output.shape[rule.axis(name, output)])
    except DataError:
        return None
