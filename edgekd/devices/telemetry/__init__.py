"""A device's temperature, clock and power, and their effect on a measurement."""
