"""What a work pool's template lets a caller choose.

A job of a worker runs what its template's `job_configuration` says; where that holds a placeholder, as in
`"command": "{{ command }}"`, whoever begins a run fills it in. Prefect's own templates have one for the
command and one for the environment, and `prefect worker start` makes a missing pool with them. Source: "Work
pools: base job template" of Prefect's documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prefect.utilities.templating import find_placeholders

#: Where a job's configuration, or a container in a Kubernetes manifest, says what runs, with what variables.
_OF_WHAT_RUNS = frozenset({"command", "args", "env", "envFrom"})


def chosen_by_caller(template: Mapping[str, object]) -> tuple[str, ...]:
    """Which of command, arguments and environment the one who begins a run may choose, sorted.

    A fixed command or environment, without a placeholder, is none of them.
    """
    return tuple(sorted(set(_open(template.get("job_configuration")))))


def _open(part: object) -> Iterator[str]:
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key in _OF_WHAT_RUNS and find_placeholders(value):
                yield key
            else:
                yield from _open(value)
    elif isinstance(part, list):
        for value in part:
            yield from _open(value)
