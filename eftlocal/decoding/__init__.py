"""From an answer that is prepared to its text: the scheduler, its step, and what an answer is made of."""
