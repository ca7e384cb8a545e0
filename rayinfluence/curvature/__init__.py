"""Curvature, pure algebra: covariances, eigenbases, second moments, the EK-FAC operator."""
