"""One night of one site in a process of its own, to be killed: extract, then bring it into the lake."""

from __future__ import annotations

import sys
from pathlib import Path

from rwe.config import open_workspace
from rwe.extract import extract_site
from rwe.lake.write import update_lake
from rwe.study import load_studies


def main() -> None:
    workspace = open_workspace(Path(sys.argv[1]))
    extract_site(workspace, sys.argv[2], load_studies(workspace.studies))
    update_lake(workspace)


if __name__ == "__main__":
    main()
