"""What a device reports of heat, clock and power, and whether it spoils a measurement."""
