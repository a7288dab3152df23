"""Kernel methods over mean gradients: TRAK, D-TRAK, Journey-TRAK, DAS."""
