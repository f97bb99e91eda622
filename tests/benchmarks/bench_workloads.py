"""Profiles: ResNet-8 from JAX and ResNet50 from ONNX in a process of their own, then found again in the cache."""

import statistics
import time
from pathlib import Path

import jax
import onnx
from timing import one_core, report

import workloads
from workloads.catalog import load_deployed
from workloads.importers.cache import PROFILES


def seconds(make) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    make()
    return time.perf_counter() - began


def main() -> None:
    one_core()
    deployed = load_deployed("resnet8")
    file = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
    sources = {
        "ResNet-8 from JAX": lambda: workloads.profile(deployed.apply, deployed.variables, deployed.image, weights=(0,)),
        "ResNet50 from ONNX": lambda: workloads.load(file),
    }
    for name, make in sources.items():
        first = seconds(make)  # imports included
        misses = []
        for _ in range(3):
            PROFILES.clear()
            jax.clear_caches()
            misses.append(seconds(make))
        hit = statistics.median(seconds(make) for _ in range(9))
        info = workloads.profile_cache_info()
        report(name, first_s=first, miss_s=min(misses), hit_s=hit, miss_over_hit=min(misses) / hit, hits=info.hits)


if __name__ == "__main__":
    main()
