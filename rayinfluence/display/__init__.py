"""What commands print: plain values, and three ways to show them.

A command makes a `Shown`; `show` prints it with colours on a terminal, as plain lines everywhere
else, or as one JSON object. What others wrote acts on no terminal in any of them: strings are made
visible here, and nowhere else has to be.
"""

from rayinfluence.display.show import json_alone, show
from rayinfluence.display.value import Column, Part, Shown, Table

__all__ = ["Column", "Part", "Shown", "Table", "json_alone", "show"]
