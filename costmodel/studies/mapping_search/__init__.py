"""Search over loop-nest mappings and the hardware under them: exhaustive, gradient, evolutionary, Bayesian, random; compared."""
