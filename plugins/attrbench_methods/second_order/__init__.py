"""Influence functions: DataInf, LiSSA, K-FAC and EK-FAC."""
