"""Runs: a configuration becomes resumable stages, worker processes, tables and one page."""
