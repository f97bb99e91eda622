"""Where the bytes live and what it costs to move them: capacity regimes, residency, streaming, serving."""
