"""From images to features: one image, many images, many machines."""
