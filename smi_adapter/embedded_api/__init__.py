"""A small Kubernetes API over the files of a directory, so that a real kubectl works without a cluster.

`run --source DIR --api` composes it in `local.py`: the directory source fills the `Store`, the HTTP `server` answers
from it, and what a client writes goes back into the files through a `Shelf`; the source then reads it again like any
other edit. So the files stay the only truth, and an edit of either side shows in both. It knows the kinds in `kinds`
and no others, keeps what does not belong into a file (uids, field owners, events) in memory, and never stands in for
the real API server in the controller's tests: those use the real one, and so does the kubectl script of this one.
"""
