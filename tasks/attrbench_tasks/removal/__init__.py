"""The MNIST removal experiment: train again without what a method ranks first."""
