"""Teaches a student: teachers, their cached outputs, the weighted objective, QAT."""
