"""What is recorded of each candidate: outcome, agreement, measurement, verdict on its budget."""
