"""Attribution methods behind one interface, and BM25 beside them."""
