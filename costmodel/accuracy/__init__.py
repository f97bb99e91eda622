"""What imperfect cells do to a network's answers: measured on real data, and in closed form."""
