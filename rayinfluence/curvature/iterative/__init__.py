"""Iterative solvers of (G + lambda I) x = v, with G known by its products alone.

A solve is a sequence of states. A state says which products it wants next, and what follows from
them is the next state: so products may be made anywhere, in any pieces, and a state may be stored
and gone on from.
"""
