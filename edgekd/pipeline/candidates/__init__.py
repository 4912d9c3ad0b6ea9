"""The state that flows through the stages, and what several stages do to its candidates."""
