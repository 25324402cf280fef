"""Regional cross-attention on stock diffusion models: each pixel listens to the text of its own region."""
