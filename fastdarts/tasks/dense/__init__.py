"""Tasks that say something of each pixel: disparity of two views, and semantic segmentation."""
