"""The only place that touches files: stimuli, the data manifest, recorded neurons, and Datasets on disk."""

from __future__ import annotations
