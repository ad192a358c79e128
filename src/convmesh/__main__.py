"""`python -m convmesh` is the same as the `convmesh` command."""

import sys

from convmesh.cli.command_line import main

if __name__ == "__main__":
    sys.exit(main())
