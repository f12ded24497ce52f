"""Placing gains: one factor per filter on a layer's output, for the length of a `with`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from featattn_neuro.errors import DataError, choose
from featattn_neuro.nets.hooks import channel_axis, hooked
from featattn_neuro.schema import GAINS

if TYPE_CHECKING:
    import xarray as xr


def one_gain_set(gains: xr.Dataset, task: str | None = None) -> xr.DataArray:
    """The `gain(unit)` of one task of a GAINS Dataset; a clear error where the task is missing or must be named."""
    gain = GAINS.check(gains)["gain"]
    if "task" in gain.dims:
        names = [str(name) for name in gain["task"].values]
        if task is None and len(names) > 1:
            raise DataError(f"these gains hold {len(names)} tasks ({', '.join(names)}); say which with task=")
        gain = gain.sel(task=choose(task if task is not None else names[0], names, "task"), drop=True)
    elif task is not None and "task" not in gains.coords:
        raise DataError(f"wanted gains of task {task!r}; these gains are of one task without a name; leave out task=")
    elif task is not None and str(gains.coords["task"].item()) != task:
        raise DataError(f"wanted gains of task {task!r}; came gains of {gains.coords['task'].item()!r}; name that task")
    extra = [str(dim) for dim in gain.dims if dim != "unit"]
    if extra:
        raise DataError(f"wanted one gain per unit; came dimensions {gain.dims}; select along {extra} first")
    return gain


def gains_by_layer(gains: xr.Dataset, task: str | None = None) -> dict[str, np.ndarray]:
    """Layer name to gains ordered by channel. `DataError` for a gap in the channels or a gain that is not finite."""
    gain = one_gain_set(gains, task)
    layers = gain["layer"].values.astype(str)
    out = {}
    for layer in dict.fromkeys(layers):
        mine = layers == layer
        channel, value = gain["channel"].values[mine], np.asarray(gain.values[mine], dtype=np.float64)
        order = np.argsort(channel)
        if not (channel[order] == np.arange(len(channel))).all():
            raise DataError(f"gains of layer {layer!r} must name each channel once, 0 to n - 1; came {sorted(channel)}")
        if not np.isfinite(value).all():
            raise DataError(
                f"gains of layer {layer!r} must be finite; channel {channel[~np.isfinite(value)][0]} is not"
            )
        out[str(layer)] = value[order]
    return out


def _scaling_hook(layer: str, gain: np.ndarray) -> Callable[[nn.Module, tuple[Any, ...], Any], torch.Tensor]:
    def scale(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> torch.Tensor:
        axis = channel_axis(output, layer)
        if output.shape[axis] != len(gain):
            raise DataError(
                f"layer {layer!r} has {output.shape[axis]} filters; came {len(gain)} gains; "
                "these gains were learned on another network"
            )
        factor = torch.as_tensor(gain, dtype=output.dtype, device=output.device)
        return output * factor.view(1, -1, *[1] * (output.ndim - 2))

    return scale


@contextmanager
def with_gains(module: nn.Module, gains: xr.Dataset, *, task: str | None = None) -> Iterator[nn.Module]:
    """Multiply each gained layer's output by its gains inside the `with`; give the network back on the way out.

    Parameters
    ----------
    gains : GAINS, `gain(unit)` with coordinates layer and channel; with several tasks, `task` names one.

    Definition: y[n, k, ...] -> g[k] y[n, k, ...] at the output of the named module (after the nonlinearity where the
    module is one). All g = 1 leaves the outputs bit-identical; g = 0 silences a filter until the `with` ends.

    Raises
    ------
    DataError : another number of filters, a gain that is not finite, no or an unknown task.
    ConfigError : a layer that the network does not have.
    """
    per_layer = gains_by_layer(gains, task)
    with hooked(module, {layer: _scaling_hook(layer, gain) for layer, gain in per_layer.items()}):
        yield module
