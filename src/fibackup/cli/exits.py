"""
Exit codes, in one table; an unknown code means failure.

::

    0 ok      1 failed     2 usage     3 requirements not met     4 warnings
    5 some domains failed, others done            10 not a store  11 locked
    12 verification failed   13 domain busy, or its chain is not what we left
    128 + N ended by signal N (130: Ctrl-C)
"""

from __future__ import annotations

import fibackup as fb

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "OK",
    "REQUIREMENTS",
    "SOME_FAILED",
    "USAGE",
    "WARNINGS",
    "exit_code",
]

OK, FAILED, USAGE, REQUIREMENTS, WARNINGS, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

_CODES = {  # by name: the classes are imported when there is an error
    "PolicyError": USAGE,
    "RequirementError": REQUIREMENTS,
    "NotAStoreError": 10,
    "LockedError": 11,
    "VerifyError": 12,
    "ManifestError": 12,
    "DomainStateError": 13,
    "DomainBusyError": 13,
    "BlockJobError": 13,
    "StalePlanError": 13,
    "ChainError": 13,
    "CancelledError": INTERRUPTED,
}


def exit_code(error: BaseException) -> int:
    """
    Return the exit code for an error; a `StepError` has the one of its cause.

    Args:
        error: What was raised.

    Returns:
        1 to 130.

    Source:
        docs/errors.md.
    """
    cause = error.__cause__ if isinstance(error, fb.StepError) else None
    for kind in type(cause or error).__mro__:
        if kind.__name__ in _CODES:
            return _CODES[kind.__name__]
    return FAILED
