"""Secrets lie in files that only their owner reads, or in variables of the environment."""

from __future__ import annotations

import os
from pathlib import Path

from rwe.errors import ConfigError


def refuse_if_others_read(path: Path, where: str) -> None:
    """Raises ConfigError if the file's mode lets anybody but its owner in."""
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"others can read {path}, which holds a secret", where=where, advice="chmod 600 it")


def read_secret(where: str, *, file: Path | None = None, variable: str | None = None) -> str:
    """The text of a secret, without white space around it.

    `where` is the site and the setting. Raises ConfigError where it is missing, empty, or open to others.
    """
    if variable is not None:
        text = os.environ.get(variable, "")
        if not text.strip():
            raise ConfigError(
                f"the variable {variable} of the environment is not set",
                where=where,
                advice="set it for the account that runs this",
            )
        return text.strip()
    if file is None:
        raise ConfigError("neither a file nor a variable is named", where=where)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is no text", where=where) from None
    except OSError:
        raise ConfigError(
            f"{file} cannot be read", where=where, advice="check the path, and who may read it"
        ) from None
    refuse_if_others_read(file, where)
    if not text.strip():
        raise ConfigError(f"{file} is empty", where=where)
    return text.strip()
