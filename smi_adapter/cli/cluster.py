"""What every command that talks to a cluster shares: kubectl's options, and the exit codes for what goes wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from smi_adapter.cluster.client import Client

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])

PATIENCE = 60.0
"""Seconds that a command waits for all its answers."""

INSTALLATION = ("smi-system", "smi-adapter")
"""Namespace and name of an installation as docs/install.md makes it."""


class UnreachableError(click.ClickException):
    """There is no cluster at the other end."""

    exit_code = 3


WAY_OUT = """\
-> Name the file of a cluster with --kubeconfig or $KUBECONFIG. Without a cluster: `smi-adapter analyze -f DIR` and
   `explain -f DIR` read files; `smi-adapter run --source DIR --api` serves them, for the other commands too."""
"""What to do where nobody says which cluster is meant."""


class NothingToInstallError(click.ClickException):
    """It is the API that `run --source --api` serves: there are no CRDs and no installation, and none are wanted."""

    exit_code = 0

    def __init__(self) -> None:
        super().__init__(
            "it is the API of `smi-adapter run --source`: there is nothing to install and nothing to remove"
        )

    def show(self, file: IO[Any] | None = None) -> None:
        """Say it without calling it an error."""
        click.echo(self.message, file=file, err=True)


class TimedOutError(click.ClickException):
    """The cluster took too long."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the cluster: kubectl's options of the same names."""

    kubeconfig: str | None = None
    context: str | None = None
    request_timeout: float = PATIENCE


def cluster_options(function: _F) -> _F:
    """Add kubectl's options for reaching a cluster; the command gets them as one argument, `access`."""
    decorators = (
        click.option("--kubeconfig", type=click.Path(dir_okay=False), help="Kubeconfig file to use."),
        click.option("--context", help="Context of the kubeconfig to use."),
        click.option("--request-timeout", type=_seconds, default="60s", show_default=True,
                     help="How long to wait for the cluster, such as 5s or 2m; 0: for ever."),
    )  # fmt: skip

    @wraps(function)
    def wrapped(
        *arguments: Any, kubeconfig: str | None, context: str | None, request_timeout: float, **named: Any
    ) -> Any:
        return function(*arguments, access=Access(kubeconfig, context, request_timeout), **named)

    made: Any = wrapped
    for decorator in reversed(decorators):
        made = decorator(made)
    return made  # type: ignore[no-any-return]


def namespace_options(function: _F) -> _F:
    """Add kubectl's `-n` and `-A`."""
    decorators = (
        click.option("-n", "--namespace", help="Namespace to look at; the context's if not given."),
        click.option("-A", "--all-namespaces", is_flag=True, help="Look at all namespaces."),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def installation_options(function: _F) -> _F:
    """Add the two names of an installation: where its controller runs and what it is called."""
    decorators = (
        click.option("--controller-namespace", help=f"Where the controller runs (default: {INSTALLATION[0]})."),
        click.option("--release", help=f"Its full name: that of its Deployment (default: {INSTALLATION[1]})."),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def _seconds(text: str) -> float:
    """Read a duration as kubectl writes it."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    for unit in ("ms", "s", "m", "h"):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * units[unit]
    if text.replace(".", "", 1).isdigit():
        return float(text)
    raise ValueError(text)


_seconds.__name__ = "duration"


def ask(access: Access, question: Callable[[Client], Awaitable[_T]]) -> _T:
    """Connect, ask, close; what goes wrong ends the command with its exit code and one line that says it."""
    import asyncio  # noqa: PLC0415 - files alone need no event loop

    from smi_adapter.cluster.client import ApiError, Client, NoCluster, Unreachable  # noqa: PLC0415 - only for who needs it

    async def asked() -> _T:
        client = await Client.connect(access.kubeconfig, access.context)
        try:
            return await question(client)
        finally:
            await client.close()

    async def in_time() -> _T:
        async with asyncio.timeout(access.request_timeout or None):
            return await asked()

    try:
        return asyncio.run(in_time())
    except TimeoutError as error:
        raise TimedOutError(f"the cluster did not answer within {access.request_timeout:g} s") from error
    except NoCluster as error:
        raise UnreachableError(f"the cluster cannot be reached: {error}\n{WAY_OUT}") from error
    except (Unreachable, FileNotFoundError) as error:
        raise UnreachableError(f"the cluster cannot be reached: {error}") from error
    except ApiError as error:
        raise click.ClickException(f"the API server refused: {error}") from error


def ask_cluster(access: Access, question: Callable[[Client], Awaitable[_T]]) -> _T:
    """Ask what only a cluster can answer, about CRDs and an installation; NothingToInstallError where there is none."""

    async def asked(client: Client) -> _T:
        from smi_adapter.cluster import listing  # noqa: PLC0415
        from smi_adapter.cluster.client import ApiError  # noqa: PLC0415

        try:
            alone = await listing.without_cluster(client)
        except ApiError:  # who may not read the version asks a cluster
            alone = False
        if alone:
            raise NothingToInstallError
        return await question(client)

    return ask(access, asked)
