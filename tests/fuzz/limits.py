"""The limits that every case is read within."""

MEMORY = 2 << 30
"""Bytes of addresses above what the process used before."""

SECONDS = 20
"""Of CPU time, of all threads."""

WALL_SECONDS = 300
"""Of any kind, for a case that waits."""
