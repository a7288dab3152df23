"""Curvature of a network's loss: Hessian and Gauss-Newton products with vectors, and Kronecker factors (K-FAC)."""
