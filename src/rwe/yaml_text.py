"""YAML as this project reads it: safe, and a key that stands twice is an error, not the last one wins."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


class YamlMistakeError(ValueError):
    """What is wrong with a YAML text, as a sentence part that shows no value of it."""


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
    lines: dict[Hashable, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if isinstance(key, Hashable):
            if key in lines:
                raise YamlMistakeError(f"the key {key!r} stands twice, in lines {lines[key]} and {line}")
            lines[key] = line
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(text: str) -> Any:
    """Parse one YAML document. Raises YamlMistakeError with the line of the first mistake."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        raise YamlMistakeError(f"line {mark.line + 1} is not YAML" if mark else "it is not YAML") from None
    except RecursionError:
        raise YamlMistakeError("it is nested too deeply") from None
    except YamlMistakeError:
        raise
    except ValueError:  # a date such as 2024-02-31
        raise YamlMistakeError("it holds a date that does not exist") from None
