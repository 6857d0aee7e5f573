"""`python -m noise2music` is the command `noise2music`.

`python -m noise2music --cmake-dir` prints the folder to give a C++ project's CMake as
`-Dnoise2music_DIR=...`.
"""

import sys
from pathlib import Path


def _cmake_dir() -> int:
    for folder in sorted(Path(__file__).parent.glob("lib*/cmake/noise2music")):
        print(folder)
        return 0
    print(
        "noise2music: --cmake-dir: the installation must have the native library, got one without; "
        "reinstall with a C++ compiler",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    if sys.argv[1:] == ["--cmake-dir"]:
        sys.exit(_cmake_dir())
    from noise2music.cli import main

    sys.exit(main())
