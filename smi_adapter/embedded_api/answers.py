"""What a client is told when it does not get what it asked for: the `Status` objects of Kubernetes.

kubectl decides by `code` and `reason` and prints `message`; `details.causes` name each bad field. The structure is
that of the real API server, the words are ours where its clients do not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from smi_adapter.embedded_api.kinds import Kind


class RefusedError(Exception):
    """A request is answered with a `Status` instead of an object."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details or {}

    def status(self) -> dict[str, Any]:
        """Return the body of the answer."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            **({"details": self.details} if self.details else {}),
            "code": self.code,
        }


def _details(kind: Kind, name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "group": kind.group, "kind": kind.plural, **more}


def not_found(kind: Kind, name: str) -> RefusedError:
    """Say that there is no such object."""
    return RefusedError(404, "NotFound", f'{kind.resource} "{name}" not found', _details(kind, name))


def no_such_path() -> RefusedError:
    """Say that there is no such resource; kubectl knows these words."""
    return RefusedError(404, "NotFound", "the server could not find the requested resource")


def exists(kind: Kind, name: str) -> RefusedError:
    """Say that there is such an object already."""
    return RefusedError(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', _details(kind, name))


def modified(kind: Kind, name: str) -> RefusedError:
    """Say that the client's copy is not the newest one."""
    message = (
        f'Operation cannot be fulfilled on {kind.resource} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return RefusedError(409, "Conflict", message, _details(kind, name))


def conflicts(found: Iterable[tuple[str, str]]) -> RefusedError:
    """Say that fields which an apply sets belong to other managers; pairs are (how that one is called, field)."""
    pairs = sorted(found)
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": field}
        for manager, field in pairs
    ]
    if len(pairs) == 1:
        message = f"Apply failed with 1 conflict: conflict with {pairs[0][0]}: {pairs[0][1]}"
    else:
        lines = []
        for manager in sorted({manager for manager, _ in pairs}):
            lines += [f"conflicts with {manager}:", *(f"- {field}" for one, field in pairs if one == manager)]
        message = f"Apply failed with {len(pairs)} conflicts: " + "\n".join(lines)
    return RefusedError(409, "Conflict", message, {"causes": causes})


def invalid(kind: Kind, name: str, problems: Iterable[tuple[str, str, str]]) -> RefusedError:
    """Say that the object has bad fields; problems are (reason, field, what is wrong)."""
    causes = [{"reason": reason, "message": message, "field": field} for reason, field, message in problems]
    listed = ", ".join(f"{cause['field'] or '<object>'}: {cause['message']}" for cause in causes)
    words = listed if len(causes) == 1 else f"[{listed}]"
    return RefusedError(
        422,
        "Invalid",
        f'{kind.full} "{name}" is invalid: {words}',
        {"name": name, "group": kind.group, "kind": kind.name, "causes": causes},
    )


def bad_request(message: str) -> RefusedError:
    """Say that the request itself makes no sense."""
    return RefusedError(400, "BadRequest", message)


def not_allowed(message: str) -> RefusedError:
    """Say that what was asked for is not done here."""
    return RefusedError(405, "MethodNotAllowed", message)


def forbidden(kind: Kind, name: str, why: str) -> RefusedError:
    """Say that this object can't be written."""
    message = f'{kind.resource} "{name}" is forbidden: {why}'
    return RefusedError(403, "Forbidden", message, _details(kind, name))


def gone(asked: int, oldest: int) -> RefusedError:
    """Say that the history does not reach back that far: list again."""
    return RefusedError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def deleted(kind: Kind, name: str, uid: str) -> dict[str, Any]:
    """Return the answer to a deletion that was done."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": _details(kind, name, uid=uid),
    }
