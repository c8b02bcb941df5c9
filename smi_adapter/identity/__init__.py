"""Identity: keys in, certificates out. It knows no Kubernetes and no proxy, and the clock is an argument."""

from smi_adapter.identity.ca import Authority, KeyPair
from smi_adapter.identity.callers import Caller, Reason, Refused
from smi_adapter.identity.issuer import Issuer

__all__ = ["Authority", "Caller", "Issuer", "KeyPair", "Reason", "Refused"]
