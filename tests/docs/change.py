"""Makes a change of a page in a file: ``python change.py FILE CHANGE``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.docs.pages import changed

if __name__ == "__main__":
    file, change = map(Path, sys.argv[1:])
    file.write_text(changed(file.read_text(encoding="utf-8"), change.read_text(encoding="utf-8")), encoding="utf-8")
