"""The pages: words, tables and figures, made from results and arrays alone."""
