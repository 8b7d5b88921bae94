"""The prompts of `eftlocal bench`. They are fixed, so that figures can be compared."""

GENERAL = (
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "List the steps to change a bicycle tire.",
    "What are the main differences between a cat and a dog as a pet?",
)

# Questions that the demo's tiny models can answer.
CITIES = (
    "Which country is Delhi in?",
    "How large is the population of Oxford?",
    "What currency do people use in Constanta?",
    "Name the language of Oaxaca.",
)

# The text that sweeps read. It is repeated until it fills a context.
PASSAGE = (
    "The harbour was built when ships were small, and the town grew around it street by street. Every morning the "
    "boats came in with the tide, and by noon the market had sold what they brought: herring, mussels, now and then a "
    "crate of lobsters. In 1874 the railway reached the coast. It carried fish to the capital in five hours, and in "
    "summer it carried visitors back, who walked along the pier, complained about the wind and bought postcards. The "
    "old lighthouse still stands at the end of the mole. Its lamp was replaced twice, first by gas and then by "
    "electric light, and its last keeper left a diary of thirty-one years in which the weather is never missing.\n\n"
)
