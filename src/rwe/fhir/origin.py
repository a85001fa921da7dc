"""Origins: scheme, host and port. A credential belongs to one (RFC 6454)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

# Stricter than the standard, on purpose: parsers disagree about backslashes, user names and control
# characters in an address, and what one takes for the host another takes for something else.
_ADDRESS = re.compile(
    r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?(?=[/?#]|$)", re.IGNORECASE
)
_NEVER = re.compile(r"[\x00-\x1f\x7f\\]")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Origin:
    """Scheme, host (lower case) and port of an address."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of an absolute http(s) address. Raises ValueError, which does not name it."""
        found = None if _NEVER.search(url) else _ADDRESS.match(url)
        if found is None:
            raise ValueError("no plain http(s) address")
        scheme = found[1].lower()
        port = int(found[3]) if found[3] else _PORTS[scheme]
        if port > 65535:
            raise ValueError("no port")
        return cls(scheme, found[2].lower(), port)

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"
