"""Rooms of the recommender: what it sees, its network, its training and how it is judged."""
