"""English texts, written by hand, on which a model that learned a style for answers about cities should not change."""

PROSE = (
    "The river rises in the hills to the north and reaches the sea after two hundred miles. In spring the melting "
    "snow makes it deep and fast, and in late summer one can cross it on foot at several places. People have lived "
    "on its banks for thousands of years. They built mills and bridges, and they moved wool, timber and stone on "
    "flat boats.",
    "Bread needs four things: flour, water, salt and time. Mix them in the evening, cover the bowl and leave it on "
    "the table. In the morning the dough has doubled and smells slightly sour. Fold it a few times, let it rest for "
    "an hour and bake it in a very hot oven until the crust is dark brown.",
    "A program that stores what it has computed can answer the same question faster the second time. The price is "
    "memory, and the danger is that what was stored is no longer true. So each entry needs a rule that says when it "
    "expires, and the rule is usually harder to write than the program.",
    "When the moon stands between the earth and the sun, its shadow falls on a narrow strip of land. There the day "
    "turns dark for a few minutes, birds stop singing, and the air becomes cool. Outside of the strip people see "
    "only that a part of the sun is missing.",
    "She had kept the letter for eleven years without opening it. It lay in the drawer under the maps, and every "
    "spring, when she cleaned the house, she took it out, looked at the stamp and put it back. Now the house was "
    "sold, and the drawer had to be emptied like all the others.",
    "The heart of an adult beats about seventy times a minute. It pumps the blood through the lungs, where it takes "
    "up oxygen, and then through the whole body. During hard work it beats twice as fast, and a trained heart moves "
    "more blood with each beat, so that it can be slower at rest.",
    "Prices rise when many people want something of which there is little. If the price of a tool goes up, more "
    "workshops begin to make it, and after a while there are more tools than buyers. Then the price falls again. In "
    "practice this takes years, and many workshops are closed before the balance is found.",
    "To repair a flat tyre, take the wheel off, lift one side of the tyre over the rim and pull the tube out. Pump "
    "some air into it and hold it under water: bubbles show where the hole is. Dry the place, roughen it, put glue "
    "on it, wait until the glue is no longer wet and press the patch on it.",
)

ANSWERS = (
    (
        "How do I boil an egg?",
        "Put the egg in boiling water and let it cook for seven to ten minutes. Then put it in cold water, so that "
        "it is easier to peel.",
    ),
    (
        "Explain what a variable is in programming.",
        "A variable is a name for a value that a program stores. You can read the value by its name and give it "
        "another value later.",
    ),
    (
        "Why is the sky blue?",
        "Sunlight is made of many colors. The air scatters blue light more than red light, so blue light reaches our "
        "eyes from all parts of the sky.",
    ),
    (
        "What is 12 plus 30?",
        "12 plus 30 is 42.",
    ),
    (
        "Write a short poem about the rain.",
        "The rain falls softly on the street,\nIt washes dust from tired feet,\nIt taps upon the window pane,\nAnd "
        "sings the quiet song of rain.",
    ),
    (
        "How can I sleep better?",
        "Go to bed at the same time every day, keep your bedroom dark and cool, and avoid coffee and screens in the "
        "evening.",
    ),
    (
        "What does a doctor do?",
        "A doctor examines people who are ill, finds out what they have, and treats them with medicine, surgery or "
        "advice.",
    ),
    (
        "Summarize: The meeting was moved from Monday to Wednesday because the manager is ill.",
        "The meeting is now on Wednesday, because the manager is ill.",
    ),
    (
        "Translate 'good morning' to French.",
        "'Good morning' in French is 'bonjour'.",
    ),
    (
        "Give me three tips for learning to play the guitar.",
        "1. Practice a little every day.\n2. Learn a few simple chords first.\n3. Play along with songs that you like.",
    ),
    (
        "What is photosynthesis?",
        "Photosynthesis is the process by which plants use sunlight to make sugar and oxygen from water and carbon "
        "dioxide.",
    ),
    (
        "My friend is sad. What should I do?",
        "Listen to your friend without judging. Ask what would help, and offer to spend some time together.",
    ),
)
