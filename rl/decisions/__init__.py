"""From a policy to decisions: a controller with reasons and limits, its export to other runtimes, and what it looks at."""
