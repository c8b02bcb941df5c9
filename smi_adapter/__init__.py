"""Service Mesh Interface (SMI) objects in, proxy configuration out.

The package is one pure compiler with input and output at its two ends: a source gives raw objects, `decode`
makes a frozen `Snapshot` of them, `translate` a frozen `Mesh`, a backend renders that, and `delivery` brings
the result to the proxies. `app` composes the stages; read it first.
"""

from typing import Final

__version__: Final = "0.1.0"
