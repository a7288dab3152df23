"""Curvature of a network: Hessian and Gauss-Newton products, Kronecker factors."""
