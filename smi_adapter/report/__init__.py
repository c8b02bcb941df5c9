"""Report: what to tell a user about each SMI object, in its status and in Events. No I/O; the clock is an argument.

`Reporter` (reporter.py) knows the objects as they lie in the API and what each one's last change led to;
`standing.py` and `programmed.py` say which proxies that concerns and whether they have acknowledged it;
`conditions.py` turns that and the findings into conditions; `events.py` decides which Events are worth sending.
`cluster/status.py` and `cluster/events.py` carry the answers out, `embedded_api/` shows them without a cluster.

The shape of a status (both lists are list-maps, so that adapters with different backends can share an object):

    status:
      observedGeneration: 3
      conditions: [...]                  # by type: what holds for all backends
      backends:                          # by name: what one backend makes of the object
      - name: envoy
        conditions: [...]                # Programmed and PartiallyTranslated
"""

from smi_adapter.report.conditions import Condition, ObjectStatus, timed
from smi_adapter.report.events import EventBook, Notice
from smi_adapter.report.grouping import Tables
from smi_adapter.report.reporter import SMI_GROUPS, Report, Reporter, Subject, subject_of
from smi_adapter.report.standing import Tally

__all__ = [
    "SMI_GROUPS",
    "Condition",
    "EventBook",
    "Notice",
    "ObjectStatus",
    "Report",
    "Reporter",
    "Subject",
    "Tables",
    "Tally",
    "subject_of",
    "timed",
]
