"""noise2music: text-conditioned music generation by a cascade of 1D diffusion U-Nets."""
