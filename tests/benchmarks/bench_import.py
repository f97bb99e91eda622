"""import costmodel against import jax: median of paired fresh interpreters.

Rooms are imported when a name of theirs is first used, so the second figure is what a user waits for in the end.
"""

import statistics
import subprocess
import sys

from timing import report

CODE = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(statement: str) -> float:
    command = [sys.executable, "-c", CODE.format(statement)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    statements = {"import costmodel": "import", "from costmodel import estimate": "import and first use"}
    for statement, name in statements.items():
        seconds(statement)
        pairs = [(seconds("import jax"), seconds(statement)) for _ in range(11)]
        ratio = statistics.median(b / a for a, b in pairs)
        jax_s, costmodel_s = (statistics.median(column) for column in zip(*pairs, strict=True))
        report(name, jax_s=jax_s, costmodel_s=costmodel_s, ratio=ratio)


if __name__ == "__main__":
    main()
