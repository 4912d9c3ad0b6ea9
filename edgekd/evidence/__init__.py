"""The evidence on each candidate: outcome, agreement, measurement and budget verdict."""
