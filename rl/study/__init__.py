"""The study: workloads in, report out."""
