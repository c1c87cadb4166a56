"""`python -m lop` is the command line."""

import sys

from lop.cli import main

sys.exit(main())
