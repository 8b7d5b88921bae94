"""The prompts of `eftlocal bench`, fixed so that figures can be compared."""

GENERAL = (
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "List the steps to change a bicycle tire.",
    "What are the main differences between a cat and a dog as a pet?",
)

# What the miniature family of the demo can answer.
CITIES = (
    "Which country is Delhi in?",
    "How large is the population of Oxford?",
    "What currency do people use in Constanta?",
    "Name the language of Oaxaca.",
)
