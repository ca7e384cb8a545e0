"""What people say of first hits whose methods they do not know: items, sheets, and what follows."""

from rayinfluence.analysis.reviewed.found import Reviewed, reviewed
from rayinfluence.analysis.reviewed.items import Drawn, Item, Review, chosen
from rayinfluence.analysis.reviewed.sheets import Sheet, read_sheet

__all__ = ["Drawn", "Item", "Review", "Reviewed", "Sheet", "chosen", "read_sheet", "reviewed"]
