"""The three tiers of the router: what can run at all, what a trained tree says, what the whole cost model says."""
