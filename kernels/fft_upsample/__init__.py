"""Band-limited resampling by a rational factor."""
