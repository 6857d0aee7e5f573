"""What two rooms or more share: dispatch, argument checks, SIMD and random-number headers."""
