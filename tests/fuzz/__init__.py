"""Hostile files, killed processes and long runs: `make fuzz`, which writes docs/trust.md."""
