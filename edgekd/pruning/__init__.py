"""What is removed from a network, and how its parts depend on each other."""
