"""Encoders and decoders that say maps of images: three kinds of cells, as in AutoDispNet."""
