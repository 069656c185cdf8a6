"""Independent implementations to verify conversions against."""
