"""The one version of PySyncObj that `standing.py` was written against, checked by content before it is used.

The replica overrides private names; another source may have the same version number (a distribution's patch) and
other private names. So the files that matter are compared byte for byte with what was read and tested.
"""

from __future__ import annotations

import hashlib
from importlib import metadata, resources

from quorumfs.errors import PreconditionFailedError

VERSION = "0.3.17"
DIGESTS = {
    "journal.py": "9cf1eaf6acc704581a4cf7d3de330a404403913107adc91c929778b7e3f35edf",
    "node.py": "e4a3f027cd8291f558334bb9c977e952f6b6989e7e1fa1588d3005ef0b990e2c",
    "syncobj.py": "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4",
    "transport.py": "0c9d89f9c4781ec9772df8011d7975a1a4a1a5f541357e12eae85a813e92b50b",
}


def check() -> None:
    """Raises PreconditionFailedError unless the installed PySyncObj is exactly the one that was tested."""
    found = metadata.version("pysyncobj")
    if found != VERSION:
        raise _refusal(f"version {found} is installed")
    for name, digest in DIGESTS.items():
        content = resources.files("pysyncobj").joinpath(name).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise _refusal(f"its {name} is not the released one")


def _refusal(cause: str) -> PreconditionFailedError:
    return PreconditionFailedError(
        f"PySyncObj must be exactly {VERSION}",
        cause=cause,
        next=f"pip install --force-reinstall pysyncobj=={VERSION}",
    )
