"""Names of streams as names of files: one rule for states and for publications."""

import hashlib
from urllib.parse import quote

LONGEST_NAME = 120
"""Letters of a name; a digest stands in for a stream of more."""


def named_after(stream: str, prefix: str = "") -> str:
    """A name for any stream, without a slash in it; dots stay.

    >>> named_after("north/1", "state-")
    'state-north%2F1'
    """
    name = prefix + quote(stream, safe="")
    return name if len(name) <= LONGEST_NAME else f"{prefix or 'stream-'}{hashlib.sha256(stream.encode()).hexdigest()}"
