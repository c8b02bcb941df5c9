"""The delta ADS server: XdsConfigs in, Envoys that have acknowledged them out.

`AdsServer` (server.py) speaks gRPC; `door.py` says who may come in; `stream.py` decides what each proxy gets and when;
`catalogue.py` knows what is in force and who may see it; `chunks.py` makes the bytes; `status.py` says how it went.
Nothing here knows a backend.
"""

from smi_adapter.delivery.xds.credentials import ServerTls
from smi_adapter.delivery.xds.door import CertificateDoor, TokenDoor
from smi_adapter.delivery.xds.server import AdsServer, Limits
from smi_adapter.delivery.xds.status import ProxyStatus, TypeStatus
from smi_adapter.delivery.xds.stream import Answer, Pace

__all__ = [
    "AdsServer",
    "Answer",
    "CertificateDoor",
    "Limits",
    "Pace",
    "ProxyStatus",
    "ServerTls",
    "TokenDoor",
    "TypeStatus",
]
