"""What a declared kind of Dataset is: its variables and coordinates, and `check`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from featattn_neuro.errors import SchemaError

if TYPE_CHECKING:
    import xarray as xr

SCHEMA_VERSION = 1

STATUS = ("ok", "dead", "constant", "too_few", "single_class", "nonfinite", "incomplete")
"""Closed list of reasons: why a value is defined ("ok") or NaN (the rest).

"incomplete" (path-integrated saliency only): the value is there, but does not add up to the change of the logit.
"""

CONSTITUENT_SEPARATOR = "|"
"""Joins the source ids of a composite in the text coordinate `constituents`."""

UNREADABLE = "unreadable item"
"""Begins the id of a stimulus that cannot be read: it has no content to make one of, and is left out of recordings."""

_DTYPES = {"float": "f", "int": "iu", "text": "UOT", "flag": "b"}
_PLAIN_DTYPES = "fiubUOT"


@dataclass(frozen=True)
class Variable:
    """One variable or coordinate of a kind.

    Parameters
    ----------
    dims : dimensions that must be there, in this order after any `extra` ones.
    dtype : "float", "int", "text" or "flag".
    meaning : definition and units, one line.
    required : whether a Dataset of the kind must have it.
    extra : further dimensions that it may have, in front.
    low, high : closed range of finite values, or None.
    """

    dims: tuple[str, ...]
    dtype: str
    meaning: str
    required: bool = True
    extra: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Kind:
    """A declared kind of Dataset: its variables and coordinates, and `check`."""

    name: str
    meaning: str
    variables: Mapping[str, Variable]
    coordinates: Mapping[str, Variable] = field(default_factory=dict)

    def check(self, dataset: xr.Dataset) -> xr.Dataset:
        """Return `dataset` with each declared variable's dimensions in the declared order; raise `SchemaError` if not.

        The Dataset that is given is not altered. Variables that the kind does not declare are refused, so that a
        misspelt name cannot pass as an optional one; so are coordinates, but for metadata of stimuli (see `carries`).
        """
        import xarray as xr

        if not isinstance(dataset, xr.Dataset):
            raise SchemaError(
                f"wanted an xarray Dataset of kind {self.name}; came {type(dataset).__name__}; "
                "pass what the package's functions return, or open a file with open_kind(path)"
            )
        came = dataset.attrs.get("kind", self.name)
        if came != self.name:
            raise SchemaError(f"wanted a Dataset of kind {self.name}; came kind {came}; pass the {self.name} Dataset")
        self._check_attributes(dataset)
        self._check_indexes(dataset)
        ordered = {}
        for section, table, present in (
            ("variable", self.variables, dataset.data_vars),
            ("coordinate", self.coordinates, dataset.coords),
        ):
            for name in present:
                if name in table:
                    continue
                if not (section == "coordinate" and (name in dataset.dims or self.carries(dataset.variables[name]))):
                    raise SchemaError(
                        f"kind {self.name} has no {section} {name!r}; it has: {', '.join(table)}; rename or drop it"
                    )
            for name, spec in table.items():
                if name in present:
                    order = self._check_variable(section, name, spec, dataset.variables[name])
                    if section == "variable" and list(dataset.variables[name].dims) != order:
                        ordered[name] = dataset[name].transpose(*order)
                elif spec.required:
                    raise SchemaError(
                        f"kind {self.name} needs the {section} {name!r} ({spec.meaning}); came "
                        f"{sorted(map(str, present))}; add it"
                    )
        if ordered:  # putting variables in again takes longer than all the rest
            dataset = dataset.assign(ordered)
        return dataset.assign_attrs(kind=self.name, schema_version=SCHEMA_VERSION)

    def carries(self, coordinate: xr.DataArray | xr.Variable) -> bool:
        """Whether a coordinate that is not declared may come along: what a laboratory knows of its stimuli.

        True for text, numbers and flags along `stimulus` alone, in kinds whose rows are stimuli.
        """
        rows = self.coordinates.get("stimulus")
        are_stimuli = rows is not None and rows.dims == ("stimulus",)
        return are_stimuli and coordinate.dims == ("stimulus",) and coordinate.dtype.kind in _PLAIN_DTYPES

    def _check_attributes(self, dataset: xr.Dataset) -> None:
        for owner, attrs in [("dataset", dataset.attrs), *((str(n), v.attrs) for n, v in dataset.variables.items())]:
            for key, value in attrs.items():
                if isinstance(value, bool) or not isinstance(value, str | int | float):
                    raise SchemaError(
                        f"attribute {key!r} of {owner} must be text or a number; came {type(value).__name__}; "
                        "make it a variable or a coordinate"
                    )

    def _check_indexes(self, dataset: xr.Dataset) -> None:
        for name, index in dataset.indexes.items():
            if index.nlevels > 1:
                raise SchemaError(f"kind {self.name} takes no MultiIndex; {name!r} is one; call reset_index({name!r})")
            if not index.is_unique:
                twice = index[index.duplicated()][0]
                raise SchemaError(f"ids along {name!r} must be unique; {twice!r} came more than once; drop the copies")

    def _check_variable(self, section: str, name: str, spec: Variable, array: xr.Variable) -> list[str]:
        dims = [str(d) for d in array.dims]
        if section == "coordinate" and not dims and spec.dims == (name,):
            dims = [name]  # what selecting one label of a dimension leaves behind
        missing = [d for d in spec.dims if d not in dims]
        unknown = [d for d in dims if d not in spec.dims and d not in spec.extra]
        if missing or unknown:
            allowed = f"({', '.join(spec.dims)})" + (f" and perhaps ({', '.join(spec.extra)})" if spec.extra else "")
            raise SchemaError(
                f"{section} {name!r} of kind {self.name} has dimensions {allowed}; came ({', '.join(dims)}); "
                "transpose, select or rename"
            )
        if array.dtype.kind not in _DTYPES[spec.dtype]:
            raise SchemaError(f"{section} {name!r} of kind {self.name} is {spec.dtype}; came {array.dtype}; convert it")
        # lazily opened recordings can be larger than memory: their values are checked where they are computed
        if (spec.low is not None or spec.high is not None) and array.chunks is None and array.size:
            low, high = float(array.min()), float(array.max())
            if (spec.low is not None and low < spec.low) or (spec.high is not None and high > spec.high):
                raise SchemaError(
                    f"{section} {name!r} of kind {self.name} lies in [{spec.low}, {spec.high}]; came [{low}, {high}]"
                )
        return [d for d in dims if d not in spec.dims] + list(spec.dims)
