"""Write the files that are generated from code, or with `--check` fail when one differs from what its generator makes now."""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Path of each generated file and the command whose standard output is its content.
GENERATED: dict[str, list[str]] = {
    "docs/cli.md": ["scripts/documentation.py", "cli"],
    "docs/rest.md": ["scripts/documentation.py", "rest"],
}


def main() -> int:
    """Return 0 when every generated file is as its generator makes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file differs")
    check = parser.parse_args().check
    differing = []
    for name, command in GENERATED.items():
        path = ROOT / name
        content = subprocess.run([sys.executable, *command], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
        if check and (not path.is_file() or path.read_bytes() != content):
            differing.append(name)
        elif not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    if differing:
        print(f"differ from what their generators make: {', '.join(differing)}; run make generated", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
