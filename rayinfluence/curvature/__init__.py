"""Curvature, pure algebra: covariances, eigenbases, second moments, and the EK-FAC operator made of them."""
