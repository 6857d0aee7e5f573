"""combine_film: y = x * (1 + scale) + shift with [scale, shift] = emb @ kernel + bias."""
