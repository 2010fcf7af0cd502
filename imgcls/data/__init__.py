"""Image sets, decoding, loading and augmentation: a room each; import from them."""
