"""Exports of modules to other formats, one file a format; `contract` says what they share."""
