"""What the tests of this folder share."""

import sys

_checks = _failures = 0


def check(what, held):
    global _checks, _failures
    _checks += 1
    if not held:
        _failures += 1
        print(f"FAIL  {what}")


def finish():
    """Ends the program: status 1 if a check failed."""
    print(f"{_checks} checks, {_failures} failures")
    sys.exit(1 if _failures else 0)
