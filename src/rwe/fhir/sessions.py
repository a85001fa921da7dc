"""Sessions of `requests` as a site's settings want them: proxy, authorities, client certificate."""

from __future__ import annotations

import ssl
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from rwe import __version__
from rwe.config import Site
from rwe.errors import ConfigError
from rwe.fhir.origin import Origin
from rwe.fhir.secrets import refuse_if_others_read


def new_session(site: Site, retry: Retry, *, is_trusted: bool) -> requests.Session:
    """A session for the site's own origins, or one that shows neither its certificate nor its cookies."""
    session = requests.Session()
    session.trust_env = False  # .netrc, proxies and CA bundles of the environment decide nothing here
    session.headers.update(
        {
            "Accept": "application/fhir+json",
            "Accept-Encoding": "gzip",
            "User-Agent": f"rwe/{__version__}",
        }
    )
    session.verify = str(site.ca_file) if site.ca_file else True
    if site.proxy:
        session.proxies = {"https": site.proxy}  # plain http stays on this machine
    if is_trusted and site.client_cert_file and site.client_key_file:
        session.cert = (str(site.client_cert_file), str(site.client_key_file))
    if not is_trusted:
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=site.max_concurrency))
    return session


def listed_origins(name: str, site: Site) -> frozenset[Origin]:
    """The origins of `token_origins`. Raises ConfigError if one is none."""
    try:
        return frozenset(Origin.of(one) for one in site.token_origins)
    except ValueError:
        raise ConfigError(
            "an entry of token_origins is no https origin",
            where=f"site {name}",
            advice="write it as https://files.example.org",
        ) from None


def check_tls_files(name: str, site: Site) -> None:
    """Raises ConfigError where a certificate or key file is missing, open to others, or holds none."""
    where = f"site {name}"
    for field in ("ca_file", "client_cert_file", "client_key_file"):
        path: Path | None = getattr(site, field)
        if path is not None and not path.is_file():
            raise ConfigError(f"{field} is no file", where=where, advice=f"there is no {path}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if site.ca_file:
        try:
            context.load_verify_locations(site.ca_file)
        except (OSError, ValueError):
            raise ConfigError("ca_file holds no certificate in PEM form", where=where) from None
    if site.client_cert_file and site.client_key_file:
        refuse_if_others_read(site.client_key_file, f"{where}, client_key_file")
        try:  # the callback keeps an encrypted key from asking on the terminal
            context.load_cert_chain(site.client_cert_file, site.client_key_file, password=lambda: b"-")
        except (OSError, ValueError):
            raise ConfigError(
                "client_cert_file and client_key_file are no pair of certificate and open key, in PEM form",
                where=where,
            ) from None
