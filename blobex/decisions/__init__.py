"""Any model to explain, as one record: a Decision."""
