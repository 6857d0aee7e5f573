"""A joint embedding of sound and text: two towers after MuLan (section 3.5; Huang et al. 2022)."""
