"""Implementations that are not ours, which conversions are verified against."""
