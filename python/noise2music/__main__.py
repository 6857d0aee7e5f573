"""`python -m noise2music` is the command `noise2music`."""

import sys

from noise2music.cli import main

if __name__ == "__main__":
    sys.exit(main())
