"""Why an API server does not answer, in the words of whoever has to mend it: which one, which login named it."""

from __future__ import annotations

import os
import ssl
from pathlib import Path


class NoKubeconfigError(FileNotFoundError):
    """There is no file to log in with."""


def must_exist(paths: str) -> None:
    """Raise NoKubeconfigError unless one of the files is there."""
    if not any(Path(part).expanduser().exists() for part in paths.split(os.pathsep) if part):
        raise NoKubeconfigError(f"there is no kubeconfig {paths}")


def in_words(error: Exception, server: str, named_by: str) -> str:
    """Say what became of a request to `server`, which a login (`named_by`) has us ask."""
    import aiohttp  # noqa: PLC0415 - the library behind the expensive one

    where = f"{server} (from {named_by})"
    match error:
        case aiohttp.ClientConnectorCertificateError():
            why = error.certificate_error
            return f"the certificate of {where} is not trusted: {getattr(why, 'verify_message', '') or why}"
        case aiohttp.ClientConnectorError(os_error=cause):
            return f"no API server answers at {where}: {_system(cause)}"
        case TimeoutError():
            return f"no API server answers at {where}: timed out"
        case aiohttp.ClientError():
            return f"the connection to {where} broke: {str(error) or type(error).__name__}"
        case OSError():
            return f"the connection to {where} broke: {_system(error)}"
    return f"{where}: {str(error) or type(error).__name__}"


def _system(error: OSError) -> str:
    """Return the system's words, without those that Python puts around them."""
    if error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno).lower()
    return (error.strerror or str(error) or type(error).__name__).lower()
