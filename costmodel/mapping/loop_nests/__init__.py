"""Loop-nest mappings of one layer onto an accelerator with levels of storage: accesses, energy and latency of each."""
