"""Exports of modules to other formats, one file per format; `contract` defines what they share."""
