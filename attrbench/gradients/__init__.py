"""The engine: per-sample gradients, model outputs, sketches, and the pass that turns a data set into rows."""
