"""Memory cells: how long they remember, how often they can be written, what reading does to them."""
