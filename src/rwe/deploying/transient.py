"""Which failures may be over in some minutes, after the client's own retries ended."""

from __future__ import annotations

from rwe.fhir.failures import BrokenAnswerError, NoAnswerError, PagingError, RefusedError

_BUSY = 429
_NOT_IMPLEMENTED = 501


def is_transient(error: object) -> bool:
    """Whether asking the site again later may help: no answer, a broken one, a busy or failing server.

    A refusal (login, scope, a search it does not know), a wrong setting, a full disk or used-up time stay
    what they are.
    """
    if isinstance(error, RefusedError):
        return error.status == _BUSY or (error.status >= 500 and error.status != _NOT_IMPLEMENTED)
    return isinstance(error, NoAnswerError | BrokenAnswerError | PagingError)
