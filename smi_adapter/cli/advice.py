"""What to do first about a check that failed, in one line each; docs/check.md has the rest under the same name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "unreachable": "try `kubectl version`; name another cluster with --kubeconfig or --context",
        "api-refuses": "the message is the API server's own: mend what it names, then check again",
        "old-kubernetes": "use Kubernetes 1.30 or later, as the chart asks",
        "missing-rights": "ask whoever administers the cluster to install, or for the rights",
        "crd-missing": "run `smi-adapter crds apply`, or install the chart with crds.install=true",
        "crd-outdated": "see `smi-adapter crds diff`, then run `smi-adapter crds apply`",
        "crd-foreign": "run `smi-adapter crds apply`: it adds what is missing and takes nothing away",
        "conversion-dead": "look at the controller; `smi-adapter uninstall` takes a conversion of ours away",
        "not-installed": "install the chart (docs/install.md), or look whether the context is the one that you mean",
        "not-ready": "look at `kubectl describe` and `kubectl logs` of its pods; /readyz says what it waits for",
        "version-skew": "use this program in the version of the controller",
        "no-leader": "wait 20 s; then look at the controller's log and at its right to write Leases",
        "webhook-untrusted": "wait half a minute; then look for finding SMI0907 in the controller's log",
        "webhook-dead": "look at the webhook's Service, network policies and the controller's log; or check with -n",
        "not-accepted": "`smi-adapter analyze -A` says what and where",
        "not-programmed": "`smi-adapter describe KIND NAME` says what is missing or which proxy lags behind",
        "no-status": "look for a leader above, and whether the controller watches that namespace",
    }
)
