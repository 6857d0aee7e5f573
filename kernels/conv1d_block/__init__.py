"""conv1d_block: conv1d(swish(group_norm(x))) + bias + residual @ fc, in one pass over x."""
