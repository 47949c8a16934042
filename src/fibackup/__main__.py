"""``python -m fibackup``: the same as the command ``fibackup``."""

from __future__ import annotations

import sys

from fibackup.cli import main

if __name__ == "__main__":
    sys.exit(main())
