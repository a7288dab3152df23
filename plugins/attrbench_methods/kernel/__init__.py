"""Attribution methods that solve a ridge kernel over mean gradients: TRAK, D-TRAK, Journey-TRAK, DAS."""
