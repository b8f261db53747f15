"""Training a codec: what `train_codec.py` is made of.

Letters: B batch, N samples, T latents or codec frames, C codebook size, K streams.
"""
