"""One step of the sampler: guidance, x_0, dynamic clipping, Equation 4 and its noise."""
