"""Who decides: environments, agents, the rules they are judged against, and the study."""
