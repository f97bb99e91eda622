"""Heat: lumped thermal networks, their exact steps, and packages shared by several processors."""
