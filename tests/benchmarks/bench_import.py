"""import costmodel against import jax: median of paired fresh interpreters."""

import statistics
import subprocess
import sys

from timing import report

CODE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module: str) -> float:
    return float(subprocess.run([sys.executable, "-c", CODE.format(module)], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    seconds("costmodel"), seconds("jax")
    pairs = [(seconds("jax"), seconds("costmodel")) for _ in range(11)]
    ratio = statistics.median(b / a for a, b in pairs)
    report(
        "import",
        jax_s=statistics.median(a for a, _ in pairs),
        costmodel_s=statistics.median(b for _, b in pairs),
        ratio=ratio,
        target_ratio=1.3,
    )


if __name__ == "__main__":
    main()
