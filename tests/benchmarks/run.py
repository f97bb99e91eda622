"""Run the benchmark scripts one after the other; each prints JSON lines. `run.py estimate env` runs only those."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Exit status 1 if any script failed."""
    wanted = sys.argv[1:]
    scripts = sorted(HERE.glob("bench_*.py"))
    known = {script.stem.removeprefix("bench_"): script for script in scripts}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    results = [subprocess.run([sys.executable, known[name]], cwd=HERE).returncode for name in wanted or known]
    return 1 if any(results) else 0


if __name__ == "__main__":
    sys.exit(main())
