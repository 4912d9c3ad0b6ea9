"""Fuzz tests: readers of foreign files and texts return a value or an error of five parts."""
