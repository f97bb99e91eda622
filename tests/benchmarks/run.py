"""Run the benchmark scripts one after the other; each prints JSON lines. `run.py estimate env` runs only those.

The C library is told to keep freed memory: else results beyond 128 kB are given back to the system after every call, and
the page faults of getting them again cost up to five times the arithmetic, in JAX and NumPy alike.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_TOP_PAD_": str(2**26)}


def main() -> int:
    """Exit status 1 if any script failed."""
    wanted = sys.argv[1:]
    scripts = sorted(HERE.glob("bench_*.py"))
    known = {script.stem.removeprefix("bench_"): script for script in scripts}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    results = [
        subprocess.run([sys.executable, known[name]], cwd=HERE, env=os.environ | KEEP_MEMORY).returncode
        for name in wanted or known
    ]
    return 1 if any(results) else 0


if __name__ == "__main__":
    sys.exit(main())
