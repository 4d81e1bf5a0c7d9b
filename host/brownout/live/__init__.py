"""A run as it happens: a web page with server-sent events, the same in the terminal, and metrics for Prometheus.

    follow.py    reads the folder of a run while it is written        picture.py   what is known of it so far
    clients.py   who looks on, each with a bounded queue              app.py       the pages

The folder is the only thing between a run and those who watch it: whoever watches can neither slow it nor break it,
and a run that was started without `--live` can be watched as well. Must not judge, and must not write to the folder.
"""

from __future__ import annotations

from ..contracts import RigError


def require() -> None:
    """RigError where the extra `live` is not installed."""
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise RigError(f"the live page needs {error.name}: pip install 'brownout[live]'") from None
