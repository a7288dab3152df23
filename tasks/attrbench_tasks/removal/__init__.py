"""Tasks of the MNIST removal experiment: retrain without the images that a method ranks first, compare strokes."""
