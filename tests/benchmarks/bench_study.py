"""The whole study, default size, twice into fresh folders: with a cold and a warm compilation cache. Wall time and peak memory.

Uses all cores; the cache is a fresh folder. `--steps N` and other options of `tempo study` are passed on.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import report

CODE = "from rl.cli import main; main()"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        }
        for cache in ("cold", "warm"):
            command = [sys.executable, "-c", CODE, "study", "--out", str(Path(folder) / cache), *sys.argv[1:]]
            start = time.perf_counter()
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
            report("study", cache=cache, seconds=seconds, target_seconds=180.0, peak_bytes=float(peak), target_bytes=4e9)


if __name__ == "__main__":
    main()
