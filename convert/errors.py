"""The converter's error."""


class ConvertError(Exception):
    """A conversion cannot go on; the message is one line: what is wrong, where, and what to do."""
