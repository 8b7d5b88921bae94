"""Measures an emulator: items to ask, their likelihoods and answers in every column, and what follows from them."""
