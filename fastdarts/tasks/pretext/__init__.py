"""Learning from images without labels: rotation, jigsaw and colourisation, as UnNAS searches by them."""
