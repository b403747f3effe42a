"""Any model whose decisions are to be explained, as one record: a Decision."""
