"""Coordinates that several kinds share: those of units, of stimuli, of positions."""

from __future__ import annotations

from featattn_neuro.schema.base import Variable


def text(*dims: str, meaning: str, required: bool = False) -> Variable:
    """A variable or coordinate of text."""
    return Variable(dims, "text", meaning, required)


def integer(*dims: str, meaning: str, required: bool = False) -> Variable:
    """A variable or coordinate of whole numbers."""
    return Variable(dims, "int", meaning, required)


UNIT = {
    "unit": text("unit", meaning="id of the unit", required=True),
    "layer": text("unit", meaning="dotted module name of the layer", required=True),
    "channel": integer("unit", meaning="index of the filter in its layer", required=True),
    "call": integer("unit", meaning="which call of a module that runs more than once"),
    "stage": text("unit", meaning="conv, norm, activation, pool, linear or other"),
}
PLACE = {
    "y": integer("unit", meaning="row of the position in the layer's map, downwards, or token; -1 = no positions"),
    "x": integer("unit", meaning="column of the position in the layer's map, rightwards; -1 = no positions"),
    "node": text("unit", meaning="name of the operation in the network's torch.fx graph"),
}
STIMULUS = {
    "stimulus": text("stimulus", meaning="content id of the stimulus", required=True),
    "label": Variable(("stimulus",), "text", "class of the stimulus", False),
    "split": text("stimulus", meaning="R, G, V, S or P (see io.stimuli)"),
    "constituents": text("stimulus", meaning="ids of the sources of a composite, joined by '|'; itself otherwise"),
    "path": text("stimulus", meaning="file name relative to the stimulus folder"),
}
PARAMETERS = {
    "orientation": Variable(
        ("stimulus",), "float", "of a grating's bars, degrees anticlockwise from horizontal", False
    ),
    "spatial_frequency": Variable(("stimulus",), "float", "of a grating, cycles per image", False),
    "phase": Variable(("stimulus",), "float", "of a grating, degrees; 0 = a crest on the centre", False),
    "contrast": Variable(("stimulus",), "float", "of a grating, in the measure that was asked for", False),
    "rms_contrast": Variable(("stimulus",), "float", "SD over pixels / mean luminance", False),
    "colour": text("stimulus", meaning="direction in RGB along which a grating departs from mean grey"),
    "quadrants": text("stimulus", meaning="what lies where in a 2 × 2 array"),
}
