"""Who may ask what: the Host of every request, and the Origin and token of one that switches something.

A page of somebody else's, open in the same browser, can send requests to this machine. A name that it owns and points
here is refused by Host; a request across origins by Origin; and neither knows the token. Must not log the token.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

TOKEN_BYTES = 32
SCHEME = "Bearer "


def new_token() -> str:
    return secrets.token_urlsafe(TOKEN_BYTES)


def write_down(url: str, name: str) -> Path:
    """Put an address that holds a token into a file that its owner alone can read; the file."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    path = Path(state) / "brownout" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # what lies there may be open to others, or lead elsewhere
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(url + "\n")
    return path


def is_own_host(header: str | None) -> bool:
    """An address, or a name of this machine; any other name may be pointed here by somebody else."""
    if not header:
        return False
    try:
        name = urlsplit(f"//{header}").hostname
    except ValueError:
        return False
    if name is None:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in ("localhost", socket.gethostname().lower())
    return True


def refusal(method: str, headers: Mapping[str, str], token: str) -> tuple[int, str] | None:
    """(status, sentence) where a request to switch something is refused."""
    if method != "POST":
        return 405, "switches are asked by POST"
    host, origin = headers.get("host"), headers.get("origin")
    if not is_own_host(host):
        return 403, "this Host is not served here"
    if origin is None or origin.lower() != f"http://{host}".lower():
        return 403, "this Origin may not switch anything"
    given = headers.get("authorization", "")
    if not given.startswith(SCHEME) or not hmac.compare_digest(given[len(SCHEME) :].encode(), token.encode()):
        return 403, "the token is missing or wrong; it is in the address that `brownout serve` printed"
    return None
