"""Peak memory of a stored recording does not grow with the number of stimuli."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import numpy as np, torch
from torch import nn
from torch.utils.data import Dataset
import featattn_neuro as fn

class Drawn(Dataset):
    def __len__(self):
        return int(sys.argv[1])
    def __getitem__(self, i):
        return torch.from_numpy(np.random.default_rng(i).random((3, 16, 16), np.float32))

torch.set_num_threads(1)
net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(inplace=True))
found = fn.record(net, Drawn(), "0", reduce="none", out=sys.argv[2])
assert found.response.nbytes == int(sys.argv[1]) * 32 * 256 * 4
# VmHWM, not ru_maxrss: that one begins with the peak of the process that started this one
status = open("/proc/self/status").read().splitlines()
print(int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024)
"""


@pytest.mark.slow
def test_peak_memory_is_flat(tmp_path):
    def peak(count):
        command = [sys.executable, "-c", SCRIPT, str(count), str(tmp_path / f"{count}.zarr")]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    few, many = peak(1000), peak(6000)  # 33 MB and 197 MB of values
    assert many - few < 50, (few, many)
