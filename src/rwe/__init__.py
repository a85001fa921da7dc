"""rwe: FHIR in, evidence out. Survival evidence from hospital FHIR servers, every night."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rwe")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0+unknown"
