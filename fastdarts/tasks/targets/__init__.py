"""Numbers and labels of images: regression, and any number of labels for each image."""
