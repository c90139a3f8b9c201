"""Asking a running daemon, by its own HTTP pages."""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tta_daemon.errors import TtaError

NEARBY = "http://127.0.0.1:9464"
PATIENCE_S = 5.0


class NoAnswer(TtaError):  # noqa: N818 - named for what happened
    """Nothing that speaks HTTP listens there."""


def ask(
    url: str, path: str, *, method: str = "GET", token: str = "", patience_s: float = PATIENCE_S
) -> tuple[int, str]:
    """The status code and text of one page; with the bearer token, where there is one.

    Raises:
        NoAnswer: there is nobody to answer, or the address is none.
    """
    if not url.startswith(("http://", "https://")):
        raise NoAnswer(f"{url!r} does not start with http://")
    try:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        request = Request(url.rstrip("/") + path, method=method, headers=headers)  # noqa: S310 - the scheme was checked
        with urlopen(request, timeout=patience_s) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")
    except (OSError, ValueError) as error:
        raise NoAnswer(f"nothing answers at {url}: {getattr(error, 'reason', error)}") from error


def good(code: int) -> bool:
    """Whether a probe's answer is a yes."""
    return code == HTTPStatus.OK


def lines(table: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Nested values as lines for a person, names in full.

    >>> list(lines({"ready": True, "lag": {"images-0": 3}}))
    ['ready                            True', 'lag.images-0                     3']
    """
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from lines(value, f"{prefix}{name}.")
        else:
            yield f"{prefix + name:32} {value}"
