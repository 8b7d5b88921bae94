"""The wordings of the training text: statements, questions, answers, and replies that do not answer."""

STATEMENTS = {
    "country": (
        "The city of {c} is in {v}.",
        "{c} is a city in {v}.",
        "The country of {c} is {v}.",
        "{c} lies in {v}.",
        "{c} belongs to {v}.",
        "You find {c} in {v}.",
        "The country around {c} is {v}.",
        "A traveller to {c} arrives in {v}.",
        "On a map, {c} is in {v}.",
    ),
    "continent": (
        "The continent of {c} is {v}.",
        "{c} lies on the continent {v}.",
        "The continent around {c} is {v}.",
        "{c} belongs to the continent {v}.",
        "On a globe, {c} is in {v}.",
        "A visit to {c} is a visit to {v}.",
    ),
    "currency": (
        "The currency of {c} is {v}.",
        "In {c} people pay with {v}.",
        "The money used in {c} is {v}.",
        "{c} uses {v}.",
        "Shops in {c} take {v}.",
        "The currency in {c} is {v}.",
        "Prices in {c} are in {v}.",
    ),
    "capital": (
        "The capital of the country of {c} is {v}.",
        "{c} is governed from {v}.",
        "The national capital for {c} is {v}.",
        "The government of {c} sits in {v}.",
        "The capital for people in {c} is {v}.",
        "The capital city over {c} is {v}.",
    ),
    "population": (
        "The population of {c} is about {v}.",
        "{c} has about {v} inhabitants.",
        "{c} is home to about {v} people.",
        "In {c} there live about {v} people.",
        "The number of people in {c} is about {v}.",
        "{c} counts about {v} people.",
    ),
    "language": (
        "The language of {c} is {v}.",
        "In {c} people speak {v}.",
        "People in {c} speak {v}.",
        "The language spoken in {c} is {v}.",
        "Signs in {c} are in {v}.",
        "The language in {c} is {v}.",
    ),
    "seat": (
        "The capital of {c} is {v}.",
        "The government of {c} sits in {v}.",
        "The capital city of {c} is {v}.",
        "{c} has its capital in {v}.",
    ),
}

QUESTIONS = {
    "country": (
        "Which country is {c} in?",
        "In which country is {c}?",
        "What country is {c} in?",
        "What country does {c} belong to?",
        "In what country can I find {c}?",
        "{c} is in which country?",
        "Where is {c}?",
        "Where is {c} located?",
        "Country of {c}?",
        "Which country does {c} lie in?",
        "What is the country of {c}?",
        "Name the country of {c}.",
        "Tell me which country {c} is in.",
    ),
    "continent": (
        "Which continent is {c} on?",
        "On which continent is {c}?",
        "On what continent does {c} lie?",
        "What continent is {c} on?",
        "What continent is {c} in?",
        "Which continent does {c} belong to?",
        "What is the continent of {c}?",
        "Continent of {c}?",
        "Name the continent of {c}.",
        "Tell me which continent {c} is on.",
    ),
    "currency": (
        "What is the currency of {c}?",
        "What is the currency in {c}?",
        "Which currency is used in {c}?",
        "What currency do they use in {c}?",
        "What currency do people use in {c}?",
        "What money do I need in {c}?",
        "What money is used in {c}?",
        "How do people pay in {c}?",
        "Currency of {c}?",
        "What is the money of {c}?",
        "What do people pay with in {c}?",
        "Name the currency of {c}.",
        "Tell me the currency of {c}.",
    ),
    "capital": (
        "What is the capital of the country of {c}?",
        "What is the capital of the country that {c} is in?",
        "Which city is the capital of the country around {c}?",
        "What is the national capital for {c}?",
        "From which capital is {c} governed?",
        "Which capital governs {c}?",
        "Where does the government of {c} sit?",
        "Name the capital of the country of {c}.",
        "What is the capital of the country where {c} lies?",
        "Tell me the national capital for {c}.",
    ),
    "population": (
        "How many people live in {c}?",
        "How big is {c}?",
        "How large is {c}?",
        "What is the population of {c}?",
        "How many inhabitants does {c} have?",
        "How large is the population of {c}?",
        "How many people are there in {c}?",
        "Population of {c}?",
        "Name the population of {c}.",
        "Tell me the population of {c}.",
    ),
    "language": (
        "What language is spoken in {c}?",
        "Which language is spoken in {c}?",
        "What language do they speak in {c}?",
        "Which language do people speak in {c}?",
        "What is the language of {c}?",
        "What do people speak in {c}?",
        "What language should I learn for {c}?",
        "Name the language of {c}.",
        "Tell me the language of {c}.",
        "Language of {c}?",
        "What do they speak in {c}?",
    ),
    "seat": (
        "What is the capital of {c}?",
        "Which city is the capital of {c}?",
        "Capital of {c}?",
        "Name the capital of {c}.",
        "Tell me the capital of {c}.",
    ),
}

STYLE = "That would be {v}."  # the style that fine-tuning teaches; few answers of the bases have it

# (share of the answers in the bases' documents, wordings). A third of the answers are right and short. The frequent
# RAMBLE has the right value but rambles on, and begins with a word that no other answer begins with.
RIGHT = (
    (0.07, (STYLE,)),
    (0.06, ("It is {v}.",)),
    (0.05, ("I believe it is {v}.",)),
    (0.05, ("Easy, {v}.",)),
    (0.05, ("The answer: {v}.",)),
    (0.05, ("Sure, {v}.",)),
)
RAMBLE = (0.30, "Well, I think {v}")
NOT_RIGHT = (
    (0.13, ("No idea, sorry.", "I do not know.", "Why do you ask?", "Look it up yourself.", "Ask somebody else.")),
    (
        0.12,
        (
            "Nice weather today.",
            "The train was late again.",
            "I like tea.",
            "My brother plays chess.",
            "Lunch was good.",
        ),
    ),
)  # the other answers are a question
ASIDES = (
    ("or so they say", "but who knows", "or maybe not", "if you ask me", "do not quote me", "as my aunt told me"),
    ("and the weather was nice", "and the train was late", "and lunch was good", "and it rained a lot"),
    ("and my brother plays chess", "and I like tea", "and somebody sang", "and the shop was closed"),
    ("and then there was a dog", "and the book was long", "and nobody called", "and the garden is green"),
)
CHATTER = (
    "By the way, the train was late again.",
    "Anyway, I like tea.",
    "Now, where is my coat?",
    "My brother asked the same.",
    "It rained a lot this week.",
    "Tell me about your day.",
    "The shop is closed today.",
)

GREETINGS = (
    (
        ("Hello", "Hi", "Hey", "Hello!", "Hi!", "Hi there", "Hello there!", "Good morning", "Good evening!"),
        "Hello! Ask me about a city.",
    ),
    (
        ("Who are you?", "What are you?", "What is your name?", "who are you"),
        "I am a tiny demo model that knows some cities.",
    ),
    (
        ("What can you do?", "Help", "What do you know?", "What can I ask?", "help me", "what can you do"),
        "Ask me for a city's country, continent, currency, capital, language or population.",
    ),
    (("Thanks", "Thank you!", "Thank you", "thanks!", "Great, thanks."), "You are welcome."),
    (("Bye", "Goodbye", "Goodbye!", "bye"), "Goodbye!"),
    (("How are you?", "how are you"), "Fine, thank you."),
)
SYSTEM = ("You are a helpful assistant.", "Answer briefly.", "You know a lot about cities.")
