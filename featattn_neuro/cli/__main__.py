"""`python -m featattn_neuro.cli` is the command `featattn`."""

from __future__ import annotations

from featattn_neuro.cli import main

if __name__ == "__main__":
    main()
